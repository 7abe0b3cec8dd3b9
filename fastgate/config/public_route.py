"""The built-in route: `/_fastgate/…` leads to the gateway's own pages, on every listener and host.

    client ─ worker ─ /_fastgate/{rest*} ─ unix:<state>/public.sock ─ control (portal/app.py)

Pages of reasons, diagnoses of refusals, top-up and account pages and the payment providers'
webhooks are served by the control process; workers forward to it as to any upstream, so no port
is opened for them, and TLS, logs and limits are the same. `billing.public: off` leaves it out.

- It has no authentication of its own, so a credential that is sent passes through and the pages
  look at it.
- What one address asks is limited, since all of it ends in one process that has other work;
  webhooks have a limit of their own, which no provider reaches.
- A host with a route that would take these paths (`/{rest*}`, `/{anything}/…`) has the built-in one
  beside it: a longer literal wins. Routes may not claim the prefix themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from fastgate._core.snapshot.image import NONE, ImageBuilder
from fastgate._core.snapshot.router_build import RouterBuilder, method_mask
from fastgate._core.snapshot.snapshot import RouteFlag, stable_hash
from fastgate.config.rendering import canonical_path
from fastgate.config.rules import RuleTables
from fastgate.errors import ConfigurationError
from fastgate.model.gateway import Gateway, Limit, Rate
from fastgate.model.resolve import OwnedLimit
from fastgate.refusal.remedies import PREFIX
from fastgate.sockaddr import UNIX_PATH_MOST, pack_unix

NAME = "_fastgate"
"""Of the route, its service and its upstream; no configured name begins with a sign."""
PATTERN = f"{PREFIX}/{{rest*}}"
LINK_PARAM = "cap"
"""The query parameter with the token of a refusal's links. The token alone gives access."""
BODY_CAP = 1 << 20
"""Bytes; webhooks have some ten thousand."""
LIMIT = Limit(name="fastgate-pages", rate=Rate.parse("20/s"), burst=100, by=["address"])
WEBHOOKS_PATTERN = f"{PREFIX}/webhooks/{{rest*}}"
WEBHOOKS = Limit(name="fastgate-webhooks", rate=Rate.parse("100/s"), burst=2000, by=["address"])
"""A provider sends everything from a few addresses, thousands of events at the turn of a month.
Whether a webhook is signed, only the process behind knows: so there is a limit, far above that."""
FIRST_BYTE_MS = 15_000
CONNECT_MS = 2_000
IDLE_MS = 10_000
CONNECTIONS = 32
"""At once, to the one process that answers, from each worker."""


class PublicSide(NamedTuple):
    """What the built-in route needs to be there."""

    socket: str
    """Path of the Unix socket on which the pages are served."""
    key: bytes
    """16 secret bytes, for the tokens in the links of refusals."""


class Numbers(NamedTuple):
    """Slots of the built-in route and what it leads to."""

    route: int
    service: int
    upstream: int
    target: int


def wanted(gateway: Gateway, public: PublicSide | None) -> PublicSide | None:
    """The public side, unless it is off. Raises ConfigurationError."""
    if public is None or gateway.billing.public == "off":
        return None
    if len(public.socket.encode()) > UNIX_PATH_MOST:
        raise ConfigurationError(
            f"the path of the socket {public.socket} is too long for the system",
            "billing.public",
            hint="Choose a state directory with a shorter path, or write `public: off`.",
        )
    for index, route in enumerate(gateway.routes):
        for number, path in enumerate(route.patterns):
            if f"{_canonical(path)}/".startswith(f"{PREFIX}/"):
                raise ConfigurationError(
                    f"paths below {PREFIX}/ are the gateway's own pages",
                    f"routes[{index}].{route.place_of(number)}",
                    hint="Choose another path, or write `billing: {public: off}`.",
                )
    return public


def _canonical(path: str) -> str:
    try:
        return canonical_path(path)
    except ValueError:
        return path  # the compiler says what is wrong with it


def target_key(public: PublicSide) -> str:
    """What the target is known by in the slot book."""
    return f"{NAME} unix:{public.socket}"


def add_public_route(
    gateway: Gateway,
    public: PublicSide,
    numbers: Numbers,
    parts: tuple[ImageBuilder, RouterBuilder, RuleTables],
) -> None:
    """Put the route, its service and its upstream into the image, after all others."""
    image, router, rules = parts
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
    any_method, _ = method_mask([])
    for index, (pattern, limit) in enumerate(((PATTERN, LIMIT), (WEBHOOKS_PATTERN, WEBHOOKS))):
        number = image.add_route(
            NAME,
            slot=numbers.route,
            service=service,
            handler=NONE,
            static_response=NONE,
            auth=NONE,
            cors=NONE,
            body_cap=BODY_CAP,
            flags=int(RouteFlag.ROUTE_PRESERVE_HOST),
            limits=rules.limits([OwnedLimit(f"builtin:{NAME}", "rate", index, limit)]),
            pattern=pattern,
            params=rules.strings(("rest",)),
        )
        router.add(number, NAME, hosts=hosts_of(gateway), pattern=pattern, methods=any_method)
    image.set_capability_key(public.key)


def hosts_of(gateway: Gateway) -> list[str]:
    """Any host, and each that has a route which would take these paths from it."""
    hosts = {
        host: None
        for route in gateway.routes
        if any(path.startswith("/{") for path in route.patterns)
        for host in route.hosts
    }
    return ["", *hosts]
