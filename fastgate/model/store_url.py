"""StoreUrl: the URL of the store, for SQLite or PostgreSQL.

PostgreSQL's URLs are those of libpq: several hosts, `sslmode` and similar options, settings of the
session. The driver parses them itself. They are checked here so that `fastgate check` finds a
mistake, which would otherwise look like a store that cannot be reached. The URL keeps its
passwords, which are needed to connect; `shown` removes them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote

from fastgate.model.faults import did_you_mean
from fastgate.model.values import Value, masked

_CHOICES: dict[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "read-write", "prefer-standby"),
    "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1.2", "TLSv1.3"),
}
PARAMETERS = (
    *_CHOICES,
    "host", "port", "dbname", "database", "user", "password", "passfile", "service", "sslrootcert",
    "sslcert", "sslkey", "sslpassword", "sslcrl", "krbsrvname", "gsslib",
    # settings of the session
    "application_name", "search_path", "options", "statement_timeout", "lock_timeout",
)  # fmt: skip
"""The allowed parameters of a PostgreSQL URL."""


NO_DRIVER = (
    "PostgreSQL needs the driver asyncpg, which is not installed here: "
    "pip install 'fastgate[postgresql]'."
)


class StoreUrl(Value):
    """A database: "sqlite:///path", "postgresql://user:password@host/database"."""

    __slots__ = ("kind", "text")

    WHAT = "the URL of a store"
    EXAMPLES = (
        "sqlite:////var/lib/fastgate/fastgate.db",
        "postgresql://user:password@host/database?sslmode=verify-full",
    )

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        """"sqlite" or "postgresql"."""
        self.text = text
        """The whole URL, in the form for the driver."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        scheme, found, rest = text.partition("://")
        kind, _, driver = scheme.lower().partition("+")
        kind = "postgresql" if kind == "postgres" else kind
        if not found or kind not in ("sqlite", "postgresql"):
            raise ValueError(
                f"a store's URL begins with 'sqlite:///' or 'postgresql://', not {_start(text)!r}"
            )
        if driver not in ("", "asyncpg", "aiosqlite"):
            raise ValueError(
                f"the driver {driver!r} is not used; leave it out and write '{kind}://'"
            )
        parts = _split(rest)
        try:
            (_check_sqlite if kind == "sqlite" else _check_postgresql)(parts)
        except _Fault as fault:
            raise ValueError(str(fault)) from None
        except ValueError:
            # Python's error text may contain the password.
            raise ValueError(
                "the store's URL cannot be read; in a user name or password, write '@' as %40, "
                "':' as %3A, '/' as %2F, '?' as %3F, '#' as %23 and '%' as %25"
            ) from None
        return cls(kind, f"{kind}://{_for_driver(parts, rest)}")

    @property
    def shown(self) -> str:
        """The URL without passwords."""
        return masked(self.text)

    def _key(self) -> tuple[Any, ...]:
        return (self.text,)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"StoreUrl({self.shown!r})"


class _Parts(NamedTuple):
    netloc: str
    path: str
    query: str
    fragment: str


def _split(rest: str) -> _Parts:
    """What follows "://". Not by `urlsplit`: newer ones refuse several hosts of which one is an
    IPv6 address."""
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    return _Parts(netloc, slash + path, query, fragment)


def _for_driver(parts: _Parts, rest: str) -> str:
    """The same for the driver, which reads it with `urlsplit`: such hosts as a parameter."""
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts or "[" not in hosts:
        return rest
    query = f"host={hosts}&{parts.query}".rstrip("&")
    return f"{user}{at}{parts.path or '/'}?{query}"


class _Fault(ValueError):
    """Our own error for a mistake, without any secret."""


def _start(text: str) -> str:
    scheme, found, _ = text.partition("://")
    return f"{scheme}://" if found else text[:12]


_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?\](:|$)")


def _check_sqlite(parts: Any) -> None:
    if parts.netloc:
        raise _Fault(
            f"'sqlite://{parts.netloc}' names a host; a file has three slashes before its path, "
            "four when it is absolute: 'sqlite:////var/lib/fastgate/fastgate.db'"
        )
    if parts.query or parts.fragment:
        raise _Fault("a SQLite store takes no parameters: write the path alone")
    if parts.path.strip("/") in ("", ":memory:"):
        raise _Fault("a SQLite store is a file: 'sqlite:///path/to/fastgate.db'")


def _check_postgresql(parts: Any) -> None:
    if parts.fragment:
        raise _Fault("'#' has no meaning here; in a user name or password, write it as %23")
    user, _, hosts = parts.netloc.rpartition("@")
    if "[" in user or "]" in user:
        raise ValueError  # the driver cannot read it
    for host in hosts.split(","):
        if ("[" in host or "]" in host) and not _BRACKETED.match(host):
            raise _Fault(f"{host!r} is not a host: an IPv6 address is written '[2001:db8::1]:5432'")
        _check_port(re.sub(r"^\[[^\]]*\]|^[^:]*", "", host).removeprefix(":"))
    if "/" in parts.path[1:]:
        raise _Fault(
            f"{parts.path[1:]!r} is not the name of a database; a socket's folder is written "
            "'postgresql:///database?host=/run/postgresql'"
        )
    unquote(parts.path, errors="strict")
    for name, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True):
        if name not in PARAMETERS:
            settings = (
                ""
                if name in _LIBPQ
                else f" For a setting of the server, write options=-c%20{name}%3DVALUE."
            )
            raise _Fault(
                f"the parameter {name!r} is not understood. "
                f"{did_you_mean(name, PARAMETERS, 'Parameters')}{settings}"
            )
        if name in _CHOICES and value not in _CHOICES[name]:
            raise _Fault(
                f"{name} cannot be {value!r}. {did_you_mean(value, _CHOICES[name], 'Choices')}"
            )
        if name == "port":
            for port in value.split(","):
                _check_port(port)


_LIBPQ = (
    "connect_timeout", "channel_binding", "keepalives", "keepalives_idle", "gssencmode",
    "require_auth", "load_balance_hosts", "fallback_application_name", "client_encoding",
)  # fmt: skip
"""Parameters of libpq that the driver does not support."""


def _check_port(text: str) -> None:
    if text and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise _Fault(f"{text!r} is not a port from 1 to 65535")
