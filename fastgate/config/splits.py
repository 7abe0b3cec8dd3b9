"""Splits as records of the image: what each service of a route gets.

Each service has a policy of its own there: what the route's would be if this were its service. So
its limits, its policies and its upstream are those of the requests that it gets.
"""

from __future__ import annotations

from typing import Any

from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import SplitBy, stable_hash
from fastgate.config.rules import RuleTables
from fastgate.config.sticky import SECURE, attributes_of
from fastgate.model.gateway import Route, Split, SplitCookie

SEPARATOR = "/"
"""Between the names of a route and a service, in the names of metrics rows. Not part of a name."""
_BY = {
    None: SplitBy.SPLIT_BY_TURNS,
    "consumer": SplitBy.SPLIT_BY_CONSUMER,
    "address": SplitBy.SPLIT_BY_ADDRESS,
    "cookie": SplitBy.SPLIT_BY_COOKIE,
}
_TAG = 0xFFFFFFFF


def services_of(route: Route) -> list[str]:
    """Its services, in the order of `Route.variants`."""
    return [variant.service for variant in route.variants if variant.service is not None]


def rows_of(route: Route) -> list[str]:
    """The names of the metrics rows of its services; none if it is not split."""
    if route.split is None or route.service is None:
        return []
    return list(dict.fromkeys(row_of(route, service) for service in services_of(route)))


def row_of(route: Route, service: str) -> str:
    """The name of one."""
    return f"{route.name}{SEPARATOR}{service}"


def is_row_of_split(name: str) -> bool:
    """Whether a metrics row with this name is a service's, not a route's."""
    return SEPARATOR in name


def parts_of(row: str) -> tuple[str, str]:
    """The route and the service of a row with such a name."""
    route, _, service = row.partition(SEPARATOR)
    return route, service


def split_fields(
    route: Route,
    policies: list[int],
    rows: dict[str, int],
    image: ImageBuilder,
    rules: RuleTables,
) -> dict[str, Any]:
    """The fields of a traffic_rec. policies: of the variants. rows: metrics rows by name."""
    split = route.split
    assert split is not None
    assert route.service is not None
    others = [
        image.split(
            policy=policy,
            row=rows[row_of(route, each.service)],
            weight=each.parts,
            tag=_tag(split, each.service) if each.weight is not None else 0,
            when=0 if each.when is None else rules.predicates(each.when)[0],
        )
        for policy, each in zip(policies[1:], split.to, strict=True)
    ]
    own = image.split(
        policy=policies[0],
        row=rows[row_of(route, route.service)],
        weight=split.rest.parts,
        tag=0,
    )
    fields: dict[str, Any] = {
        "split": image.table([*others, own]),
        "split_by": int(_BY[split.sticky]),
        "split_seed": stable_hash(route.service),
    }
    if split.sticky == "cookie":
        cookie = split.cookie or SplitCookie()
        fields["split_cookie"] = image.sticky(
            cookie.cookie, attributes=attributes_of(cookie), secure=int(SECURE[cookie.secure])
        )
    return fields


def _tag(split: Split, service: str) -> int:
    """What names the service in cookies: a hash, since its name is nobody else's business."""
    return (stable_hash(service) & _TAG or 1) if split.sticky == "cookie" else 0
