"""Network places: networks, addresses to listen on, addresses of targets.

Nothing here resolves names: only the form of an address is checked.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Self

from fastgate.model.values import Value
from fastgate.sockaddr import UNIX_PATH_MOST

_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*",
    re.A,
)
_DIGITS_ONLY = re.compile(r"[0-9.]+|0x[0-9a-f.x]*")
_PORTS = {"http": 80, "https": 443}


def _unix_path(text: str, raw: object) -> str:
    path = text.removeprefix("//") if text.startswith("///") else text
    if not path.startswith(("/", "@")) or "\0" in path or len(path) < 2:
        raise ValueError(
            f"{raw!r}: a Unix socket is 'unix:' and an absolute path, as in 'unix:/run/app.sock'"
        )
    if len(path.encode()) > UNIX_PATH_MOST:
        raise ValueError(f"{raw!r}: a Unix socket's path has at most {UNIX_PATH_MOST} bytes")
    return path


def _port(text: str, raw: object, lowest: int) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.A) or not lowest <= int(text) <= 65535:
        raise ValueError(f"{raw!r}: {text!r} is not a port from {lowest} to 65535")
    return int(text)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def host_name(text: str) -> bool:
    """Whether `text`, lower-case, has the form of a host name (and not that of a number)."""
    return _HOST.fullmatch(text) is not None and not _DIGITS_ONLY.fullmatch(text)


def _domain(name: str) -> str:
    """`_http._tcp.orders.internal` → `orders.internal`."""
    return re.sub(r"^(_[^.]*\.)+", "", name)


def host_value(text: str) -> bool:
    """Whether `text` can be a Host: a name or an address, and perhaps a port."""
    bracketed = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", text, re.A)
    name = bracketed[1] if bracketed else ""
    return (
        bracketed is not None
        and (host_name(name.lower()) or _ip(name.strip("[]")) is not None)
        and (bracketed[2] is None or 1 <= int(bracketed[2]) <= 65535)
    )


def check_host_value(text: str, other: str) -> None:
    """Raise ValueError unless `text` can be a Host. `other`: what else may be written."""
    if not host_value(text):
        raise ValueError(
            f"host: {text!r} is not {other} a host such as 'api.internal' or 'api.internal:8080'"
        )


class Cidr(Value):
    """A network, or one address: "10.0.0.0/8", "192.0.2.7", "2001:db8::/32"."""

    __slots__ = ("network",)

    WHAT = "a network or an address"
    EXAMPLES = ("10.0.0.0/8", "192.0.2.7", "2001:db8::/32")

    def __init__(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        self.network = network
        """The network; one address is a network of one."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        if "%" in text:
            raise ValueError(f"{raw!r}: write a network without a zone")
        try:
            loose = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise cls._bad(raw) from None
        address = text.partition("/")[0]
        if loose.network_address != ipaddress.ip_address(address):
            raise ValueError(
                f"{raw!r} has bits set outside its prefix; write {str(loose)!r} for the network "
                f"or {address!r} for the one address"
            )
        return cls(loose)

    def _key(self) -> tuple[str]:
        return (str(self.network),)

    @property
    def mapped(self) -> tuple[bytes, int]:
        """Address and prefix in IPv6 form, IPv4 as ::ffff:a.b.c.d: 16 bytes, 0 to 128."""
        packed = self.network.network_address.packed
        if len(packed) == 4:
            return b"\0" * 10 + b"\xff\xff" + packed, self.network.prefixlen + 96
        return packed, self.network.prefixlen

    def __str__(self) -> str:
        if self.network.prefixlen == self.network.max_prefixlen:
            return str(self.network.network_address)
        return str(self.network)


class TrustedPeer(Value):
    """A trusted proxy in front of the gateway: a network, an address, or "unix"."""

    __slots__ = ("cidr",)

    WHAT = "a network or an address or 'unix'"
    EXAMPLES = ("10.0.0.0/8", "2001:db8::7", "unix")

    def __init__(self, cidr: Cidr | None) -> None:
        self.cidr = cidr
        """None: the peers of listeners on Unix sockets."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        if text == "unix":
            return cls(None)
        if text.startswith("unix:"):
            raise ValueError(
                f"{raw!r}: peers on Unix sockets have no address; write 'unix' for all of them"
            )
        try:
            return cls(Cidr.parse(text))
        except ValueError as error:
            raise (cls._bad(raw) if Cidr.WHAT in str(error) else error) from None

    @property
    def is_unix(self) -> bool:
        return self.cidr is None

    def _key(self) -> tuple[str]:
        return (str(self),)

    def __str__(self) -> str:
        return "unix" if self.cidr is None else str(self.cidr)


class Bind(Value):
    """An address to listen on: "0.0.0.0:8080", "[::]:8080", ":8080", "unix:/run/gate.sock"."""

    __slots__ = ("host", "path", "port")

    WHAT = "an address to listen on"
    EXAMPLES = ("127.0.0.1:8080", "[::]:8080", ":8080", "unix:/run/fastgate.sock")

    def __init__(self, host: str, port: int, path: str = "") -> None:
        self.host = host
        """An IP address; empty for a Unix socket."""
        self.port = port
        """0 to 65535; with 0 the system chooses, and the choice is logged."""
        self.path = path
        """The path of the Unix socket ("@name": an abstract one); otherwise empty."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raise ValueError(f"write ':{raw}' to listen on port {raw} of every address")
        text = cls._text(raw)
        if text.startswith("unix:"):
            return cls("", 0, _unix_path(text[5:], raw))
        host, colon, port = text.rpartition(":")
        if not colon or "/" in text:
            raise cls._bad(raw)
        number = _port(port, raw, 0)
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if bare in ("", "*"):
            bare = "0.0.0.0"
        elif bare == "localhost":
            bare = "127.0.0.1"
        address = _ip(bare)
        if address is None:
            raise ValueError(f"{raw!r}: {host!r} is not an IP address; listeners take no names")
        if address.version == 6 and not host.startswith("["):
            raise ValueError(f"{raw!r}: write an IPv6 address in brackets, as in '[::1]:8080'")
        return cls(str(address), number)

    def _key(self) -> tuple[str, int, str]:
        return (self.host, self.port, self.path)

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return bool(self.path)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.is_unix or ipaddress.ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """In the form for HTTP clients."""
        return str(self) if self.is_unix else f"http://{self}"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TargetUrl(Value):
    """Where an upstream listens: "http://10.0.0.11:9000", "https://app.internal/v1", "unix:/p",
    "http+srv://_http._tcp.app.internal"."""

    __slots__ = ("base", "host", "path", "port", "srv", "tls")

    WHAT = "a target"
    EXAMPLES = (
        "http://10.0.0.11:9000",
        "https://orders.internal",
        "unix:/run/orders.sock",
        "http+srv://_http._tcp.orders.internal",
    )

    def __init__(
        self,
        host: str,
        port: int,
        base: str = "",
        path: str = "",
        tls: bool = False,
        srv: bool = False,
    ) -> None:
        self.host = host
        """A host name in lower case or an IP address without brackets; empty: Unix socket. With
        `srv`: the name that has the records."""
        self.port = port
        """1 to 65535; the default is 80, with TLS 443. 0: of each SRV record."""
        self.base = base
        """The prefix of every forwarded path, "/api"; empty: none."""
        self.path = path
        """The path of the Unix socket; otherwise empty."""
        self.tls = tls
        """Whether it is `https`."""
        self.srv = srv
        """Whether its hosts and ports come from SRV records."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        if text.startswith("unix:"):
            return cls("", 0, path=_unix_path(text[5:], raw))
        scheme, colon, rest = text.partition("://")
        if colon and scheme.lower() == "srv":
            raise ValueError(f"{raw!r}: write 'http+srv://' or 'https+srv://'")
        scheme, plus, kind = scheme.lower().partition("+")
        if not colon or scheme not in _PORTS or (plus and kind != "srv"):
            raise cls._bad(raw)
        authority, slash, rest = rest.partition("/")
        # [^!-~] and not the range up to U+10FFFF, which takes 4 ms to compile.
        if re.search(r"[^!-~]|[?#\\]", rest) or "@" in authority:
            raise ValueError(
                f"{raw!r}: a target cannot have a query, a fragment, a user or special characters"
            )
        if re.search(r"[{}*]", rest):
            raise ValueError(
                f"{raw!r}: a base path is literal; parameters belong in the paths of routes, "
                "and the part of the path that they match is forwarded"
            )
        base = f"/{rest}".rstrip("/") if slash else ""
        if any(part in ("", ".", "..") for part in base.split("/")[1:]):
            raise ValueError(f"{raw!r}: a base path cannot have empty or dot segments")
        tls = scheme == "https"
        if plus:
            host = authority.lower()
            if not host_name(host) or _domain(host).startswith("_"):
                raise ValueError(
                    f"{raw!r}: {host!r} is not the name of SRV records, such as "
                    "'_http._tcp.orders.internal'; their ports are in the records"
                )
            return cls(host, 0, base, tls=tls, srv=True)
        host, port = cls._authority(authority.lower(), raw, _PORTS[scheme])
        return cls(host, port, base, tls=tls)

    @staticmethod
    def _authority(authority: str, raw: object, usual: int) -> tuple[str, int]:
        if authority.startswith("["):
            bare, _, after = authority[1:].partition("]")
            address = _ip(bare)
            if address is None or address.version != 6 or (after and not after.startswith(":")):
                raise ValueError(f"{raw!r}: {authority!r} is not an address")
            return str(address), _port(after[1:], raw, 1) if after else usual
        host, colon, port = authority.partition(":")
        address = _ip(host)
        if address is None and not host_name(host):
            raise ValueError(f"{raw!r}: {host!r} is neither a host name nor an IP address")
        return (host if address is None else str(address)), _port(port, raw, 1) if colon else usual

    def _key(self) -> tuple[str, int, str, str, bool, bool]:
        return (self.host, self.port, self.base, self.path, self.tls, self.srv)

    @property
    def is_unix(self) -> bool:
        """Whether it is a Unix socket."""
        return bool(self.path)

    @property
    def is_ip(self) -> bool:
        """Whether its address needs no name server."""
        return self.is_unix or _ip(self.host) is not None

    @property
    def authority(self) -> str:
        """The Host to send: without the scheme's own port; "localhost" for a Unix socket."""
        if self.is_unix:
            return "localhost"
        if self.srv:
            return self.server_name
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def server_name(self) -> str:
        """The host that certificates must be valid for. With SRV records: the domain that has the
        service, since whoever can change the records must not choose the name."""
        return _domain(self.host) if self.srv else self.host

    @property
    def scheme(self) -> str:
        """ "http" or "https"; of a Unix socket "http"."""
        return "https" if self.tls else "http"

    def authority_at(self, port: int | None) -> str:
        """The same with another port; None: its own."""
        if port is None or self.is_unix:
            return self.authority
        return type(self)(self.server_name, port, tls=self.tls).authority

    def __str__(self) -> str:
        if self.srv:
            return f"{self.scheme}+srv://{self.host}{self.base}"
        return f"unix:{self.path}" if self.path else f"{self.scheme}://{self.authority}{self.base}"
