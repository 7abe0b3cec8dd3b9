"""uri: authorities against the standard library's notion of addresses, and the laws of the
canonical path against a slow, obvious model."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgate._core.http.uri import normalize
from fastgate._core.reason import Reason
from fastgate._core.testing.authorities import split_authority

BAD = -Reason.BAD_TARGET
EMPTY, USERINFO, HOST, PORT = -1, -2, -3, -4


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"//", b"/"),
        (b"///a//b///", b"/a/b/"),
        (b"/.", b"/"),
        (b"/./", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/..", b"/"),
        (b"/a/../", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/../c", b"/a/c"),
        (b"/a/b/../../c", b"/c"),
        (b"/a//../b", b"/b"),
        (b"/a/...", b"/a/..."),
        (b"/a/..b/.c", b"/a/..b/.c"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/%2e/b", b"/b"),
        (b"/%61%7E%2d", b"/a~-"),
        (b"/%c3%a9%3f%23", b"/%C3%A9%3F%23"),
        (b"/%252e%252e/", b"/%252e%252e/"),
        (b"/a;v=1/b;", b"/a;v=1/b;"),
        (b"/a%3bb", b"/a%3Bb"),
        (b"/a;../b", b"/a;../b"),
        (b"/a%3b..", b"/a%3B.."),
        (b"/[a]|b", b"/[a]|b"),
        (b"/%20%0a", b"/%20%0A"),
    ],
)
def test_canonical_paths(path: bytes, canonical: bytes) -> None:
    assert normalize(path) == canonical


@pytest.mark.parametrize(
    "path",
    [
        b"", b"a", b"?", b"*", b"/..", b"/../a", b"/a/../..", b"/a/../../b", b"/./..", b"/%2e%2e",
        b"/a/..;", b"/a/..;x/b", b"/a/.;x", b"/a/%2e%2e;x", b"/a/..%3bx", b"/a/%2e%3B", b"/..;/",
        b"/%00", b"/a%00b", b"/%", b"/%4", b"/%zz", b"/%4z", b"/a%2fb", b"/a%2Fb", b"/a%5cb",
        b"/a\\b", b"/a b", b"/a?b", b"/a#b", b"/\xe9", b"/\x7f", b"/a\tb", b'/"', b"/{a}", b"/^",
    ],
)  # fmt: skip
def test_refused_paths(path: bytes) -> None:
    assert normalize(path) == BAD


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a%5Cb", b"/a%5Cb"),
        (b"/a\\b", b"/a%5Cb"),
        (b"/a%2f%2fb", b"/a%2F%2Fb"),
        (b"/a%2fb/../c", b"/c"),
        (b"/a%2f..b", b"/a%2F..b"),
        (b"/a;x%2fb", b"/a;x%2Fb"),
        (b"/a%2f..", BAD),
        (b"/..%2fa", BAD),
        (b"/a%2f..%2fb", BAD),
        (b"/a\\..\\b", BAD),
        (b"/a%2f.%2fb", BAD),
        (b"/a%2f%2e%2e", BAD),
        (b"/a%5c..;x", BAD),
        (b"/a;x%2f..", BAD),
        (b"/%2f..", BAD),
        (b"/a%00", BAD),
    ],
)
def test_paths_where_a_route_allows_encoded_slashes(path: bytes, canonical: object) -> None:
    assert normalize(path, True) == canonical


def test_room_for_the_result() -> None:
    full = -Reason.TARGET_TOO_LONG
    assert normalize(b"/abc", cap=4) == b"/abc"
    assert normalize(b"/abc", cap=3) == full
    assert normalize(b"/abc", cap=0) == full
    assert normalize(b"/a%c3", cap=5) == b"/a%C3"
    assert normalize(b"/a%c3", cap=4) == full
    assert normalize(b"/%61", cap=2) == b"/a"
    assert normalize(b"/%61", cap=1) == full
    assert normalize(b"/\\", True, cap=4) == b"/%5C"
    assert normalize(b"/\\", True, cap=3) == full
    assert normalize(b"/a/%61", cap=4) == b"/a/a"
    assert normalize(b"/a//", cap=2) == full


def model(path: bytes, allow: bool, merge: bool = True) -> bytes | None:
    """The canonical path the slow way: by splitting, decoding and joining."""
    allowed = rb"A-Za-z0-9\-._~!$&'()*+,;=:@/|\[\]"
    if not re.fullmatch(rb"/(?:[" + allowed + rb"\\]|%[0-9A-Fa-f]{2})*", path):
        return None
    if b"%00" in path or (not allow and re.search(rb"(?i)%2f|%5c|\\", path)):
        return None

    def escape(found: re.Match[bytes]) -> bytes:
        octet = unquote_to_bytes(found[0])
        return octet if re.match(rb"[A-Za-z0-9\-._~]", octet) else found[0].upper()

    path = re.sub(rb"%..", escape, path.replace(b"\\", b"%5C"))
    *parts, last = path[1:].split(b"/")
    out: list[bytes] = []
    kept = [part for part in parts if part or not merge]
    for part in [*kept, last] if last else kept:
        if part == b"..":
            if not out:
                return None
            out.pop()
        elif part != b".":
            for piece in re.split(rb"%2F|%5C", part):
                if re.split(rb";|%3B", piece)[0] in (b".", b".."):
                    return None
            out.append(part)
    tail = b"/" if out and last in (b"", b".", b"..") else b""
    return b"/" + b"/".join(out) + tail


PIECES = [
    b"/", b"//", b".", b"..", b"a", b"bc", b";", b"%2e", b"%2E", b"%2f", b"%5C", b"\\", b"%3b",
    b"%41", b"%c3", b"%25", b"%", b"%0", b"%00", b"~", b"[", b"{", b" ", b"?", b"\xe9", b"=1",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans(), st.booleans())
@example([b"a", b"/", b".."], False, True)
@example([b"a", b"//", b".."], False, False)
@example([b".", b"//", b"a"], False, False)
def test_against_the_model(pieces: list[bytes], allow: bool, merge: bool) -> None:
    path = b"/" + b"".join(pieces)
    expected = model(path, allow, merge)
    result = normalize(path, allow, merge_slashes=merge)
    assert result == (BAD if expected is None else expected)


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"//", b"//"),
        (b"/a//b///", b"/a//b///"),
        (b"/a//../b", b"/a/b"),
        (b"/a//../../b", b"/b"),
        (b"//..", b"/"),
        (b"//../..", BAD),
        (b"/a/.//b", b"/a//b"),
        (b"/a//%2e/b", b"/a//b"),
    ],
)
def test_slashes_that_are_not_merged_make_empty_segments(path: bytes, canonical: object) -> None:
    assert normalize(path, merge_slashes=False) == canonical


@given(st.lists(st.sampled_from(PIECES[:20]), max_size=12), st.booleans())
def test_the_canonical_path_is_a_fixed_point(pieces: list[bytes], merge: bool) -> None:
    path = b"/" + b"".join(pieces)
    once = normalize(path, True, merge_slashes=merge)
    if isinstance(once, bytes):
        assert normalize(once, True, merge_slashes=merge) == once
        assert len(once) <= len(path) + 2 * path.count(b"\\")
        # no segment that any reader could take for a dot segment is left
        assert not re.search(rb"(?i)(^|/|%2F|%5C)\.\.?(/|%2F|%5C|;|%3B|$)", once)


@given(st.binary(max_size=30), st.booleans())
def test_any_octets(path: bytes, allow: bool) -> None:
    expected = model(b"/" + path, allow)
    assert normalize(b"/" + path, allow) == (BAD if expected is None else expected)


# ---- authorities -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (b"a", (b"a", -1)),
        (b"a.", (b"a", -1)),
        (b"a.:8", (b"a", 8)),
        (b"A.b-c_d~e:65535", (b"A.b-c_d~e", 65535)),
        (b"1.2.3.4:00080", (b"1.2.3.4", 80)),
        (b"a:0", (b"a", 0)),
        (b"[::]:1", (b"[::]", 1)),
        (b"x" * 255, (b"x" * 255, -1)),
        (b"x" * 256, HOST),
        (b"", EMPTY),
        (b":1", EMPTY),
        (b".", HOST),
        (b".a", HOST),
        (b"a..", HOST),
        (b"a..b", HOST),
        (b"a,b", HOST),
        (b"a/", HOST),
        (b"a\x00", HOST),
        (b"[v1.x]", HOST),
        (b"[::1%eth0]", HOST),
        (b"[]", HOST),
        (b"[", HOST),
        (b"[::1]a", HOST),
        (b"::1", PORT),
        (b"a:", PORT),
        (b"a:-1", PORT),
        (b"a:65536", PORT),
        (b"a:99999", PORT),
        (b"a:123456", PORT),
        (b"a: 1", PORT),
        (b"u@a", USERINFO),
        (b"u:p@a", USERINFO),
        (b"u:80@a", USERINFO),
        (b"@a", USERINFO),
    ],
)
def test_authorities(value: bytes, result: object) -> None:
    assert split_authority(value) == result


@given(st.ip_addresses(v=6), st.booleans())
def test_every_ipv6_address_in_its_spellings(address: ipaddress.IPv6Address, long: bool) -> None:
    spelling = b"[" + (address.exploded if long else str(address)).encode() + b"]"
    assert split_authority(spelling + b":443") == (spelling, 443)


@given(st.lists(st.sampled_from(["0", "1", "ffff", "12345", "g", ":", "::", "1.2.3.4", "."])))
def test_ipv6_against_the_standard_library(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        ipaddress.IPv6Address(text)
        valid = True
    except ValueError:
        valid = False
    literal = b"[" + text.encode() + b"]"
    assert split_authority(literal) == ((literal, -1) if valid else HOST)


@given(st.lists(st.sampled_from([f"{i:x}" for i in range(3)]), max_size=9), st.integers(0, 9))
def test_ipv6_groups_around_the_gap(groups: list[str], gap: int) -> None:
    text = ":".join(groups[:gap]) + "::" + ":".join(groups[gap:])
    try:
        ipaddress.IPv6Address(text)
        valid = True
    except ValueError:
        valid = False
    literal = b"[" + text.encode() + b"]"
    assert split_authority(literal) == ((literal, -1) if valid else HOST)
