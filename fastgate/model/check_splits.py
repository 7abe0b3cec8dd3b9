"""Checks of splits: what their services must have in common."""

from __future__ import annotations

from collections.abc import Iterator

from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway, Route, Service
from fastgate.model.resolve import Resolver, own_limits

_CALLER = frozenset({"consumer", "plan", "credential"})


def relations(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for splits by consumer whose services differ in what comes before the caller is
    known: their policies (who may call from where, limits by address), and own limits by address.
    """
    resolver: Resolver | None = None
    for i, route in enumerate(gateway.routes):
        if route.split is None or route.split.sticky != "consumer" or route.service is None:
            continue
        resolver = resolver or Resolver(gateway)
        yield from _by_consumer(resolver, i, route, resolver.services[route.service])


def _by_consumer(
    resolver: Resolver, i: int, route: Route, own: Service
) -> Iterator[ConfigurationError]:
    assert route.split is not None
    for j, entry in enumerate(route.split.to):
        other = resolver.services[entry.service]
        if sorted(set(other.policies)) != sorted(set(own.policies)):
            yield ConfigurationError(
                f"the services {own.name!r} and {other.name!r} have different policies, some of "
                "which apply before the consumer is known who decides between them",
                f"routes[{i}].split.to[{j}].service",
                hint="Give both the same policies, or split by address or cookie.",
            )
    for service in [own, *(resolver.services[entry.service] for entry in route.split.to)]:
        for owned in own_limits("", service):
            by = set(owned.limit.by)
            if "address" in by and not by & _CALLER and not owned.limit.headers:
                yield ConfigurationError(
                    f"the service {service.name!r} has a limit by address, which applies before "
                    "the consumer is known who decides between the services",
                    f"routes[{i}].split.sticky",
                    hint="Move the limit to the route, or split by address or cookie.",
                )
                break
