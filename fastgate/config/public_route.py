"""The built-in route: `/_fastgate/…` leads to the gateway's own pages, on every listener and host.

    client ─ worker ─ /_fastgate/{rest*} ─ unix:<state>/public.sock ─ control (portal/app.py)

The control process serves the pages of reasons, diagnoses of refusals, top-up and account pages,
and the payment providers' webhooks. Workers forward to it like to any upstream, so it needs no
separate port, and TLS, logs and limits are the same. `billing.public: off` removes the route.

- The route has no authentication. A credential passes through, and the pages check it.
- Requests of one address are limited, since one process, which has other work, answers all of them.
  Webhooks have a separate limit, which no provider reaches.
- A host with a route that would match these paths (`/{rest*}`, `/{anything}/…`) has the built-in
  one too: a longer literal wins. Configured routes may not use the prefix.
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
FIRST_BYTE_MS = 15_000
CONNECT_MS = 2_000
IDLE_MS = 10_000
CONNECTIONS = 32
"""Maximum concurrent requests from each worker to the control process."""


class PublicSide(NamedTuple):
    """What the built-in route needs."""

    socket: str
    """Path of the Unix socket on which the pages are served."""
    key: bytes
    """16 secret bytes, for the tokens in the links of refusals."""


class Numbers(NamedTuple):
    """The slots of the built-in route, its service and its upstream."""

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
            f"the path of the socket {public.socket} is too long for the operating system",
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
    """Add the route, its service and its upstream to the image, after all others."""
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
    """Any host, plus each host with a route that would otherwise match these paths."""
    hosts = {
        host: None
        for route in gateway.routes
        if any(path.startswith("/{") for path in route.patterns)
        for host in route.hosts
    }
    return ["", *hosts]
