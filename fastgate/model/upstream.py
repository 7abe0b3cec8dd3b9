# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Upstreams and services: where requests go, and how they are sold.

An **upstream** is a pool of targets with a way to choose among them. A **service** is an API as a
product: it uses one upstream and defines its timeouts, who may use it, and how often a request may
be tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, field

from fastgate.model.base import TOKEN, FieldValue, Model, Name, Token, worded
from fastgate.model.places import TargetUrl, check_host_value
from fastgate.model.policy import Rules
from fastgate.model.sticky import Sticky
from fastgate.model.tls import UpstreamTls
from fastgate.model.units import Duration, Percent
from fastgate.model.validation import Validate

TARGET_HOST, CLIENT_HOST = "target", "client"
SLOW_START_MOST_S = 86_400
QUEUE_MOST_S = 3600
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "te"})


def _any_success() -> list[str]:
    return ["2xx"]


def _unavailable() -> list[str]:
    return ["502", "503", "504"]


ErrorStatus = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^[45](xx|\d\d)$", "a status of 400 or more, '503', or a class of them, '5xx'"
        ),
        extra_json_schema={"type": ["string", "integer"]},
    ),
]
"""An error status, or all of a class: `503`, `5xx`."""


def status_numbers(statuses: Iterable[str]) -> set[int]:
    """The statuses for text like `503` and `5xx`."""
    numbers: set[int] = set()
    for text in statuses:
        first = int(text.replace("xx", "00"))
        numbers.update(range(first, first + (100 if text.endswith("xx") else 1)))
    return numbers


class Target(Model, frozen=True, kw_only=True):
    """One address of an upstream."""

    url: Annotated[
        TargetUrl,
        Meta(
            description="`http://host:port` or `https://host:port`, optionally with a base path, "
            "or `unix:/path`. The default port is 80, or 443. Names are resolved in the background "
            "and again when they expire; while DNS fails, the last known addresses are used. "
            "`http+srv://_http._tcp.orders.internal` has the hosts and ports of its SRV records."
        ),
    ]
    weight: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Its share of requests, relative to the weights of the others, if the "
            "policy sees no other difference between them; with `hash`, its share of the keys. The "
            "addresses of a name share it.",
        ),
    ] = 1


class Health(Model, frozen=True, kw_only=True):
    """Active health checks, run by the control process and shared with all workers."""

    path: Annotated[
        str,
        Meta(
            pattern=worded(
                r"^/[\x21-z|~]*$", "a path that begins with '/', without spaces or braces"
            ),
            description="The path of the check.",
        ),
    ]
    interval: Annotated[Duration, Meta(description="The time between two checks.")] = (
        Duration.parse("10s")
    )
    timeout: Annotated[Duration, Meta(description="A check that takes longer fails.")] = (
        Duration.parse("2s")
    )
    unhealthy_after: Annotated[
        int, Meta(ge=1, le=100, description="Failures in a row after which a target is unhealthy.")
    ] = 3
    healthy_after: Annotated[
        int, Meta(ge=1, le=100, description="Successes in a row after which it is healthy again.")
    ] = 2
    expect: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^[1-5](xx|\d\d)$", "a status, '200', or a class of them, '2xx'"
                    ),
                    extra_json_schema={"type": ["string", "integer"]},
                ),
            ]
        ],
        Meta(min_length=1, description="Statuses that are healthy: `200`, `2xx`."),
    ] = field(default_factory=_any_success)

    host: Annotated[
        str | None,
        Meta(
            description="The `Host` of a check: `target` for the target's own, or a name, "
            "optionally with a port. Default: the upstream's `host`, if that is a name; else "
            "`target`."
        ),
    ] = None
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65_535)] | None,
        Meta(
            description="The port for checks, if it differs from the target's. Not for Unix "
            "sockets."
        ),
    ] = None
    headers: Annotated[
        dict[Token, FieldValue],
        Meta(
            max_length=16,
            description="Header fields of a check. `User-Agent` and `Accept` replace its own.",
        ),
    ] = {}

    def __post_init__(self) -> None:
        if self.interval.ns < 100_000_000:
            raise ValueError("interval: at least 100ms")
        if not self.timeout.ns:
            raise ValueError("timeout: more than 0")
        if self.host is not None and self.host != TARGET_HOST:
            check_host_value(self.host, "'target' or")
        seen: set[str] = set()
        for name in self.headers:
            if name.lower() == "host":
                raise ValueError("headers: write `host` for the Host of a check")
            if name.lower() in _FRAMING:
                raise ValueError(f"headers: {name!r} is set by the gateway")
            if name.lower() in seen:
                raise ValueError(f"headers: {name!r} is there twice")
            seen.add(name.lower())

    def host_for(self, upstream: str, url: TargetUrl) -> str:
        """The Host of a check of this target. upstream: its upstream's `host`."""
        host = self.host
        if host is None:
            host = TARGET_HOST if upstream == CLIENT_HOST else upstream
        return url.authority_at(self.port) if host == TARGET_HOST else host


class Eject(Model, frozen=True, kw_only=True):
    """Passive ejection: a target that keeps failing gets no requests for a while."""

    after: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Failures in a row, counted by all workers together, that eject a target; "
            "0: never. A "
            "failure is a connection that cannot be made, a connection that breaks, a timeout or "
            "an invalid answer, even in the middle of a body, or one of `statuses`.",
        ),
    ] = 5
    within: Annotated[
        Duration,
        Meta(
            description="The failures must happen within this time, counted from the first of "
            "them; then counting starts again at one."
        ),
    ] = Duration.parse("1m")
    for_: Annotated[
        Duration,
        Meta(
            description="How long a target stays ejected. If the first request after that fails "
            "too, it is ejected again at once, for twice, three times, … at most ten times as "
            "long; a success ends that. When no other target can be used, ejected ones are used."
        ),
    ] = field(default=Duration.parse("10s"), name="for")
    statuses: Annotated[
        list[ErrorStatus],
        Meta(description="Statuses that count as failures: `503`, `5xx`. `[]`: none."),
    ] = field(default_factory=_unavailable)


class UpstreamTimeouts(Model, frozen=True, kw_only=True):
    """How long an upstream's target may take."""

    connect: Annotated[Duration, Meta(description="For making a connection.")] = Duration.parse(
        "2s"
    )
    write: Annotated[
        Duration, Meta(description="For a target that accepts no more of the request (504 beyond).")
    ] = Duration.parse("30s")
    first_byte: Annotated[
        Duration,
        Meta(description="From the request's last byte to the response's head (504 beyond)."),
    ] = Duration.parse("30s")
    idle: Annotated[
        Duration,
        Meta(
            description="Between two pieces of the response's body; in a tunnel, between two "
            "pieces in either direction. Beyond it the answer is cut off, the tunnel closed."
        ),
    ] = Duration.parse("60s")


class KeepAlive(Model, frozen=True, kw_only=True):
    """Idle connections that are kept open."""

    max: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="Idle connections kept to each target by each worker; 0: none.",
        ),
    ] = 64
    idle: Annotated[
        Duration,
        Meta(
            description="A connection that is idle for longer is closed. Make it shorter than the "
            "target's own timeout."
        ),
    ] = Duration.parse("55s")


class Queue(Model, frozen=True, kw_only=True):
    """Requests that wait until a target has room under `max_connections`."""

    max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="How many may wait, all workers together; beyond it, requests are refused "
            "(503 `overloaded`).",
        ),
    ]
    timeout: Annotated[
        Duration,
        Meta(
            description="How long each may wait; then it is refused (503 `overloaded`). At most 1 "
            "hour."
        ),
    ] = Duration.parse("1s")

    def __post_init__(self) -> None:
        if not self.timeout.ms:
            raise ValueError("timeout: at least 1ms")
        if self.timeout.seconds > QUEUE_MOST_S:
            raise ValueError(f"timeout: {self.timeout} is more than an hour")


class Upstream(Model, frozen=True, kw_only=True):
    """A pool of targets with a way to choose among them."""

    name: Annotated[Name, Meta(description="The name that services use.")]
    targets: Annotated[list[Target], Meta(min_length=1, description="Its addresses; at least one.")]
    balance: Annotated[
        Literal["round_robin", "least_connections", "p2c_ewma", "hash"],
        Meta(
            description="How a target is chosen: `round_robin` by turns; `least_connections` "
            "the least busy, or by turns; `p2c_ewma` by turns, unless another one drawn at random "
            "is clearly faster; `hash` always the same one for the same `hash_by`, with little "
            "moving when targets come and go. Always by weight; see [upstreams](upstreams.md)."
        ),
    ] = "round_robin"
    hash_by: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^(address|consumer|path|header:.+)$",
                    "'address', 'consumer', 'path' or 'header:NAME'",
                )
            ),
        ]
        | None,
        Meta(
            description="With `balance: hash`: `address`, `consumer`, `path` or `header:Name`. "
            "Default: `address`.",
        ),
    ] = None
    host: Annotated[
        str,
        Meta(
            description="The `Host` of requests: `target` for the target's own host and port, "
            "`client` for the one that the client sent, or a name, optionally with a port."
        ),
    ] = TARGET_HOST
    tls: Annotated[
        UpstreamTls | None,
        Meta(
            description="TLS to its `https` targets. Default: certificates must be valid for the "
            "target's host and come from an authority that the operating system trusts."
        ),
    ] = None
    health: Annotated[Health | None, Meta(description="Active health checks. Default: none.")] = (
        None
    )
    eject: Annotated[Eject, Meta(description="Passive ejection.")] = Eject()
    timeouts: Annotated[UpstreamTimeouts, Meta(description="How long a target may take.")] = (
        UpstreamTimeouts()
    )
    keepalive: Annotated[KeepAlive, Meta(description="Idle connections that are kept open.")] = (
        KeepAlive()
    )
    max_connections: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Requests in progress at each target, from all workers together; beyond "
            "it a request goes to another target, waits (`queue`) or is refused. 0: no limit.",
        ),
    ] = 0
    queue: Annotated[
        Queue | None,
        Meta(
            description="Requests wait, in order, if no target has room under `max_connections`. "
            "Default: they are refused at once."
        ),
    ] = None

    sticky: Annotated[
        Sticky | None,
        Meta(
            description="Requests of a client go to the target that answered its first one, by a "
            "cookie. Default: no cookie."
        ),
    ] = None
    slow_start: Annotated[
        Duration,
        Meta(
            description="How long the share of a target grows after it became usable: added by a "
            "reload or by DNS, healthy again, or back from an ejection. It begins with a hundredth "
            "of its weight. At most 1 day; 0: all of it at once."
        ),
    ] = Duration.parse("0s")
    proxy_protocol: Annotated[
        Literal["v1", "v2"] | None,
        Meta(
            description="Connections to its targets begin with a PROXY header of this version, "
            "before TLS: the client's address and port, and where the client connected to. A "
            "connection is then used again only for the same client. Default: none."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.hash_by is not None:
            if self.balance != "hash":
                raise ValueError("hash_by: needs `balance: hash`")
            kind, _, name = self.hash_by.partition(":")
            if kind == "header" and not re.match(TOKEN, name):
                raise ValueError(f"hash_by: {name!r} is not a header name")
        if self.host not in (TARGET_HOST, CLIENT_HOST):
            check_host_value(self.host, "'target', 'client' or")
        if self.slow_start.seconds > SLOW_START_MOST_S:
            raise ValueError(f"slow_start: {self.slow_start} is more than a day")
        if self.queue is not None and not self.max_connections:
            raise ValueError(
                "queue: without `max_connections` no target is ever full, so no request would wait"
            )
        if self.health is not None and self.health.port is not None:
            for target in self.targets:
                if target.url.is_unix:
                    raise ValueError(f"health.port: {target.url} has no port")
        seen: set[TargetUrl] = set()
        for target in self.targets:
            if target.url in seen:
                raise ValueError(f"targets: {target.url} is there twice; give it a weight instead")
            seen.add(target.url)
        self._check_tls()

    def _check_tls(self) -> None:
        secured = [target.url for target in self.targets if target.url.tls]
        clear = [target.url for target in self.targets if not target.url.tls]
        if secured and clear:
            raise ValueError(
                f"targets: {secured[0]} is encrypted and {clear[0]} is not, so chance would decide "
                "how a request is sent; make two upstreams"
            )
        if self.tls is not None and clear:
            raise ValueError(f"tls: the target {clear[0]} has no TLS; write `https://`")

    @property
    def profile(self) -> UpstreamTls | None:
        """How its targets are reached over TLS; None: they are not."""
        if not self.targets[0].url.tls:
            return None
        return self.tls or UpstreamTls()


class Retries(Model, frozen=True, kw_only=True):
    """Retries, on another target if there is one.

    A request is sent again only if nothing of its body has been sent or all of it came with its
    head, and no part of an answer came. If the connection could not be made, any request is. If
    the request may have reached the target, only GET, HEAD, PUT, DELETE, OPTIONS and TRACE are.
    """

    attempts: Annotated[
        int,
        Meta(
            ge=1,
            le=10,
            description="The maximum number of targets that are chosen for a request; 1: no retry.",
        ),
    ] = 2
    budget: Annotated[
        Percent,
        Meta(
            description="The maximum share of retries, so that a failing upstream does not get a "
            "multiple of its load. Each worker counts separately: 3 retries are free, and at "
            "most 20 are saved. If no connection could be made, a retry costs nothing."
        ),
    ] = Percent.parse("20%")
    statuses: Annotated[
        list[ErrorStatus],
        Meta(
            description="Statuses after which the request is sent to another target: `503`, `5xx`. "
            "The last answer goes to the client. Default: none."
        ),
    ] = []


class Service(Rules, frozen=True, kw_only=True):
    """An API as a product, on one upstream."""

    name: Annotated[Name, Meta(description="The name that routes and plans use.")]
    upstream: Annotated[str, Meta(description="The upstream that serves it, by name.")]
    timeout: Annotated[
        Duration | None,
        Meta(
            description="From the request's last byte to the response's head. Default: the "
            "upstream's `first_byte`."
        ),
    ] = None
    idle_timeout: Annotated[
        Duration | None,
        Meta(
            description="Between two pieces of the response's body or of a tunnel. Default: the "
            "upstream's `idle`."
        ),
    ] = None
    host: Annotated[
        str | None,
        Meta(
            description="The `Host` of its requests: `client`, or a name, optionally with a port. "
            "Default: the upstream's `host`."
        ),
    ] = None
    retries: Annotated[Retries, Meta(description="When failed requests are sent again.")] = (
        Retries()
    )
    plans: Annotated[
        list[str],
        Meta(
            description="Plans whose consumers may use it, by name; plans may name services too. "
            "Default: every consumer may use it."
        ),
    ] = []
    policies: Annotated[
        list[str], Meta(description="Policies that apply to all of its routes, by name.")
    ] = []
    validate: Annotated[
        Validate | None,
        Meta(
            description="Validation of the requests of all its routes against the API's "
            "description. Default: that of its policies."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.host == TARGET_HOST:
            raise ValueError("host: leave it out, or write `host: target` at the upstream")
        if self.host is not None and self.host != CLIENT_HOST:
            check_host_value(self.host, "'client' or")
