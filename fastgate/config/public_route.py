"""The built-in routes: what the control process answers itself, on every listener and host.

    client ─ worker ─ /_fastgate/{rest*} ──────────────────┬─ unix:<state>/public.sock ─ control
                    └ /.well-known/acme-challenge/{token} ─┘

The control process serves the pages of reasons, diagnoses of refusals, top-up and account pages,
and the payment providers' webhooks (`portal/app.py`). `billing.public: off` removes their route.
It also answers challenges of ACME authorities (`portal/challenges.py`); that route is there while
a certificate is ordered by http-01. Workers forward to control like to any upstream, so it needs no
separate port, and TLS, logs and limits are the same.

- The routes have no authentication. A credential passes through, and the pages check it.
- Requests of one address are limited, since one process, which has other work, answers all of them.
  Webhooks have a separate limit, which no provider reaches.
- A host with a route that would match these paths (`/{rest*}`, `/{anything}/…`) has the built-in
  ones too: a longer literal wins. Configured routes may not use the prefixes; those of challenges
  they may use for hosts whose certificates are not ordered by http-01.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fastgate._core.snapshot.image import NONE, ImageBuilder
from fastgate._core.snapshot.router_build import RouterBuilder, method_mask
from fastgate._core.snapshot.snapshot import RouteFlag, stable_hash
from fastgate.config.rendering import canonical_path
from fastgate.config.rules import RuleTables
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway, Limit, Rate, Route
from fastgate.model.paths import literal_prefix
from fastgate.model.resolve import OwnedLimit
from fastgate.model.resolve_tls import acme_of
from fastgate.refusal.remedies import PREFIX
from fastgate.sockaddr import UNIX_PATH_MOST, pack_unix

NAME = "_fastgate"
"""The name of the route, its service and its upstream; configured names start with a letter."""
PATTERN = f"{PREFIX}/{{rest*}}"
LINK_PARAM = "cap"
"""The query parameter with the token of a refusal's links. The token alone gives access."""
BODY_CAP = 1 << 20
"""Maximum bytes of a body; webhooks have about ten thousand."""
LIMIT = Limit(name="fastgate-pages", rate=Rate.parse("20/s"), burst=100, by=["address"])
WEBHOOKS_PATTERN = f"{PREFIX}/webhooks/{{rest*}}"
WEBHOOKS = Limit(name="fastgate-webhooks", rate=Rate.parse("100/s"), burst=2000, by=["address"])
"""The limit for webhooks. A provider sends all events from a few addresses, thousands at the turn
of a month; the limit is far above that. It is needed because only control can check signatures."""
CHALLENGES = "/.well-known/acme-challenge/"
CHALLENGES_PATTERN = f"{CHALLENGES}{{token}}"
CHALLENGES_LIMIT = Limit(
    name="fastgate-challenges", rate=Rate.parse("50/s"), burst=200, by=["address"]
)
"""An authority looks from a few addresses, once or a few times for each host."""
FIRST_BYTE_MS = 15_000
CONNECT_MS = 2_000
IDLE_MS = 10_000
CONNECTIONS = 32
"""Maximum concurrent requests from each worker to the control process."""


class PublicSide(NamedTuple):
    """What the built-in routes need."""

    socket: str
    """Path of the Unix socket on which the pages are served."""
    key: bytes
    """16 secret bytes, for the tokens in the links of refusals."""
    pages: bool = True
    """Whether there is a route to the pages."""
    challenges: bool = False
    """Whether there is a route to the answers of challenges."""


class Numbers(NamedTuple):
    """The slots of the built-in route, its service and its upstream."""

    route: int
    service: int
    upstream: int
    target: int


def wanted(gateway: Gateway, public: PublicSide | None) -> PublicSide | None:
    """The public side, with the routes that this configuration has; None: it has none of them.
    Raises ConfigurationError."""
    if public is None:
        return None
    proved = hosts_proved_by_http(gateway)
    public = public._replace(pages=gateway.billing.public != "off", challenges=bool(proved))
    if not public.pages and not public.challenges:
        return None
    if len(public.socket.encode()) > UNIX_PATH_MOST:
        raise ConfigurationError(
            f"the path of the socket {public.socket} is too long for the operating system",
            "billing.public" if public.pages else "certificates",
            hint="Choose a state directory with a shorter path"
            + (", or write `public: off`." if public.pages else "."),
        )
    for index, route in enumerate(gateway.routes):
        for number, path in enumerate(route.patterns):
            place = f"routes[{index}].{route.place_of(number)}"
            _check_free(f"{_canonical(path)}/", route, public, proved, place)
    return public


def _check_free(
    path: str, route: Route, public: PublicSide, proved: Sequence[str], place: str
) -> None:
    if public.pages and path.startswith(f"{PREFIX}/"):
        raise ConfigurationError(
            f"paths below {PREFIX}/ are the gateway's own pages",
            place,
            hint="Choose another path, or write `billing: {public: off}`.",
        )
    mine = not route.hosts or _leads(route.hosts, proved)
    if public.challenges and path.startswith(CHALLENGES) and mine:
        raise ConfigurationError(
            f"the gateway answers paths below {CHALLENGES} itself, to prove the hosts of "
            "certificates that it orders",
            place,
            hint="Choose another path, give the route other hosts, or order the certificates with "
            "`challenge: tls-alpn-01`.",
        )


def hosts_proved_by_http(gateway: Gateway) -> list[str]:
    """The hosts of certificates that are ordered by http-01."""
    found = []
    for certificate in gateway.certificates:
        acme = None if certificate.acme is None else acme_of(gateway, certificate.acme)
        if acme is not None and acme.challenge == "http-01":
            found += certificate.hosts
    return found


def _leads(hosts: Iterable[str], proved: Sequence[str]) -> bool:
    """Whether a route with these hosts gets requests for one of the others."""
    return any(
        host == each or (host.startswith("*.") and each.endswith(host[1:]))
        for host in hosts
        for each in proved
    )


def _canonical(path: str) -> str:
    try:
        return canonical_path(path)
    except ValueError:
        return path  # the compiler reports its error


def target_key(public: PublicSide) -> str:
    """The target's key in the slot book."""
    return f"{NAME} unix:{public.socket}"


def add_public_route(
    gateway: Gateway,
    public: PublicSide,
    numbers: Numbers,
    parts: tuple[ImageBuilder, RouterBuilder, RuleTables],
) -> None:
    """Add the routes, their service and their upstream to the image, after all others."""
    image, router, rules = parts
    any_method, _ = method_mask([])
    upstream = image.add_upstream(
        NAME,
        slot=numbers.upstream,
        connect_ms=CONNECT_MS,
        keepalive_idle_ms=IDLE_MS,
        keepalive_max=4,
        max_connections=CONNECTIONS,
    )
    image.add_target(
        f"unix:{public.socket}",
        identity=stable_hash(f"target:{target_key(public)}"),
        slot=numbers.target,
        sockaddr=pack_unix(public.socket),
        authority="localhost",
    )
    service = image.add_service(
        NAME,
        slot=numbers.service,
        upstream=upstream,
        first_byte_ms=FIRST_BYTE_MS,
        idle_ms=FIRST_BYTE_MS,
    )
    for index, route in enumerate(_routes(gateway, public)):
        number = image.add_route(
            NAME,
            slot=numbers.route,
            service=service,
            handler=NONE,
            static_response=NONE,
            auth=NONE,
            cors=NONE,
            body_cap=BODY_CAP,
            flags=int(RouteFlag.ROUTE_PRESERVE_HOST | route.flags),
            limits=rules.limits([OwnedLimit(f"builtin:{NAME}", "rate", index, route.limit)]),
            pattern=route.pattern,
            params=rules.strings((route.param,)),
        )
        router.add(number, NAME, hosts=route.hosts, pattern=route.pattern, methods=any_method)
    image.set_capability_key(public.key)


class _BuiltIn(NamedTuple):
    """A built-in route."""

    pattern: str
    param: str
    limit: Limit
    hosts: list[str]
    flags: int = 0


def _routes(gateway: Gateway, public: PublicSide) -> Iterator[_BuiltIn]:
    """The built-in routes of a configuration."""
    if public.pages:
        hosts = _hosts_of(gateway, f"{PREFIX}/")
        yield _BuiltIn(PATTERN, "rest", LIMIT, hosts)
        yield _BuiltIn(WEBHOOKS_PATTERN, "rest", WEBHOOKS, hosts)
    if public.challenges:
        proved = hosts_proved_by_http(gateway)
        hosts = [
            host for host in _hosts_of(gateway, CHALLENGES) if not host or _leads([host], proved)
        ]
        # Challenges come before there is a certificate to redirect to.
        clear = RouteFlag.ROUTE_CLEAR_TOO
        yield _BuiltIn(CHALLENGES_PATTERN, "token", CHALLENGES_LIMIT, hosts, clear)


def _hosts_of(gateway: Gateway, prefix: str) -> list[str]:
    """Any host, plus each host with a route that would otherwise match paths with this prefix."""
    hosts = {
        host: None
        for route in gateway.routes
        if any(_may_match(path, prefix) for path in route.patterns)
        for host in route.hosts
    }
    return ["", *hosts]


def _may_match(path: str, prefix: str) -> bool:
    literal = literal_prefix(_canonical(path))
    return literal != path and prefix.startswith(literal)
