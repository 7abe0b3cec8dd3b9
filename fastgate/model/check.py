"""Checks conditions between resources: names are unique, references exist.

All errors are reported at once, each with its path. Conditions that need the compiler (two routes
that match the same requests) are checked there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Protocol

from fastgate.errors import ConfigurationError
from fastgate.model import check_auth, check_listeners, check_splits, check_tls, check_upstreams
from fastgate.model.faults import did_you_mean
from fastgate.model.gateway import Duration, Gateway, Policy, Route, Service
from fastgate.model.overrides import overridable, override_faults
from fastgate.model.paths import literal_prefix
from fastgate.model.policy import Rules, cors_field
from fastgate.model.resolve import Resolver, own_limits
from fastgate.model.store_url import NO_DRIVER
from fastgate.model.units import Size

_FIELDS = {"rate": "limits", "quota": "quotas", "concurrency": "concurrency"}
"""The fields that contain limits of each kind."""
_NOBODY = frozenset({"consumer", "plan", "credential"})
"""Scopes that a request without a credential does not have."""
_LONGEST = Duration.parse("1d")
MOST_COLLECTED = Size.parse("1GiB")
"""Maximum of a request's body that is collected for a handler. The core has the same limit."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def check(gateway: Gateway) -> list[ConfigurationError]:
    """All errors between the resources of a document; empty if it is valid."""
    faults = [
        *_store(gateway),
        *_names(gateway),
        *_references(gateway),
        *check_tls.references(gateway),
        *check_auth.references(gateway),
        *_limit_names(gateway),
        *_times(gateway),
    ]
    if not faults:  # what follows reads references
        faults = [
            *_identity(gateway),
            *_counted_twice(gateway),
            *_collected(gateway),
            *_currencies(gateway),
            *_open_ended(gateway),
            *_unseen(gateway),
            *_overrides(gateway),
            *check_tls.relations(gateway),
            *check_auth.relations(gateway),
            *check_splits.relations(gateway),
        ]
    return _once(faults)


def _once(faults: list[ConfigurationError]) -> list[ConfigurationError]:
    """Without those that several variants of a route have in common."""
    return list({(fault.path, str(fault)): fault for fault in faults}.values())


def _store(gateway: Gateway) -> Iterator[ConfigurationError]:
    url = gateway.store.url
    if url is not None and url.kind == "postgresql" and find_spec("asyncpg") is None:
        yield ConfigurationError(NO_DRIVER.rstrip("."), "store.url")


def _currencies(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for plans in different currencies that one subscription could change between."""
    resolver, first = Resolver(gateway), list[tuple[str, str, bool, set[str]]]()
    for index, plan in enumerate(gateway.plans):
        if plan.price is None or not plan.price.currencies:
            continue
        currency = plan.price.currencies[0]
        services = {
            service.name
            for service in gateway.services
            if plan.name in resolver.plans_of(service.name)
        }
        fee = plan.price.flat is not None  # without one nothing is paid in advance
        for name, other, with_fee, theirs in first:
            apart = services and theirs and not services & theirs
            if other != currency and (fee or with_fee) and not apart:
                yield ConfigurationError(
                    f"the plan {plan.name!r} costs {currency} and the plan {name!r} {other}; a "
                    "subscription could change between them, and there are no exchange rates",
                    f"plans[{index}].price",
                    hint="Use one currency, or make the plans for different services.",
                )
                break
        first.append((plan.name, currency, fee, services))
    yield from _limit_currencies(gateway)


def _limit_currencies(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for spending limits: all spending must be in one currency."""
    own, spending = gateway.billing.currency, gateway.billing.spending
    limits = {"account": spending.account, "consumer": spending.consumer}
    limits["credential"] = spending.credential
    others = sorted(priced_in(gateway) - {own})
    for kind, limit in limits.items():
        if limit is None:
            continue
        path = f"billing.spending.{kind}.amount"
        if limit.amount.currency != own:
            yield ConfigurationError(
                f"spending is limited in {own}, the currency of `billing.currency`, not in "
                f"{limit.amount.currency}",
                path,
            )
        elif others:
            yield ConfigurationError(
                f"spending cannot be limited in {own} because there are prices in {others[0]}: "
                "there is no rate",
                path,
                hint="Use one currency for all prices, or leave the limit out.",
            )


def priced_in(gateway: Gateway) -> set[str]:
    """The currencies of all prices that wallets are charged in."""
    found = {route.price.currency for route in gateway.routes if route.price is not None}
    for plan in gateway.plans:
        if plan.price is not None:
            found.update(plan.price.currencies)
    return found


def require(gateway: Gateway) -> None:
    """Raise the errors of `check`: the first, with the rest in `others`."""
    faults = check(gateway)
    if faults:
        first = faults[0]
        first.others = tuple(faults[1:])
        raise first


def warnings(gateway: Gateway) -> list[ConfigurationError]:
    """Warnings: valid configuration that looks unintended, as errors that are not raised."""
    found: list[ConfigurationError] = []
    used = {service.upstream for service in gateway.services}
    if any(route.handler is not None for route in gateway.routes):
        used.update(upstream.name for upstream in gateway.upstreams)  # handlers call them by name
    served = {name for route in gateway.routes for name in route.services}
    named: set[str] = set()
    for names in (
        *(route.policies for route in gateway.routes),
        *(service.policies for service in gateway.services),
        *(plan.policies for plan in gateway.plans),
        gateway.default_policies,
    ):
        named.update(names)
    groups: tuple[tuple[str, Sequence[_Named], set[str | None] | set[str], str], ...] = (
        ("upstreams", gateway.upstreams, used, "no service uses it"),
        ("services", gateway.services, served, "no route uses it"),
        ("policies", gateway.policies, named, "nothing names it"),
    )
    for where, resources, uses, why in groups:
        for index, resource in enumerate(resources):
            if resource.name not in uses:
                found.append(ConfigurationError(f"{resource.name!r}: {why}", f"{where}[{index}]"))
    if any(peer.is_unix for peer in gateway.trusted_proxies) and not any(
        listener.bind.path for listener in gateway.listeners
    ):
        found.append(
            ConfigurationError(
                "'unix' trusts peers on Unix sockets, but no listener is a Unix socket",
                "trusted_proxies",
                hint="Add a listener with `bind: unix:/path`, or take `unix` out.",
            )
        )
    return [
        *check_listeners.warnings(gateway),
        *check_tls.warnings(gateway),
        *check_auth.warnings(gateway),
        *check_upstreams.warnings(gateway),
        *found,
        *_around_by_slashes(gateway),
        *_unmetered(gateway),
    ]


def _around_by_slashes(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Warnings for catch-all routes without authentication that match `//admin/x`: the upstream may
    serve it as `/admin/x`, which another route protects."""
    if gateway.merge_slashes:
        return
    upstream_of = {service.name: service.upstream for service in gateway.services}
    guarded: dict[str, list[Route]] = {}
    for route in gateway.routes:
        if route.auth.methods and route.service is not None:
            guarded.setdefault(upstream_of.get(route.service, ""), []).append(route)
    for index, route in enumerate(gateway.routes):
        if route.auth.methods or route.service is None:
            continue
        begins = tuple(literal_prefix(path) for path in route.patterns if path.endswith("*}"))
        for other in guarded.get(upstream_of.get(route.service, ""), ()):
            if any(path.startswith(begins) for path in other.patterns) and (
                not route.hosts or not other.hosts or set(route.hosts) & set(other.hosts)
            ):
                yield ConfigurationError(
                    f"{route.name!r} requires no credential and matches paths with empty segments, "
                    f"which the upstream may treat as paths of {other.name!r}, which does",
                    f"routes[{index}]",
                    hint="Unless the upstream keeps `//`, leave `merge_slashes` on.",
                )
                break


def _unmetered(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Warnings for meters that are exported to a payment provider but are never counted."""
    if gateway.billing.stripe is None:
        return
    prices = [plan.price for plan in gateway.plans if plan.price is not None]
    known = {unit.meter for price in prices for unit in price.per_unit} | {"requests"}
    for meter in gateway.billing.stripe.usage:
        if meter not in known:
            yield ConfigurationError(
                f"{meter!r}: no plan has a price for its units, so they are not counted",
                f"billing.stripe.usage.{meter}",
                hint=f"Counted: {', '.join(sorted(known))}.",
            )


# ---- names and references ---------------------------------------------------------------


def _twice(
    where: str, what: str, values: Iterable[tuple[str, str]]
) -> Iterator[ConfigurationError]:
    """Errors for repeated values; `values` are (path below the entry, value)."""
    first: dict[str, str] = {}
    for path, value in values:
        if value in first:
            yield ConfigurationError(
                f"{what} {value!r} is already used by {first[value]}", f"{where}{path}"
            )
        else:
            first[value] = f"{where}{path}".rpartition(".")[0]


def _names(gateway: Gateway) -> Iterator[ConfigurationError]:
    groups: dict[str, Sequence[_Named]] = {
        "listeners": gateway.listeners, "upstreams": gateway.upstreams,
        "services": gateway.services, "routes": gateway.routes, "policies": gateway.policies,
        "plans": gateway.plans, "consumers": gateway.consumers,
        "control.tokens": gateway.control.tokens, "certificates": gateway.certificates,
        "authorities": gateway.authorities, "acme": gateway.acme, "issuers": gateway.issuers,
    }  # fmt: skip
    for where, resources in groups.items():
        names = [(f"[{i}].name", resource.name) for i, resource in enumerate(resources)]
        yield from _twice(where, "the name", names)
    binds = [
        (f"listeners[{i}].bind", str(listener.bind))
        for i, listener in enumerate(gateway.listeners)
        if listener.bind.is_unix or listener.bind.port
    ]
    if gateway.control.bind.is_unix or gateway.control.bind.port:
        binds.append(("control.bind", str(gateway.control.bind)))
    yield from _twice("", "the address", binds)
    people = list(enumerate(gateway.consumers))
    yield from _twice("consumers", "the id", ((f"[{i}].id", c.ident) for i, c in people))
    seen: dict[str, str] = {}
    for i, consumer in people:
        for j, key in enumerate(consumer.keys):
            path = f"consumers[{i}].keys[{j}]"
            if key.hex in seen:
                yield ConfigurationError(f"the same key as {seen[key.hex]}", path)
            seen.setdefault(key.hex, path)


def _references(gateway: Gateway) -> Iterator[ConfigurationError]:
    upstreams = [upstream.name for upstream in gateway.upstreams]
    services = [service.name for service in gateway.services]
    policies = [policy.name for policy in gateway.policies]
    plans = [plan.name for plan in gateway.plans]

    # There may be 100,000 routes, so they are listed only where they are named.
    excepted = gateway.maintenance is not None and gateway.maintenance.except_
    routes = [route.name for route in gateway.routes] if excepted else []
    known = {
        "route": (routes, set(routes)),
        "upstream": (upstreams, set(upstreams)),
        "service": (services, set(services)),
        "policy": (policies, set(policies)),
        "plan": (plans, set(plans)),
    }

    def missing(kind: str, name: str | None, path: str) -> Iterator[ConfigurationError]:
        names, there = known[kind]
        if name is not None and name not in there:
            plural = "policies" if kind == "policy" else f"{kind}s"
            hint = did_you_mean(name, names, plural.capitalize())
            yield ConfigurationError(f"there is no {kind} {name!r}", path, hint=hint)

    def each(kind: str, names: Sequence[str], path: str) -> Iterator[ConfigurationError]:
        for j, name in enumerate(names):
            yield from missing(kind, name, f"{path}[{j}]")

    yield from each("policy", gateway.default_policies, "default_policies")
    if gateway.maintenance is not None:
        yield from each("route", gateway.maintenance.except_, "maintenance.except")
    for i, service in enumerate(gateway.services):
        yield from missing("upstream", service.upstream, f"services[{i}].upstream")
        yield from each("plan", service.plans, f"services[{i}].plans")
        yield from each("policy", service.policies, f"services[{i}].policies")
    for i, route in enumerate(gateway.routes):
        yield from missing("service", route.service, f"routes[{i}].service")
        for j, other in enumerate([] if route.split is None else route.split.to):
            yield from missing("service", other.service, f"routes[{i}].split.to[{j}].service")
        if route.mirror is not None:
            yield from missing("service", route.mirror.service, f"routes[{i}].mirror.service")
        yield from each("policy", route.policies, f"routes[{i}].policies")
    for i, plan in enumerate(gateway.plans):
        yield from each("service", plan.services, f"plans[{i}].services")
        yield from each("policy", plan.policies, f"plans[{i}].policies")
    for i, consumer in enumerate(gateway.consumers):
        yield from missing("plan", consumer.plan, f"consumers[{i}].plan")


def _variants(gateway: Gateway) -> Iterator[tuple[int, Route]]:
    """Each route with each of its services."""
    for i, route in enumerate(gateway.routes):
        for variant in route.variants:
            yield i, variant


def _owners(gateway: Gateway) -> Iterator[tuple[str, Rules]]:
    for i, route in enumerate(gateway.routes):
        yield f"routes[{i}]", route
    for i, service in enumerate(gateway.services):
        yield f"services[{i}]", service
    for i, plan in enumerate(gateway.plans):
        yield f"plans[{i}]", plan
    for i, policy in enumerate(gateway.policies):
        yield f"policies[{i}]", policy


def _limit_names(gateway: Gateway) -> Iterator[ConfigurationError]:
    for path, owner in _owners(gateway):
        groups = (
            ("limits", owner.limits), ("quotas", owner.quotas), ("concurrency", owner.concurrency)
        )  # fmt: skip
        for where, limits in groups:
            named = [(f"[{j}].name", limit.name) for j, limit in enumerate(limits) if limit.name]
            yield from _twice(f"{path}.{where}", "the name", named)


def _times(gateway: Gateway) -> Iterator[ConfigurationError]:
    times: list[tuple[str, Duration | None]] = [("drain_timeout", gateway.drain_timeout)]
    for i, upstream in enumerate(gateway.upstreams):
        at = f"upstreams[{i}]"
        times += [
            (f"{at}.timeouts.connect", upstream.timeouts.connect),
            (f"{at}.timeouts.write", upstream.timeouts.write),
            (f"{at}.timeouts.first_byte", upstream.timeouts.first_byte),
            (f"{at}.timeouts.idle", upstream.timeouts.idle),
            (f"{at}.keepalive.idle", upstream.keepalive.idle),
            (f"{at}.eject.within", upstream.eject.within),
            (f"{at}.eject.for", upstream.eject.for_),
        ]
        if upstream.health is not None:
            times += [
                (f"{at}.health.interval", upstream.health.interval),
                (f"{at}.health.timeout", upstream.health.timeout),
            ]
    times += [(f"services[{i}].timeout", s.timeout) for i, s in enumerate(gateway.services)]
    times += [(f"routes[{i}].timeout", r.timeout) for i, r in enumerate(gateway.routes)]
    times += [
        (f"services[{i}].idle_timeout", s.idle_timeout) for i, s in enumerate(gateway.services)
    ]
    times += [(f"routes[{i}].idle_timeout", r.idle_timeout) for i, r in enumerate(gateway.routes)]
    times += [(f"routes[{i}].deadline", r.deadline) for i, r in enumerate(gateway.routes)]
    for path, value in times:
        if value is not None and not 1_000_000 <= value.ns <= _LONGEST.ns:
            yield ConfigurationError(f"{value} is not from 1ms to 1d", path)


# ---- identity ---------------------------------------------------------------------------


def _identity(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for routes that do not identify callers but count by caller or need a plan."""
    resolver = Resolver(gateway)
    for i, route in _variants(gateway):
        if route.auth.identifies or route.retired:
            continue
        plans = resolver.plans_of(route.service) if route.service is not None else []
        if plans:
            yield ConfigurationError(
                f"the service {route.service!r} is only for the plans {', '.join(plans)}, but "
                "this route does not identify the caller",
                f"routes[{i}].auth",
                hint="Add `auth: api_key`.",
            )
        yield from _counts_nobody(resolver, i, route)


def _counts_nobody(resolver: Resolver, i: int, route: Route) -> Iterator[ConfigurationError]:
    said = route.limits or route.quotas or route.concurrency or route.policies
    if not said and not resolver.gateway.default_policies:
        return  # most routes of a large document
    defaults = {f"policy:{name}" for name in resolver.defaults(route)}
    for owned in resolver.route(route).limits:
        nobody = [scope for scope in owned.limit.by if scope in _NOBODY]
        if nobody:
            own = owned.owner.startswith("route:")
            default = owned.owner in defaults
            where = "default_policies" if default else "policies"
            where = f"{_FIELDS[owned.kind]}[{owned.position}].by" if own else where
            whose = "" if own else f" of the {owned.owner.replace(':', ' ')}"
            yield ConfigurationError(
                f"a {owned.kind}{whose} counts by {nobody[0]}, but this route does not identify "
                "the caller",
                f"routes[{i}].{where}",
                hint="Add `auth: api_key`, count by address, or write `default_policies: false`."
                if default
                else "Add `auth: api_key`, or count by address.",
            )


def _overrides(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for consumers' own limits that override no existing limit."""
    if not any(consumer.limits for consumer in gateway.consumers):
        return
    known = overridable(gateway)
    for i, consumer in enumerate(gateway.consumers):
        for name, message, hint in override_faults(consumer.limits, known):
            yield ConfigurationError(message, f"consumers[{i}].limits.{name}", hint=hint)


def _collected(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for handlers and validation with too large bodies: these are collected in memory."""
    resolver = Resolver(gateway)
    owners: list[Route | Service | Policy]
    owners = [*gateway.routes, *gateway.services, *gateway.policies]
    validating = any(owner.validate is not None for owner in owners)
    for i, route in _variants(gateway):
        handled = route.handler is not None or route.x402 is not None
        if route.retired or not (handled or validating):
            continue
        effective = resolver.route(route)
        if not handled and effective.validate is None:
            continue
        own = effective.max_body
        cap = gateway.caps.body if own is None else own
        if 0 < cap.bytes <= MOST_COLLECTED.bytes:
            continue
        said = f"up to {cap}" if cap.bytes else "of any size (0B)"
        if route.max_body is not None:
            whose = ""
        elif own is not None:
            whose = " as its policies say"
        else:
            whose = " as `caps.body` says"
        yield ConfigurationError(
            f"the {'handler' if handled else 'validation'} of this route would get bodies "
            f"{said}{whose}; they are kept in memory, "
            "and at most "
            f"{MOST_COLLECTED} is the most",
            f"routes[{i}].max_body",
            hint=f"Set `max_body` on the route, to {MOST_COLLECTED} or less.",
        )


def _open_ended(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Warnings for plans with included requests but no rule for further ones."""
    with_quotas = {policy.name for policy in gateway.policies if policy.quotas}
    for i, plan in enumerate(gateway.plans):
        if plan.price is None or not plan.price.open_ended:
            continue
        if not plan.quotas and with_quotas.isdisjoint(plan.policies):
            yield ConfigurationError(
                "there is no price for further requests, and no quota that refuses them",
                f"plans[{i}].price.included",
                hint="Give `overage`, or give the plan a quota.",
            )


def _unseen(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for settings of a route that could never have an effect."""
    yield from _unseen_headers(gateway)
    resolver = Resolver(gateway)
    for i, route in _variants(gateway):
        if route.match is not None and gateway.headers.underscores != "allow":
            for name in route.match.headers:
                if "_" in name:
                    yield ConfigurationError(
                        f"no request can match: headers with '_' in their name are "
                        f"{_DROPPED[gateway.headers.underscores]}",
                        f"routes[{i}].match.headers.{name}",
                        hint="Write '-', or `headers: {underscores: allow}`.",
                    )
        if not (route.cors or route.policies or gateway.default_policies):
            continue
        if resolver.route(route).cors is None:
            continue
        said = [] if route.respond is None else list(route.respond.headers)
        for rules in resolver.route(route).response_rules:
            said += [*rules.set, *rules.add, *rules.default]
        for name in filter(cors_field, said):
            yield ConfigurationError(
                f"the route has `cors`, which sets {name!r}; it cannot be set twice",
                f"routes[{i}]",
                hint="Set it with `cors`, or leave `cors` out.",
            )


def _unseen_headers(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for limits by headers that requests never have."""
    if gateway.headers.underscores == "allow":
        return
    for path, owner in _owners(gateway):
        for owned in own_limits("", owner):
            if any("_" in name for name in owned.limit.headers):
                yield ConfigurationError(
                    "all requests would share one count: headers with '_' in their name are "
                    f"{_DROPPED[gateway.headers.underscores]}",
                    f"{path}.{_FIELDS[owned.kind]}[{owned.position}].by",
                    hint="Write '-', or `headers: {underscores: allow}`.",
                )


_DROPPED = {"drop": "dropped", "reject": "refused"}


def _counted_twice(gateway: Gateway) -> Iterator[ConfigurationError]:
    """Errors for policies whose limits would count one request twice."""
    brings = {p.name for p in gateway.policies if own_limits("", p)}
    holders = dict.fromkeys(gateway.default_policies, "default_policies")
    groups: tuple[tuple[str, Sequence[Route | Service]], ...] = (
        ("routes", gateway.routes),
        ("services", gateway.services),
    )
    for where, owners in groups:
        for i, owner in enumerate(owners):
            for name in owner.policies:
                holders.setdefault(name, f"{where}[{i}]")
    for i, plan in enumerate(gateway.plans):
        for j, name in enumerate(plan.policies):
            if name in brings and name in holders:
                yield ConfigurationError(
                    f"the policy {name!r} has limits and is named by {holders[name]} too, so one "
                    "request would be counted twice",
                    f"plans[{i}].policies[{j}]",
                    hint="Make a separate policy for the plan.",
                )
