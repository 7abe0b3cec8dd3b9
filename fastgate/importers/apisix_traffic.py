"""APISIX's traffic-split and proxy-mirror: other services that get part of a route's requests, or
copies of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastgate.importers.draft import Draft
from fastgate.importers.source import Fields
from fastgate.model.units import Share

WHOLE = 1_000_000
"""The parts of a Share."""
Match = Callable[[Fields], dict[str, Any] | None]
"""The `match` for the `vars` of an object; None: it cannot be expressed (reported)."""
ServiceOf = Callable[[Fields], str | None]
"""The service for an object with an upstream, inline or by its id; None: it has none."""


def split(config: Fields, route: dict[str, Any], match: Match, service_of: ServiceOf) -> None:
    """Give a route, which has its service, the split of a traffic-split."""
    found: list[dict[str, Any]] = []
    rules = config.sections("rules")
    for number, rule in enumerate(rules):
        services, conditions = _weights(rule, route["service"], service_of), []
        for one in rule.sections("match"):
            when = match(one)
            if when is not None:
                conditions.append(when)
            one.rest()
        rule.rest()
        if rule.raw("match"):
            others = [name for name, weight in services.items() if weight]
            if len(others) == 1 and others[0] != route["service"]:
                found += [{"service": others[0], "when": when} for when in conditions if when]
            else:
                rule.note("lost", "a rule with `match` can send requests to one other service")
            continue
        found += _shares(services, route["service"])
        if number + 1 < len(rules):
            config.note("lost", "rules after one without `match` are never reached")
        break
    config.rest()
    if found:
        route["split"] = found


def _weights(rule: Fields, own: str, service_of: ServiceOf) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in rule.sections("weighted_upstreams"):
        weight = one.whole("weight")
        service = own
        if one.has("upstream") or one.has("upstream_id"):
            service = service_of(one) or own
        found[service] = found.get(service, 0) + (1 if weight is None else weight)
        one.rest()
    return found


def _shares(services: dict[str, int], own: str) -> list[dict[str, Any]]:
    total = sum(services.values())
    return [
        {"service": name, "weight": str(Share(weight * WHOLE // total))}
        for name, weight in services.items()
        if name != own and total
    ]


def mirror(config: Fields, route: dict[str, Any], draft: Draft, wanted: str) -> None:
    """Give a route, which has its service, the mirror of a proxy-mirror."""
    host, ratio = config.text("host") or "", config.number("sample_ratio")
    config.lost(("path", "path_concat_mode"), "copies have the path of the original", "changed")
    config.rest()
    if not re.fullmatch(r"https?://[^/\s]+", host):
        config.note("lost", f"the mirror {host!r}: only http and https can be mirrored to", "host")
        return
    name = draft.name("upstreams", f"{wanted}-mirror")
    draft.add("upstreams", {"name": name, "targets": [host]}, config.path, config.name)
    service = draft.name("services", name)
    draft.add("services", {"name": service, "upstream": name}, config.path, config.name)
    share = WHOLE if ratio is None else int(ratio * WHOLE)
    route["mirror"] = {"service": service, "share": str(Share(share))}
