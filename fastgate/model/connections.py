"""Connections of clients to a listener: limits by address, and who may announce another client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, field

from fastgate.model.base import Model
from fastgate.model.places import Bind, TrustedPeer
from fastgate.model.units import Rate


def _address() -> list[Literal["address"]]:
    return ["address"]


class _ByAddress(Model, frozen=True, kw_only=True):
    """The common base of both limits."""

    by: Annotated[
        list[Literal["address"]],
        Meta(
            min_length=1,
            max_length=1,
            description="`address`: the client's; of IPv6 its /64.",
        ),
    ] = field(default_factory=_address)


class ConnectionLimit(_ByAddress, frozen=True, kw_only=True):
    """How many connections a client may have at once. Further ones are reset."""

    max: Annotated[
        int, Meta(ge=1, le=10_000_000, description="The number of connections, in all workers.")
    ]


class HandshakeLimit(_ByAddress, frozen=True, kw_only=True):
    """How often a client may begin a TLS handshake. Further connections are reset."""

    rate: Annotated[
        Rate,
        Meta(description="The number of handshakes per time; the bucket is refilled evenly."),
    ]
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(
            description="The size of the bucket: how many may begin at once after a pause. "
            "Default: the rate's own number."
        ),
    ] = None

    @property
    def tolerance_ns(self) -> int:
        """The time to fill the bucket, up to 2**62 ns."""
        bucket = self.rate.amount if self.burst is None else self.burst
        return min(self.rate.interval_ns * bucket, 2**62)


def check_announcers(bind: Bind, announcers: Sequence[TrustedPeer]) -> None:
    """Raise ValueError if nobody among them can connect to this address."""
    if not announcers or any(peer.is_unix == bind.is_unix for peer in announcers):
        return
    if bind.is_unix:
        raise ValueError(
            "proxy_protocol: peers on this Unix socket have no address; write `unix` for all of "
            "them"
        )
    raise ValueError(
        "proxy_protocol: `unix` stands for peers on Unix sockets, but this listener has an "
        "address; list the networks of your load balancers, such as 10.0.0.0/8"
    )
