"""A consumer's own numbers for limits that have a name.

A limit that stands on a route, a service, a plan or in a policy, has a `name` and counts by
consumer or credential can have other numbers for one consumer. An override says only the numbers:
what is counted, the period and the refusal stay the limit's. It is found by the limit's kind and
name, so limits of one kind and name are overridden together, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastgate.model.faults import did_you_mean
from fastgate.model.gateway import Concurrency, Gateway, Limit, LimitOverride, Quota
from fastgate.model.resolve import OwnedLimit, own_limits

_OF_ONE = frozenset({"consumer", "credential"})
Known = Mapping[str, frozenset[str]]
"""Names of limits that can be overridden → their kinds."""


def override_name(kind: str, name: str) -> str:
    """What both sides are known by: the limits, and the consumers' own numbers for them."""
    return f"override:{kind}/{name}"


def can_be_overridden(limit: Limit | Quota | Concurrency) -> bool:
    """Whether consumers can have their own numbers for it."""
    return limit.name is not None and not _OF_ONE.isdisjoint(limit.by)


def overridable(gateway: Gateway) -> Known:
    """What of a document can be overridden."""
    found: dict[str, frozenset[str]] = {}
    for owned in _all(gateway):
        if owned.limit.name is not None and can_be_overridden(owned.limit):
            kinds = found.get(owned.limit.name, frozenset())
            found[owned.limit.name] = kinds | {owned.kind}
    return found


def _all(gateway: Gateway) -> Iterator[OwnedLimit]:
    for owners in (gateway.routes, gateway.services, gateway.plans, gateway.policies):
        for owner in owners:
            yield from own_limits("", owner)


def override_faults(
    overrides: Mapping[str, LimitOverride], known: Known
) -> Iterator[tuple[str, str, str]]:
    """What is wrong with a consumer's own numbers: name, message, hint."""
    for name, override in overrides.items():
        kinds = known.get(name)
        if kinds is None:
            yield (
                name,
                f"there is no limit {name!r} that counts by consumer",
                did_you_mean(name, known, "Such limits"),
            )
        elif override.kind not in kinds:
            kind = min(kinds)
            yield (
                name,
                f"the limit {name!r} is a {kind}, and has no {_MEMBER[override.kind]!r}",
                f"Write {_MEMBER[kind]!r}.",
            )


_MEMBER = {"rate": "rate", "quota": "requests", "concurrency": "max"}
