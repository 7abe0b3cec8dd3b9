"""PROXY headers, versions 1 and 2: what is one, whom it announces, and where it ends."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxykit import (
    AUTHORITY,
    CRC32C,
    FAMILIES,
    LOCAL,
    NOOP,
    SIGNATURE,
    binary,
    crc32c,
    mapped,
    naive,
    tlv,
    version_1,
    version_2,
)

from fastgate._core.io.proxy_faults import PROXY_FAULT_TEXTS
from fastgate._core.io.proxy_header import ProxyFault
from fastgate._core.testing.proxy_headers import parse

V4 = b"\xcb\x00\x71\x09\x0a\x00\x00\x01\x04\xd2\x01\xbb"  # 203.0.113.9:1234 → 10.0.0.1:443


def client(address: str, port: int = 5) -> tuple[bytes, int]:
    return mapped(ipaddress.ip_address(address)), port


# ---- whom they announce -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [version_1, version_2])
@pytest.mark.parametrize(
    "address", ["203.0.113.9", "0.0.0.0", "2001:db8::9", "::", "::ffff:1.2.3.4"]
)
def test_the_client_is_the_source(make, address: str) -> None:
    header = make(address)
    assert parse(header) == (len(header), client(address))
    assert parse(header + b"GET / HTTP/1.1\r\n") == (len(header), client(address))


def test_mapped_addresses_are_ipv4() -> None:
    assert parse(version_1("::ffff:192.0.2.1"))[1] == parse(version_1("192.0.2.1"))[1]


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff 65535 anything \xff\0\r\n",
        binary(command=LOCAL),
        binary(V4, 0x11, LOCAL),
        binary(b"what a LOCAL header has is not looked at", 0x77, LOCAL),
        binary(),
        binary(b"nor is what follows no address"),
        binary(V4, 0x12),  # datagrams
        binary(b"\1" * 216, 0x31),  # Unix sockets
        binary(b"\1" * 216, 0x32),
    ],
)
def test_the_peer_remains_the_client(header: bytes) -> None:
    assert parse(header + b"rest") == (len(header), None)


def test_the_longest_line_of_version_1() -> None:
    long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    header = b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (long.encode(), long.encode())
    assert len(header) == 107
    assert parse(header) == (107, None)
    assert parse(b"PROXY UNKNOWN " + b"x" * 92) == (0, None)
    assert parse(b"PROXY UNKNOWN " + b"x" * 93) == (-ProxyFault.PROXY_TOO_LONG, None)
    assert parse(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n") == (-ProxyFault.PROXY_TOO_LONG, None)


def test_the_longest_header_of_version_2() -> None:
    room = 4096 - 16 - len(V4) - 3
    header = binary(V4 + tlv(NOOP, b"x" * room), 0x11)
    assert parse(header) == (4096, client("203.0.113.9", 1234))
    longer = binary(V4 + tlv(NOOP, b"x" * (room + 1)), 0x11)
    assert parse(longer) == (-ProxyFault.PROXY_TOO_LONG, None)
    assert parse(longer[:16]) == (-ProxyFault.PROXY_TOO_LONG, None)


# ---- what is none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 \r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOW\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4\r 1 2\r\n",
        b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 host 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP6 [::1] ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 123456 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    ],
)
def test_lines_that_are_not_as_they_have_to_be(line: bytes) -> None:
    assert parse(line) == (-ProxyFault.PROXY_BAD_LINE, None)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"proxy TCP4", b"\r\n\r\n\r\n", b"\n", b"PROXY\t"],
)
def test_what_does_not_begin_with_one(data: bytes) -> None:
    assert parse(data) == (-ProxyFault.PROXY_ABSENT, None)


@pytest.mark.parametrize("command", [0x00, 0x11, 0x22, 0x2F, 0x30, 0xFF])
def test_other_versions_and_commands(command: int) -> None:
    assert parse(binary(V4, 0x11, command)) == (-ProxyFault.PROXY_BAD_COMMAND, None)


@pytest.mark.parametrize("family", sorted(set(range(256)) - set(FAMILIES)))
def test_unknown_families(family: int) -> None:
    assert parse(binary(b"\0" * 300, family)) == (-ProxyFault.PROXY_BAD_FAMILY, None)


@pytest.mark.parametrize(("family", "size"), [each for each in FAMILIES.items() if each[1]])
def test_addresses_that_do_not_fit(family: int, size: int) -> None:
    assert parse(binary(b"\0" * size, family))[0] == 16 + size
    assert parse(binary(b"\0" * (size - 1), family)) == (-ProxyFault.PROXY_BAD_LENGTH, None)


# ---- TLVs ---------------------------------------------------------------------------------------


def test_tlvs_are_skipped() -> None:
    tlvs = tlv(AUTHORITY, b"a.example") + tlv(0xE0, b"") + tlv(NOOP, b"\0" * 100)
    header = version_2("203.0.113.9", tlvs=tlvs)
    assert parse(header) == (len(header), client("203.0.113.9"))


@pytest.mark.parametrize("rest", [b"\x04", b"\x04\0", b"\x04\0\1", b"\x04\xff\xff" + b"x" * 20])
def test_damaged_tlvs(rest: bytes) -> None:
    for before in (b"", tlv(NOOP, b"x")):
        assert parse(binary(V4 + before + rest, 0x11)) == (-ProxyFault.PROXY_BAD_TLV, None)


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4, and everyone's check value


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9"])
def test_checksums(address: str) -> None:
    header = version_2(address, tlvs=tlv(AUTHORITY, b"a.example"), checksum=True)
    assert parse(header) == (len(header), client(address))
    for i in {*range(16, len(header))} - {len(header) - 7}:  # the type of the checksum's own TLV
        damaged = header[:i] + bytes([header[i] ^ 1]) + header[i + 1 :]
        assert parse(damaged)[0] < 0
    short = binary(V4 + tlv(CRC32C, b"\0\0\0"), 0x11)
    assert parse(short) == (-ProxyFault.PROXY_BAD_CHECKSUM, None)


# ---- any bytes ----------------------------------------------------------------------------------


ADDRESSES = st.ip_addresses()
PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535))
TLVS = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != CRC32C), st.binary(max_size=40)),
    max_size=4,
).map(lambda pairs: b"".join(tlv(*pair) for pair in pairs))


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    source = draw(ADDRESSES)
    other = draw(st.ip_addresses(v=source.version))
    if draw(st.booleans()):
        return version_1(str(source), str(other), draw(PORTS))
    return version_2(str(source), str(other), draw(PORTS), draw(TLVS), checksum=draw(st.booleans()))


@given(headers(), st.binary(max_size=30))
def test_headers_end_where_they_end(header: bytes, rest: bytes) -> None:
    found = parse(header + rest)
    assert found[0] == len(header)
    assert found == naive(header + rest)
    for n in range(len(header)):
        assert parse(header[:n]) == (0, None)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(headers()) + draw(st.binary(max_size=8)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 4)))
        data[at:end] = draw(st.sampled_from(WORDS) | st.binary(max_size=3))
    return bytes(data)


WORDS = [b" ", b"\r\n", b"\n", b"\0", b"%", b"::", b".", b"0", b"PROXY ", b"TCP4 ", b"TCP6 ",
         b"UNKNOWN", SIGNATURE, b"\x20", b"\x21\x11", b"\x03\0\x04"]  # fmt: skip


@given(damaged() | st.binary(max_size=150) | st.binary(max_size=60).map(lambda b: SIGNATURE + b))
def test_a_beginning_is_never_judged_other_than_the_whole(data: bytes) -> None:
    whole = parse(data)
    assert whole == naive(data)
    assert whole[0] <= min(len(data), 4096)
    for n in range(len(data)):
        assert parse(data[:n]) in ((0, None), whole)


# ---- words --------------------------------------------------------------------------------------


def test_every_fault_has_a_text() -> None:
    assert len(PROXY_FAULT_TEXTS) == ProxyFault.PROXY_FAULTS
    assert len(set(PROXY_FAULT_TEXTS)) == len(PROXY_FAULT_TEXTS)
