"""Socket addresses, packed and unpacked again, and as text."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from fastgate.sockaddr import address_text, pack_sockaddr, pack_unix, unpack_sockaddr


def test_addresses_are_unpacked_as_connect_takes_them() -> None:
    v4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 8080, bytes([10, 0, 0, 7]))
    assert unpack_sockaddr(v4) == (socket.AF_INET, ("10.0.0.7", 8080))
    loopback = socket.inet_pton(socket.AF_INET6, "::1")
    v6 = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", 443, 0, loopback)
    assert unpack_sockaddr(v6 + struct.pack("=I", 2)) == (socket.AF_INET6, ("::1", 443, 0, 2))
    unix = struct.pack("=H", socket.AF_UNIX)
    assert unpack_sockaddr(unix + b"/run/app.sock\0") == (socket.AF_UNIX, "/run/app.sock")
    assert unpack_sockaddr(unix + b"\0name") == (socket.AF_UNIX, b"\0name")
    assert unpack_sockaddr(b"") is None
    with pytest.raises(ValueError, match="family"):
        unpack_sockaddr(struct.pack("=H", 99) + b"xx")


@pytest.mark.parametrize(
    ("packed", "address", "text"),
    [
        (pack_sockaddr(socket.AF_INET, ("10.0.0.7", 80)), ("10.0.0.7", 80), "10.0.0.7:80"),
        (pack_sockaddr(socket.AF_INET6, ("::1", 80)), ("::1", 80, 0, 0), "[::1]:80"),
        (pack_unix("/run/app.sock"), "/run/app.sock", "unix:/run/app.sock"),
        (pack_unix("@app"), b"\0app", "unix:@app"),
    ],
)
def test_what_is_packed_is_unpacked_and_shown(packed: bytes, address: Any, text: str) -> None:
    unpacked = unpack_sockaddr(packed)
    assert unpacked is not None
    assert unpacked[1] == address
    assert address_text(*unpacked) == text
