"""PROXY headers, as load balancers write them; and a plain reading of them, to compare with."""

from __future__ import annotations

import ipaddress
import re
import struct

from fastgate._core.io.proxy_header import ProxyFault

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
FAMILIES = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
"""Family and protocol → bytes of two addresses."""
CRC32C, NOOP, AUTHORITY = 0x03, 0x04, 0x02


def version_1(
    source: str, destination: str = "10.0.0.1", ports: tuple[int, int] = (5, 80)
) -> bytes:
    """The line for a TCP connection. Both addresses are of the kind of the first."""
    if ":" in source and ":" not in destination:
        destination = "2001:db8::1"
    family = 6 if ":" in source else 4
    return f"PROXY TCP{family} {source} {destination} {ports[0]} {ports[1]}\r\n".encode()


def version_2(
    source: str,
    destination: str | None = None,
    ports: tuple[int, int] = (5, 80),
    tlvs: bytes = b"",
    *,
    checksum: bool = False,
) -> bytes:
    """The binary header for a TCP connection."""
    first = ipaddress.ip_address(source)
    other = destination or ("10.0.0.1" if first.version == 4 else "2001:db8::1")
    packed = first.packed + ipaddress.ip_address(other).packed + struct.pack("!HH", *ports)
    return binary(packed + tlvs, 0x11 if first.version == 4 else 0x21, checksum=checksum)


def binary(
    rest: bytes = b"", family: int = 0, command: int = PROXY, *, checksum: bool = False
) -> bytes:
    """A binary header with these addresses and TLVs. checksum: followed by one."""
    if checksum:
        rest += tlv(CRC32C, b"\0\0\0\0")
    header = SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest
    return header[:-4] + struct.pack("!I", crc32c(header)) if checksum else header


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# ---- a plain reading ----------------------------------------------------------------------------

Verdict = tuple[int, tuple[bytes, int] | None]
"""As `proxy_headers.parse`."""


def mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def naive(data: bytes) -> Verdict:
    """The standard, read word by word."""
    if SIGNATURE.startswith(data[:12]):
        return _naive_binary(data)
    if b"PROXY ".startswith(data[:6]):
        return _naive_line(data)
    return -ProxyFault.PROXY_ABSENT, None


def _naive_line(data: bytes) -> Verdict:
    line, end, _ = data[:107].partition(b"\n")
    if not end:
        return (-ProxyFault.PROXY_TOO_LONG if len(data) >= 107 else 0), None
    size = len(line) + 1
    if re.fullmatch(rb"PROXY UNKNOWN( .*)?\r", line, re.DOTALL):
        return size, None
    number = rb"(0|[1-9][0-9]{0,4})"
    found = re.fullmatch(rb"PROXY TCP([46]) (\S+) (\S+) %b %b\r" % (number, number), line)
    if found is None:
        return -ProxyFault.PROXY_BAD_LINE, None
    kind = ipaddress.IPv4Address if found[1] == b"4" else ipaddress.IPv6Address
    try:
        source, _ = kind(found[2].decode()), kind(found[3].decode())
        if max(int(found[4]), int(found[5])) > 65535 or b"%" in found[2] + found[3]:
            raise ValueError
    except ValueError:
        return -ProxyFault.PROXY_BAD_LINE, None
    return size, (mapped(source), int(found[4]))


def _naive_binary(data: bytes) -> Verdict:
    if len(data) > 12 and data[12] not in (LOCAL, PROXY):
        return -ProxyFault.PROXY_BAD_COMMAND, None
    local = len(data) > 12 and data[12] == LOCAL
    if len(data) > 13 and not local and data[13] not in FAMILIES:
        return -ProxyFault.PROXY_BAD_FAMILY, None
    if len(data) < 16:
        return 0, None
    size = 16 + struct.unpack_from("!H", data, 14)[0]
    least = 0 if local else FAMILIES[data[13]]
    if size > 4096:
        return -ProxyFault.PROXY_TOO_LONG, None
    if size < 16 + least:
        return -ProxyFault.PROXY_BAD_LENGTH, None
    if len(data) < size:
        return 0, None
    if local or data[13] not in (0x11, 0x21):
        return size, None
    fault = _naive_tlvs(data[:size], 16 + least)
    if fault:
        return -fault, None
    width = 4 if data[13] == 0x11 else 16
    source = ipaddress.ip_address(data[16 : 16 + width])
    return size, (mapped(source), struct.unpack_from("!H", data, 16 + 2 * width)[0])


def _naive_tlvs(header: bytes, at: int) -> int:
    while at < len(header):
        if at + 3 > len(header):
            return ProxyFault.PROXY_BAD_TLV
        kind, length = struct.unpack_from("!BH", header, at)
        value = header[at + 3 : at + 3 + length]
        if len(value) != length:
            return ProxyFault.PROXY_BAD_TLV
        if kind == CRC32C:
            blank = header[: at + 3] + b"\0\0\0\0" + header[at + 7 :]
            if length != 4 or crc32c(blank) != struct.unpack("!I", value)[0]:
                return ProxyFault.PROXY_BAD_CHECKSUM
        at += 3 + length
    return 0
