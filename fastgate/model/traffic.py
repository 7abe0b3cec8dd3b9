# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""What a route does with its traffic besides forwarding it: faults on purpose, maintenance, other
services that get part of it or copies of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from fastgate.model.base import Model, Token, worded
from fastgate.model.match import Match
from fastgate.model.places import Cidr
from fastgate.model.sticky import StickyCookie
from fastgate.model.units import Duration, Percent, Share, Size

LONGEST_DELAY = Duration.parse("1h")
"""Of an injected fault."""
WHOLE = Percent.parse("100%")


def check_when(when: Match | None) -> None:
    """Raise ValueError for conditions that have none."""
    if when is not None and when.empty:
        raise ValueError("when: give headers, query or cookies, or leave it out for all requests")


class FaultInjection(Model, frozen=True, kw_only=True):
    """Faults that are injected on purpose, to test how callers cope with them.

    Whether a request is delayed and whether it is aborted is decided separately, at random by the
    shares, once its caller is known. An aborted request counts against no limit and costs nothing.
    """

    delay: Annotated[
        Duration | None, Meta(description="How long requests wait before they go on, at most 1h.")
    ] = None
    delay_share: Annotated[Percent, Meta(description="The share of requests that wait.")] = WHOLE
    abort: Annotated[
        Annotated[int, Meta(ge=400, le=599)] | None,
        Meta(
            description="The status of requests that are refused with `fault_injected`. A request "
            "that is also delayed is refused after the delay."
        ),
    ] = None
    abort_share: Annotated[Percent, Meta(description="The share of requests that are refused.")] = (
        WHOLE
    )
    when: Annotated[
        Match | None,
        Meta(
            description="Only for requests with these headers, query parameters and cookies. "
            "Default: for all."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None:
            raise ValueError("give delay, abort or both")
        for name in ("delay", "abort"):
            if getattr(self, name) is None and getattr(self, f"{name}_share") != WHOLE:
                raise ValueError(f"{name}_share: give {name} too")
        if self.delay is not None and not 0 < self.delay.ns <= LONGEST_DELAY.ns:
            raise ValueError(f"delay: {self.delay} is not between 1ms and {LONGEST_DELAY}")
        check_when(self.when)


LONGEST_WAIT = Duration.parse("30d")
"""Of a Retry-After."""


class Maintenance(Model, frozen=True, kw_only=True):
    """A route, or the whole gateway, that is closed for a while.

    Requests are refused with 503 `maintenance`, before their caller is looked up: nothing is
    counted or charged. `fastgate maintenance on` and `off` switch it while the gateway runs.
    """

    enabled: Annotated[
        bool,
        Meta(description="Whether it is closed now; `false` keeps the settings for the next time."),
    ] = True
    retry_after: Annotated[
        Duration,
        Meta(description="Sent as `Retry-After`: when callers should try again, 1s to 30d."),
    ] = Duration.parse("5m")
    message: Annotated[
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                pattern=worded(
                    r'^[^\x00-\x1f\x7f"\\<>&]+$',
                    "a text in one line without '\"', '\\', '<', '>' and '&'",
                ),
            ),
        ]
        | None,
        Meta(description="For people, in the refusal: why, and until when."),
    ] = None
    allow: Annotated[
        list[Cidr],
        Meta(
            description="Networks and addresses whose requests pass all the same. Behind "
            "`trusted_proxies`, the client's address is what they report."
        ),
    ] = []

    def __post_init__(self) -> None:
        if not 1_000_000_000 <= self.retry_after.ns <= LONGEST_WAIT.ns:
            raise ValueError(
                f"retry_after: {self.retry_after} is not between 1s and {LONGEST_WAIT}"
            )


class GatewayMaintenance(Maintenance, frozen=True, kw_only=True):
    """All routes closed at once. A route that is closed itself has its own settings."""

    except_: Annotated[
        list[str], Meta(description="Routes that stay open, by name: a status page, for example.")
    ] = field(name="except", default_factory=list)


MAX_SPLIT = 16
"""Services of a split, besides the route's own."""
ALL = Share.parse("100%")


class SplitService(Model, frozen=True, kw_only=True):
    """A service that gets part of a route's requests."""

    service: Annotated[str, Meta(description="The service, by name.")]
    weight: Annotated[
        Share | None,
        Meta(
            description="Its share of the requests, to a ten-thousandth of a percent. `0%`: no new "
            "callers; those whose cookie leads there stay until the entry is removed. Default: "
            "only requests that match `when`."
        ),
    ] = None
    when: Annotated[
        Match | None,
        Meta(
            description="Requests with these headers, query parameters and cookies always go "
            "there, whatever the weights are. The first entry that matches gets them."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.weight is None and self.when is None:
            raise ValueError("give weight, when or both")
        check_when(self.when)

    @property
    def parts(self) -> int:
        """Its share in millionths."""
        return 0 if self.weight is None else self.weight.parts


class SplitCookie(StickyCookie, frozen=True, kw_only=True):
    """The cookie of a split that is sticky by cookie."""

    cookie: Annotated[Token, Meta(description="Its name.")] = "fastgate_split"


class Split(Model, frozen=True, kw_only=True):
    """Other services that get part of a route's requests; the route's own service gets the rest."""

    to: Annotated[
        list[SplitService],
        Meta(min_length=1, max_length=MAX_SPLIT, description="The services, and what each gets."),
    ]
    sticky: Annotated[
        Literal["consumer", "address", "cookie"] | None,
        Meta(
            description="What keeps a caller at the same service: a hash of the consumer (of the "
            "address, for anonymous callers), of the client's address (IPv6: its /64), or a "
            "cookie that the gateway sets. Default: each request is decided by itself, and the "
            "shares are exact."
        ),
    ] = None
    cookie: Annotated[
        SplitCookie | None, Meta(description="The cookie, with `sticky: cookie`.")
    ] = None

    def __post_init__(self) -> None:
        if self.cookie is not None and self.sticky != "cookie":
            raise ValueError("cookie: only a split with `sticky: cookie` sets one")
        total = Share(sum(each.parts for each in self.to))
        if total.parts > ALL.parts:
            raise ValueError(f"the weights add up to {total}, which is more than 100%")
        weighted: set[str] = set()
        for number, each in enumerate(self.to):
            if each.weight is None:
                continue
            if each.service in weighted:
                raise ValueError(f"to[{number}].weight: {each.service!r} has a weight already")
            weighted.add(each.service)

    @property
    def rest(self) -> Share:
        """The share of the route's own service."""
        return Share(ALL.parts - sum(each.parts for each in self.to))


class Mirror(Model, frozen=True, kw_only=True):
    """Another service that gets copies of a route's requests. Its answers are ignored."""

    service: Annotated[str, Meta(description="The service, by name.")]
    share: Annotated[
        Share,
        Meta(description="The share of requests that are copied, drawn at random."),
    ] = ALL


LEAST_LAG, MOST_LAG = Duration.parse("1ms"), Duration.parse("1m")
LEAST_BUFFERS, MOST_BUFFERS = Size.parse("64KiB"), Size.parse("1TiB")


class Shedding(Model, frozen=True, kw_only=True):
    """When a worker has too much to do. It then refuses requests with 503 `overloaded`.

    A worker's load is its lag or its buffers as a share of the mark, whichever is larger. It
    refuses requests of `importance: low` from a load of 1 on and those of `normal` from 2 on.
    """

    lag: Annotated[
        Duration | None,
        Meta(
            description="How long what is ready waits for the worker, on average: 1ms to 1m. "
            "Default: it does not matter."
        ),
    ] = None
    buffers: Annotated[
        Size | None,
        Meta(
            description="Memory of one worker for what it has received and not passed on yet: "
            "64KiB to 1TiB. Default: it does not matter."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.lag is None and self.buffers is None:
            raise ValueError("give lag, buffers or both")
        if self.lag is not None and not LEAST_LAG.ns <= self.lag.ns <= MOST_LAG.ns:
            raise ValueError(f"lag: {self.lag} is not between {LEAST_LAG} and {MOST_LAG}")
        if self.buffers is not None and not (
            LEAST_BUFFERS.bytes <= self.buffers.bytes <= MOST_BUFFERS.bytes
        ):
            raise ValueError(
                f"buffers: {self.buffers} is not between {LEAST_BUFFERS} and {MOST_BUFFERS}"
            )
