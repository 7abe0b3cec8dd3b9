"""The compiler: a configuration → the image that workers serve from; with the last validation.

    Gateway ──check──► names valid ─┬─ upstreams, targets, services, plans ─┐
                                    ├─ routes: rules, limits, rewriting ─────┼─► ImageBuilder ─► fd
                                    └─ routes: host, path, predicates ───────┴─► RouterBuilder

The compiler does everything that a worker would otherwise do for each request: policies are merged
and flattened, names become indexes and slots, text is rendered, paths and hosts are canonical.

- A route's limits are its own, its policies' and its service's, in one table. Those without an
  identity (counted only by address, route or service) come first, since they can refuse before a
  credential is looked up. Plans have separate tables.
- The key of a limit's count is a hash of its owner, kind and name (or position), so counts stay
  with the limit across reloads, even if other things change.
- Routes with equal rules share them: equal rules, limits and lists are in the image once. The
  common part of routes with the same service and policies is computed once.

Compiling changes only the given slot book. A configuration that is refused changes nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from fastgate._core.http.faults import FAULT_TEXTS
from fastgate._core.snapshot.bounds import verify_records
from fastgate._core.snapshot.image import NONE, ImageBuilder
from fastgate._core.snapshot.router_build import (
    RouteConflict,
    RouterBuilder,
    TrieTooBroad,
    method_mask,
    pattern_params,
    verify_router,
)
from fastgate._core.snapshot.snapshot import (
    PlanFlag,
    RouteFlag,
    Snapshot,
)
from fastgate._core.tls.keyring import authority_id
from fastgate._core.tokens.faults import TEXTS
from fastgate.config.auth_records import AuthRecords
from fastgate.config.listener_records import put_listeners
from fastgate.config.price_steps import price_steps, tariff
from fastgate.config.public_route import (
    NAME,
    Numbers,
    PublicSide,
    add_public_route,
    target_key,
    wanted,
)
from fastgate.config.rendering import (
    Found,
    canonical_path,
    notice,
    prefixes,
)
from fastgate.config.rules import PERIODS, RuleTables
from fastgate.config.settings_record import put_settings
from fastgate.config.slots import SlotBook
from fastgate.config.splits import rows_of, split_fields
from fastgate.config.traffic_records import Traffic, TrafficRecords
from fastgate.config.upstream_records import UpstreamRecords
from fastgate.errors import ConfigurationError
from fastgate.model import check
from fastgate.model.auth import MtlsAuth
from fastgate.model.gateway import (
    Cors,
    Gateway,
    Headers,
    Listener,
    Plan,
    Route,
    Service,
    Validate,
)
from fastgate.model.match import Match
from fastgate.model.paths import patterned_bits
from fastgate.model.resolve import Effective, Resolver
from fastgate.model.resolve_auth import all_upstreams
from fastgate.model.upstream import CLIENT_HOST, status_numbers
from fastgate.model.validation import validator_name
from fastgate.model.x402 import Place, terms_of
from fastgate.refusal.templates import Links, refusals

__all__ = ["CompiledImage", "SlotBook", "compile_gateway"]

NO_DESCRIPTIONS: Mapping[str, str] = {}
MAX_LIMITS = 24
"""Maximum limits for one request: those of its route, its service and its plan together."""

_ROUTE_FLAGS = {
    "encoded_slash": int(RouteFlag.ROUTE_ENCODED_SLASH),
    "preserve_host": int(RouteFlag.ROUTE_PRESERVE_HOST),
    "websocket": int(RouteFlag.ROUTE_WEBSOCKET),
    "retired": int(RouteFlag.ROUTE_RETIRED),
    "openai_errors": int(RouteFlag.ROUTE_OPENAI_ERRORS),
}
_VALIDATE = int(RouteFlag.ROUTE_VALIDATE)
_LIMIT_HEADERS = int(RouteFlag.ROUTE_LIMIT_HEADERS)
_ABANDONED_FREE = int(RouteFlag.ROUTE_ABANDONED_FREE)
_PLAN_ABANDONED_FREE = int(PlanFlag.PLAN_ABANDONED_FREE)
_LOG_OFF = int(RouteFlag.ROUTE_LOG_OFF)
_PRESERVE_HOST = int(RouteFlag.ROUTE_PRESERVE_HOST)
_CERTIFICATE_REQUIRED = int(RouteFlag.ROUTE_CERTIFICATE_REQUIRED)
_CERTIFICATE_FORWARD = int(RouteFlag.ROUTE_CERTIFICATE_FORWARD)
_SHED = {
    "low": int(RouteFlag.ROUTE_SHED | RouteFlag.ROUTE_SHED_FIRST),
    "normal": int(RouteFlag.ROUTE_SHED),
    "high": 0,
}


class CompiledImage(NamedTuple):
    """A compiled configuration, ready to be served."""

    fd: int
    """A sealed memfd with the image; the caller closes it."""
    generation: int
    listeners: list[Listener]
    """The listeners, as configured."""
    warnings: list[str]
    """Warnings about values that are valid but may be unintended."""


def compile_gateway(
    gateway: Gateway,
    *,
    generation: int,
    slots: SlotBook,
    addresses: Mapping[str, Sequence[Found]],
    public: PublicSide | None = None,
    key: bytes | None = None,
    descriptions: Mapping[str, str] = NO_DESCRIPTIONS,
) -> CompiledImage:
    """Compile a configuration.

    `slots` is updated; use a copy for a configuration that may not be served. `addresses`:
    "host:port" of targets with names → the resolved addresses; a target whose name is missing is
    compiled without an address and waits for one. `public`: where the gateway's own pages are
    served; without it, refusals have no links. `key`: the gateway's secret key, for values that
    clients get; None: the image will not be served, and secrets that it would need are not read.
    `descriptions`: the compiled descriptions of APIs that requests are validated against, by the
    path of their file; without it, the image cannot be served.

    Raises ConfigurationError with all dangling names, or the first other fault.
    """
    with _no_collections():
        return _Compilation(gateway, slots, addresses, public, key, descriptions).run(generation)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pause the cycle collector: there are no cycles, and it would visit every new object."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Shared(NamedTuple):
    """The handles and numbers that routes with equal rules share in the image."""

    limits: int
    limit_count: int
    addresses: int
    cors: Cors | None
    request_rules: int
    response_rules: int
    body_cap: int
    validator: int


_NO_HEADERS = Headers()
_NO_MATCH = Match()


class _Compilation:
    """One run of the compiler."""

    def __init__(
        self,
        gateway: Gateway,
        slots: SlotBook,
        addresses: Mapping[str, Sequence[Found]],
        public: PublicSide | None,
        key: bytes | None,
        descriptions: Mapping[str, str],
    ) -> None:
        self.gateway = gateway
        self.key = key
        self.descriptions = descriptions
        self.public = wanted(gateway, public)
        self.builtin = [NAME] if self.public is not None else []
        self.slots = slots
        self.addresses = addresses
        self.image = ImageBuilder()
        self.rules = RuleTables(self.image, gateway.headers.via, gateway.headers.server)
        self.router = RouterBuilder()
        self.warnings: list[str] = []
        self.upstreams: dict[str, int] = {}
        self.auths = AuthRecords(self.rules, gateway, self.upstreams)
        self.services: dict[str, int] = {}
        self.service_of: dict[str, Service] = {}
        self.host_of = {upstream.name: upstream.host for upstream in all_upstreams(gateway)}
        self._shared: dict[tuple[str | None, tuple[str, ...], bool], _Shared] = {}
        self._places: list[tuple[int, int]] = []  # of each route of the image: route, path

    def run(self, generation: int) -> CompiledImage:
        gateway = self.gateway
        check.require(gateway)
        self.warnings += [str(warning) for warning in check.warnings(gateway)]
        self.resolver = Resolver(gateway)
        self.traffic = TrafficRecords(
            self.image, self.rules, self.resolver, self.services, self._host
        )
        records = UpstreamRecords(self.image, self.slots, self.addresses, self.key, self.warnings)
        self.upstreams.update(records.put(gateway, self.builtin, self.public))
        self._plans()
        self._services()
        self._routes()
        self._public_route()
        self._answers()
        put_settings(self.image, gateway, self.rules.key_params)
        put_listeners(self.image, gateway)
        self.image.set_router(self._tables())
        fd = self.image.finish(generation)
        try:
            snapshot = Snapshot(fd, verify=True)
            verify_records(snapshot)
            verify_router(snapshot)
        except BaseException:
            os.close(fd)
            raise
        return CompiledImage(fd, generation, list(gateway.listeners), self.warnings)

    # ---- services and plans -----------------------------------------------------------------

    def _services(self) -> None:
        services = self.gateway.services
        names = [service.name for service in services]
        numbers = self.slots.allot("services", names + self.builtin)
        upstreams = {upstream.name: upstream for upstream in self.gateway.upstreams}
        for service in services:
            timeouts = upstreams[service.upstream].timeouts
            plans = sorted(self.slots.plans[plan] for plan in self.resolver.plans_of(service.name))
            self.services[service.name] = self.image.add_service(
                service.name,
                slot=numbers[service.name],
                upstream=self.upstreams[service.upstream],
                first_byte_ms=(service.timeout or timeouts.first_byte).ms,
                idle_ms=(service.idle_timeout or timeouts.idle).ms,
                attempts=service.retries.attempts,
                retry_budget=service.retries.budget.permille,
                retry_statuses=status_numbers(service.retries.statuses),
                plans=self.image.numbers(plans),
            )
            self.service_of[service.name] = service

    def _plans(self) -> None:
        plans = self.gateway.plans
        numbers = self.slots.allot("plans", [plan.name for plan in plans])
        units = tariff(plans, numbers, PERIODS)
        if units is not None and any(route.handler is not None for route in self.gateway.routes):
            self.image.add_handler(units)  # the first, where workers expect it
        self.plan_limits = 0
        for plan in plans:
            limits = self.resolver.plan_limits(plan)
            self.plan_limits = max(self.plan_limits, len(limits))
            steps = [] if plan.price is None else price_steps(plan.price)
            self.image.add_plan(
                plan.name,
                slot=numbers[plan.name],
                flags=_plan_flags(plan),
                limits=self.rules.limits(limits),
                prices=self.image.price_steps(list(steps)),
                price_currency=next(iter(plan.price.currencies), "") if plan.price else "",
                price_period=PERIODS[plan.price.period] if plan.price else 0,
            )

    # ---- routes ---------------------------------------------------------------------------

    def _routes(self) -> None:
        routes = self.gateway.routes
        rows = [row for route in routes if route.split is not None for row in rows_of(route)]
        self.rows = self.slots.allot(
            "routes", [route.name for route in routes] + self.builtin + rows
        )
        for index, route in enumerate(routes):
            try:
                self._route(index, route)
            except (ValueError, OverflowError) as error:
                raise ConfigurationError(str(error), f"routes[{index}]") from error

    def _policy(self, index: int, route: Route, auth: int) -> dict[str, Any]:
        """What it has in common with other routes, except for what depends on its path."""
        shared = self._rules_of(index, route)
        strip, replace = prefixes(route, f"routes[{index}].rewrite.strip_prefix")
        cors, host = shared.cors, self._host(route)
        return {
            "body_cap": shared.body_cap,
            "service": NONE if route.service is None else self.services[route.service],
            "handler": self._handler(index, route),
            "auth": auth,
            "cors": NONE if cors is None else self.rules.cors(cors, route.methods),
            "flags": self._flags(route, host) | (0 if shared.validator == NONE else _VALIDATE),
            "validator": shared.validator,
            "strip": strip,
            "timeout_ms": 0 if route.timeout is None else route.timeout.ms,
            "idle_ms": 0 if route.idle_timeout is None else route.idle_timeout.ms,
            "deadline_ms": 0 if route.deadline is None else route.deadline.ms,
            "replace": replace,
            "host": "" if host is None or host == CLIENT_HOST else host,
            "limits": shared.limits,
            "addresses": shared.addresses,
            "request_rules": shared.request_rules,
            "response_rules": shared.response_rules,
            "notice": notice(route),
            "price_micros": 0 if route.price is None else route.price.micros,
            "price_currency": "" if route.price is None else route.price.currency,
            "client_auth": self._client_auth(route),
        }

    def _with_traffic(self, policy: dict[str, Any], traffic: Traffic) -> dict[str, Any]:
        return {**policy, "flags": policy["flags"] | traffic.flags, "traffic": traffic.record}

    def _route(self, index: int, route: Route) -> None:
        """One record for each of its paths. They share all else: metrics row, policy, name."""
        mask, tokens = method_mask(route.methods)
        rewritten, location = route.rewritten, route.location
        fixed = NONE if route.respond is None else self.rules.static(route.respond)
        auth = self.auths.record(f"routes[{index}].auth", route.auth)
        variants = []
        if route.split is not None and route.service is not None:
            variants = [
                self._with_traffic(self._policy(index, variant, auth), self.traffic.of(variant))
                for variant in route.variants
            ]
        policy = self._policy(index, route, auth)
        if not variants:
            policy = self._with_traffic(policy, self.traffic.of(route))
        hosts = list(dict.fromkeys(route.hosts))
        for number, path in enumerate(route.patterns):
            pattern = self._pattern(f"routes[{index}].{route.place_of(number)}", path)
            names = tuple(pattern_params(pattern)) if "{" in pattern else ()
            if route.redirect is not None:
                fixed = self.rules.redirect(route.redirect.status, location, names)
            handle = count = 0
            segments = route.segments(number)
            if segments or route.match is not None:
                handle, count = self.rules.predicates(route.match or _NO_MATCH, segments)
            rewrite = self.rules.url(rewritten, names)
            if variants:
                policies = [self.image.add_policy(**each, rewrite=rewrite) for each in variants]
                split = split_fields(route, policies, self.rows, self.image, self.rules)
                policy = self._with_traffic(policy, self.traffic.of(route, split))
            added = self.image.add_route(
                route.name,
                slot=self.rows[route.name],
                methods=mask if route.methods else 0,
                priority=route.priority,
                tokens=self.rules.strings(tokens) if tokens else 0,
                pattern=pattern,
                predicates=handle,
                params=self.rules.strings(names) if names else 0,
                static_response=fixed,
                rewrite=rewrite,
                **policy,
            )
            self._places.append((index, number))
            self.router.add(
                added,
                route.name,
                hosts=hosts,
                pattern=pattern,
                methods=mask,
                tokens=tokens,
                ranking=(route.priority, count, handle, patterned_bits(pattern, segments)),
            )

    @property
    def _links(self) -> Links:
        base = (self.gateway.billing.public_url or "").rstrip("/")
        return Links(base, self.public is not None and self.public.pages)

    def _handler(self, index: int, route: Route) -> int:
        """The handler of a route: its own, or the one for payments of its service."""
        if route.x402 is None:
            return NONE if route.handler is None else self.image.add_handler(route.handler)
        if route.service is None:
            return NONE  # retired
        service = self.service_of[route.service]
        upstream = next(u for u in self.gateway.upstreams if u.name == service.upstream)
        place = Place(
            route=route.name,
            upstream=service.upstream,
            timeout=(route.timeout or service.timeout or upstream.timeouts.first_byte).seconds,
            problem_base=self._links.type_of(self.gateway.problems.base, ""),
            public_url=self._links.base,
            charge_abandoned=route.charge_abandoned,
            via=self.gateway.headers.via,
        )
        try:
            terms = terms_of(route.x402, place, self.gateway.billing.x402)
        except ValueError as error:
            raise ConfigurationError(str(error), f"routes[{index}].x402") from error
        return self.image.add_handler(terms.handler())

    def _rules_of(self, index: int, route: Route) -> _Shared:
        """A route's rules; computed once for all routes without their own rules."""
        own = (
            route.limits
            or route.quotas
            or route.concurrency
            or route.addresses is not None
            or route.cors is not None
            or route.max_body is not None
            or route.validate is not None
            or route.headers != _NO_HEADERS
        )
        key = (route.service, tuple(route.policies), route.default_policies)
        shared = None if own else self._shared.get(key)
        if shared is None:
            shared = self._share(self.resolver.route(route), route)
            if shared.limit_count + self.plan_limits > MAX_LIMITS:
                raise ConfigurationError(
                    f"a request can meet {shared.limit_count} limits of the route "
                    f"{route.name!r} and its service and {self.plan_limits} of a plan; "
                    f"together the maximum is {MAX_LIMITS}",
                    f"routes[{index}]",
                )
            if not own:
                self._shared[key] = shared
        return shared

    def _share(self, effective: Effective, route: Route) -> _Shared:
        limits = list(effective.limits)
        if route.service is not None:
            limits += self.resolver.service_limits(self.service_of[route.service])
        cap = effective.max_body or self.gateway.caps.body
        return _Shared(
            limits=self.rules.limits(limits),
            limit_count=len(limits),
            addresses=self.rules.addresses(effective.addresses),
            cors=effective.cors,
            request_rules=self.rules.headers(effective.request_rules),
            response_rules=self.rules.headers(effective.response_rules),
            body_cap=cap.bytes,
            validator=self._validator(effective.validate),
        )

    def _validator(self, validate: Validate | None) -> int:
        """The index of its validator. A validator is in the table of handlers."""
        if validate is None:
            return NONE
        assert validate.openapi is not None
        program = self.descriptions.get(validate.openapi.path, "")
        return self.image.add_handler(validator_name(validate, program))

    def _flags(self, route: Route, host: str | None) -> int:
        shown = route.limit_headers
        if shown is None:
            shown = self.gateway.headers.rate_limits
        flags = (_LIMIT_HEADERS if shown else 0) | (0 if route.log else _LOG_OFF)
        flags |= 0 if route.charge_abandoned else _ABANDONED_FREE
        flags |= _PRESERVE_HOST if host == CLIENT_HOST else 0
        flags |= _SHED[route.importance] if self.gateway.shedding is not None else 0
        if (client := route.client_certificate) is not None:
            flags |= _CERTIFICATE_REQUIRED if client.required else 0
            flags |= _CERTIFICATE_FORWARD if client.forward else 0
        for _, method in route.auth.methods:
            if isinstance(method, MtlsAuth):
                flags |= _CERTIFICATE_FORWARD if method.forward else 0
        if (
            route.encoded_slash
            or route.preserve_host
            or route.websocket
            or route.retired
            or route.openai_errors
        ):
            for name, flag in _ROUTE_FLAGS.items():
                if getattr(route, name):
                    flags |= flag
        return flags

    def _client_auth(self, route: Route) -> int:
        """The ids of the authorities of its client certificates."""
        if route.client_certificate is None:
            return 0
        names = sorted(set(route.client_certificate.authorities))
        return self.image.ids([authority_id(name) for name in names])

    def _host(self, route: Route) -> str | None:
        """The service's setting for Host: "client" or a name. None: the Host of the target, which
        is the upstream's name if it has one."""
        if route.service is None or route.preserve_host:
            return CLIENT_HOST if route.preserve_host else None
        service = self.service_of[route.service]
        if service.host is None and self.host_of[service.upstream] == CLIENT_HOST:
            return CLIENT_HOST
        return service.host

    def _pattern(self, place: str, path: str) -> str:
        pattern = canonical_path(path)
        if pattern is not path and not {".", ".."}.isdisjoint(pattern.split("/")):
            raise ConfigurationError(
                f"{path!r} has a dot segment; paths are matched without", place
            )
        return pattern

    # ---- the whole ------------------------------------------------------------------------

    def _public_route(self) -> None:
        if self.public is None:
            return
        slots = self.slots
        numbers = Numbers(
            route=slots.routes[NAME],
            service=slots.services[NAME],
            upstream=slots.upstreams[NAME],
            target=slots.targets[target_key(self.public)],
        )
        parts = (self.image, self.router, self.rules)
        add_public_route(self.gateway, self.public, numbers, parts)

    def _answers(self) -> None:
        """The gateway's own answers: refusals and the texts of parse faults."""
        gateway = self.gateway
        problems = gateway.problems
        found = refusals(problems.base, gateway.headers.server, self._links, problems.bodies)
        for refusal in found:
            self.image.set_refusal(
                refusal.number,
                fields=refusal.fields,
                body=refusal.body,
                status=refusal.status,
                close=refusal.close,
                html=refusal.html,
                markdown=refusal.markdown,
            )
        # They are inserted into JSON strings without escaping.
        texts = dict(enumerate(FAULT_TEXTS)) | TEXTS
        self.image.set_faults(
            [
                msgspec.json.encode(texts.get(number, "")).decode()[1:-1]
                for number in range(max(texts) + 1)
            ]
        )

    def _tables(self) -> bytes:
        """The router's tables, or the error that two routes are in conflict."""
        try:
            return self.router.build(self.image)
        except RouteConflict as error:
            raise self._conflict(error) from error
        except TrieTooBroad as error:
            raise ConfigurationError(
                str(error), "routes", hint="Use fewer parameters beside literal segments."
            ) from error

    def _conflict(self, error: RouteConflict) -> ConfigurationError:
        (first, one), (second, other) = self._places[error.first], self._places[error.second]
        routes = self.gateway.routes
        mine, theirs = routes[second], routes[first]
        path, rival = mine.patterns[other], theirs.patterns[one]
        place = f"routes[{second}]" + (f".{mine.place_of(other)}" if mine.paths else "")
        if mine is theirs:
            return ConfigurationError(
                f"the paths {rival!r} and {path!r} of the route {mine.name!r} are equivalent",
                place,
                hint="Remove one of them: names of parameters do not make paths different.",
            )
        paths = path if path == rival else f"{rival} and {path}"
        return ConfigurationError(
            f"the routes {theirs.name!r} and {mine.name!r} match the same requests "
            f"({error.host or 'any host'}, {paths})",
            place,
            hint="Make them differ by method, host or match, or give one a higher priority.",
        )


def _plan_flags(plan: Plan) -> int:
    price = plan.price
    return _PLAN_ABANDONED_FREE if price is not None and not price.charge_abandoned else 0
