# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""How the names of targets are resolved."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from msgspec import Meta

from fastgate.model.base import Model
from fastgate.model.units import Duration
from fastgate.model.values import Value

TTL_MOST_S = 86_400


class NameServer(Value):
    """A name server: "10.0.0.2", "10.0.0.2:5353", "[2001:db8::53]:53"."""

    __slots__ = ("host", "port")

    WHAT = "a name server"
    EXAMPLES = ("10.0.0.2", "10.0.0.2:5353", "[2001:db8::53]:53")

    def __init__(self, host: str, port: int = 53) -> None:
        self.host = host
        """An IP address."""
        self.port = port

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        found = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", text, re.A) or re.fullmatch(
            r"([^:]*):(\d{1,5})", text, re.A
        )
        host, port = (found[1], int(found[2] or 53)) if found else (text, 53)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"{raw!r}: {host!r} is not an IP address; a name server is not found by a name"
            ) from None
        if not 1 <= port <= 65_535:
            raise ValueError(f"{raw!r}: {port} is not a port from 1 to 65535")
        return cls(str(address), port)

    def _key(self) -> tuple[str, int]:
        return (self.host, self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.host if self.port == 53 else f"{host}:{self.port}"


class Dns(Model, frozen=True, kw_only=True):
    """How the names of targets are resolved, by the control process."""

    servers: Annotated[
        list[NameServer],
        Meta(
            max_length=8,
            description="Name servers, in the order in which they are asked. Default: those of "
            "`/etc/resolv.conf`, with its search domains.",
        ),
    ] = []
    min_ttl: Annotated[
        Duration,
        Meta(description="A name is asked for again after its TTL, but not sooner than this."),
    ] = Duration.parse("5s")
    max_ttl: Annotated[Duration, Meta(description="And not later than this. At most 1 day.")] = (
        Duration.parse("5m")
    )
    timeout: Annotated[
        Duration, Meta(description="How long a lookup may take, with all name servers.")
    ] = Duration.parse("5s")

    def __post_init__(self) -> None:
        if self.min_ttl.seconds < 0.1:
            raise ValueError("min_ttl: at least 100ms")
        if self.max_ttl.ns < self.min_ttl.ns:
            raise ValueError(f"max_ttl: {self.max_ttl} is less than min_ttl, {self.min_ttl}")
        if self.max_ttl.seconds > TTL_MOST_S:
            raise ValueError(f"max_ttl: {self.max_ttl} is more than a day")
        if self.timeout.seconds < 0.1:
            raise ValueError("timeout: at least 100ms")
