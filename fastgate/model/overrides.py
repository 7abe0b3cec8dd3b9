"""A consumer's own numbers for limits that have a name.

A limit of a route, a service, a plan or a policy can have different numbers for one consumer, if it
has a `name` and counts by consumer or credential. An override has only the numbers: what is
counted, the period and the refusal stay those of the limit. It applies by the limit's kind and
name, so all limits with the same kind and name are overridden together.
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
    """The kind and name of limits, by which consumers' own numbers are matched."""
    return f"override:{kind}/{name}"


def can_be_overridden(limit: Limit | Quota | Concurrency) -> bool:
    """Whether consumers can have their own numbers for the limit."""
    return limit.name is not None and not _OF_ONE.isdisjoint(limit.by)


def overridable(gateway: Gateway) -> Known:
    """The limits of a document that can be overridden."""
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
    """The errors in a consumer's own numbers: name, message, hint."""
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
