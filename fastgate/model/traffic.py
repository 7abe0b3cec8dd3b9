# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""What is done with traffic besides forwarding it: faults on purpose, maintenance, shedding."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from fastgate.model.base import Model, worded
from fastgate.model.match import Match
from fastgate.model.places import Cidr
from fastgate.model.units import Duration, Percent, Size

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
