"""Text and bytes rendered into the snapshot, so that a worker only copies them.

Everything here is a pure function of configured values; `compiler` stores the results.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from fastgate.errors import ConfigurationError
from fastgate.model.auth import TOKEN_METHODS, BasicAuth
from fastgate.model.gateway import (
    ApiKeyAuth,
    Auth,
    Concurrency,
    Cors,
    Limit,
    Quota,
    Respond,
    Route,
    TargetUrl,
)
from fastgate.sockaddr import pack_sockaddr, pack_unix

WINDOWS = {
    "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_592_000,
    "year": 31_536_000,
}  # fmt: skip
"""Seconds of a quota's period in RateLimit-Policy; for month and year, a typical length."""

COMMON_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# ---- limits -----------------------------------------------------------------------------


def rate_window(limit: Limit) -> int:
    """The seconds in which an empty bucket fills: the value of `w`, at least 1."""
    return max(1, -(-limit.bucket * limit.rate.period_ns // (limit.rate.amount * 10**9)))


def policy_member(limit: Limit | Quota | Concurrency) -> str:
    """The member of RateLimit-Policy, `"burst";q=100;w=60`."""
    if isinstance(limit, Limit):
        return f'"{limit.label}";q={limit.bucket};w={rate_window(limit)}'
    if isinstance(limit, Quota):
        return f'"{limit.label}";q={limit.requests};w={WINDOWS[limit.period]}'
    return f'"{limit.label}";q={limit.max};qu="concurrent-requests"'


# ---- answers ----------------------------------------------------------------------------


def static_response(respond: Respond, server: str | None) -> tuple[bytes, bytes]:
    """Field lines (without Content-Length, Date and X-Request-ID) and body of a fixed response."""
    given = {name.lower() for name in respond.headers}
    lines = [f"{name}: {value}" for name, value in respond.headers.items()]
    if respond.json is not None:
        body, kind = msgspec.json.encode(respond.json), "application/json"
    else:
        body, kind = (respond.body or "").encode(), "text/plain; charset=utf-8"
    if body and "content-type" not in given:
        lines.append(f"Content-Type: {kind}")
    if server and "server" not in given:
        lines.append(f"Server: {server}")
    return "".join(f"{line}\r\n" for line in lines).encode(), body


def challenges(auth: Auth, realm: str) -> str:
    """The value of WWW-Authenticate: all ways to send a credential. Bearer is the last one, so that
    workers can add to it what is wrong with a token."""
    ways, bearer = [], False
    for kind, method in auth.methods:
        if isinstance(method, ApiKeyAuth):
            places = [f'header="{method.header}"'] if method.header is not None else []
            if method.query is not None:
                places.append(f'query="{method.query}"')
            if places:
                ways.append(", ".join([f'ApiKey realm="{realm}"', *places]))
            bearer = bearer or method.bearer
        elif isinstance(method, BasicAuth):
            ways.append(f'Basic realm="{method.realm or realm}", charset="UTF-8"')
        elif kind in TOKEN_METHODS:
            bearer = True
    return ", ".join([*ways, f'Bearer realm="{realm}"'] if bearer else ways)


def notice(route: Route) -> str:
    """Response lines of a deprecated route: Deprecation, Sunset, Link."""
    if route.deprecated is None and route.sunset is None and route.notice is None:
        return ""
    lines = []
    if route.deprecated is not None:
        lines.append(f"Deprecation: @{route.deprecated.unix}")
    if route.sunset is not None:
        from email.utils import formatdate  # for the few routes that have one

        lines.append(f"Sunset: {formatdate(route.sunset.unix, usegmt=True)}")
    if route.notice is not None:
        relation = "sunset" if route.deprecated is None and route.sunset else "deprecation"
        lines.append(f'Link: <{route.notice}>; rel="{relation}"; type="text/html"')
    return "".join(f"{line}\r\n" for line in lines)


def cors_methods(cors: Cors, methods: Sequence[str]) -> str:
    """The value of Access-Control-Allow-Methods."""
    return ", ".join(cors.methods or methods or COMMON_METHODS)


GATEWAY_FIELDS = (
    "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-ID", "Link",
    "PAYMENT-REQUIRED", "PAYMENT-RESPONSE", "X-PAYMENT-RESPONSE",
)  # fmt: skip
"""The gateway's own fields that scripts need to understand a refusal."""


def cors_exposed(cors: Cors) -> list[str]:
    """The names in Access-Control-Expose-Headers: the configured ones, then the gateway's."""
    given = {name.lower() for name in cors.expose}
    return [*cors.expose, *(name for name in GATEWAY_FIELDS if name.lower() not in given)]


# ---- paths ------------------------------------------------------------------------------

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def canonical_path(path: str) -> str:
    """The canonical form of a path; requests' paths are converted to it before they are matched.

    Escapes of unreserved characters are decoded; the hex digits of other escapes are upper-cased.
    Raises ValueError if a percent sign does not begin an escape, or for %00.
    """
    if "%" not in path:
        return path

    def one(match: re.Match[str]) -> str:
        if not match[1]:
            raise ValueError(f"{path!r}: a '%' must be followed by two hex digits")
        character = chr(int(match[1], 16))
        if character == "\0":
            raise ValueError(f"{path!r}: %00 is never accepted")
        return character if _UNRESERVED.match(character) else f"%{match[1].upper()}"

    return re.sub(r"%([0-9A-Fa-f]{2})?", one, path)


# ---- addresses --------------------------------------------------------------------------


def prefixes(route: Route, place: str) -> tuple[int, str]:
    """A rewrite's prefixes: (number of bytes to strip from the front, the text that replaces them).

    The rest begins with "/" or is empty, so neither ends with one. Raises ConfigurationError,
    with `place` as its path.
    """
    if route.rewrite is None:
        return 0, ""
    strip = canonical_path(route.rewrite.strip_prefix or "").rstrip("/")
    for path in route.patterns:
        pattern = canonical_path(path)
        if strip and pattern[len(strip) :][:1] not in ("", "/"):
            raise ConfigurationError(
                f"{route.rewrite.strip_prefix!r} ends within a segment of {pattern!r}",
                place,
                hint="Strip whole segments.",
            )
    return len(strip.encode()), canonical_path(route.rewrite.replace_prefix or "").rstrip("/")


Address = tuple[int, tuple[Any, ...]]
"""Family and socket address, as from `socket.getaddrinfo`."""


class ServiceAddress(NamedTuple):
    """An address of a host that an SRV record names."""

    family: int
    address: tuple[Any, ...]
    """With the record's port."""
    host: str
    priority: int
    weight: int


Found = Address | ServiceAddress
"""What a name stands for."""


def preferred(found: Iterable[Address]) -> list[Address]:
    """Sorted, each once. If there are IPv4 addresses, only those are used."""
    known = [(family, address) for family, address in dict.fromkeys(found)]
    if any(family == socket.AF_INET for family, _ in known):
        known = [entry for entry in known if entry[0] == socket.AF_INET]
    return sorted(known)


def sockaddrs(url: TargetUrl, found: Iterable[Address]) -> list[tuple[str, bytes]]:
    """(text, packed address) of all addresses of a target; empty: not resolved.

    `found`: the addresses of its name. If there are IPv4 addresses, only those are used.
    """
    if url.is_unix:
        return [(f"unix:{url.path}", pack_unix(url.path))]
    if url.is_ip:
        family = socket.AF_INET6 if ":" in url.host else socket.AF_INET
        return [(url.authority, pack_sockaddr(family, (url.host, url.port)))]
    return [
        (f"{url.host} {address[0]}:{url.port}", pack_sockaddr(family, address))
        for family, address in preferred(found)
    ]
