"""Socket addresses: packed for connect() in C, in Python's form, and as text."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

UNIX_PATH_MOST = 107
"""Maximum bytes of a Unix socket's path: sun_path without the NUL at its end."""


def listener_key(name: str, bind: str) -> str:
    """The key of a listener: its address, so that renaming it does not bind it again. With port 0,
    several may have the same address, so the name is added."""
    return f"{name} {bind}" if bind.endswith(":0") else bind


def pack_sockaddr(family: int, address: Sequence[Any]) -> bytes:
    """A struct sockaddr_in or sockaddr_in6 for connect()."""
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(
            "!H4s8x", address[1], socket.inet_pton(family, address[0])
        )
    if family == socket.AF_INET6:
        host = address[0].partition("%")[0]
        flow, scope = (*address[2:], 0, 0)[:2]
        packed = struct.pack("!HI16s", address[1], flow, socket.inet_pton(family, host))
        return struct.pack("=H", family) + packed + struct.pack("=I", scope)
    raise ValueError(f"an address of the family {family} cannot be connected to")


def pack_unix(path: str) -> bytes:
    """A struct sockaddr_un; "@name" is a name in the abstract namespace."""
    raw = path.encode()
    name = b"\0" + raw[1:] if path.startswith("@") else raw + b"\0"
    return struct.pack("=H", socket.AF_UNIX) + name


def unpack_sockaddr(packed: bytes) -> tuple[int, Any] | None:
    """A C `struct sockaddr` as (family, argument of Python's connect()); None if it is empty."""
    if len(packed) < 3:
        return None
    (family,) = struct.unpack_from("=H", packed)
    if family == socket.AF_INET:
        (port,) = struct.unpack_from("!H", packed, 2)
        return family, (socket.inet_ntop(family, packed[4:8]), port)
    if family == socket.AF_INET6:
        port, flow = struct.unpack_from("!HI", packed, 2)
        (scope,) = struct.unpack_from("=I", packed, 24)
        return family, (socket.inet_ntop(family, packed[8:24]), port, flow, scope)
    if family == socket.AF_UNIX:
        path = packed[2:]
        # An abstract address begins with NUL and may contain NULs.
        return family, path if path[:1] == b"\0" else path.split(b"\0", 1)[0].decode()
    raise ValueError(f"address family {family}")


def address_text(family: int, address: Any) -> str:
    """`127.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`; `unix:@name` in the abstract namespace.

    `address`: in the form of connect() and getsockname().
    """
    if family == socket.AF_UNIX:
        path = os.fsdecode(address)  # an abstract address is bytes
        return f"unix:@{path[1:]}" if path[:1] == "\0" else f"unix:{path}"
    host, port = address[:2]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
