"""chunked: the step machine against a decoder that sees the whole body at once."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate._core.http1.chunked import ChunkFault
from fastgate._core.reason import Reason
from fastgate._core.testing.chunk_decoder import ChunkDecoder

MORE, END, BAD = 0, 1, -Reason.MALFORMED_REQUEST


def run(data: bytes, relay: bool, cuts: list[int] | None = None) -> tuple[int, int, bytes]:
    """Feeds `data` in pieces; code, octets consumed, output."""
    decoder = ChunkDecoder(relay)
    consumed, out, code = 0, b"", MORE
    edges = [0, *sorted(set(cuts or [])), len(data)]
    for start, end in itertools.pairwise(edges):
        code, used, piece = decoder.feed(data[start:end])
        assert len(piece) <= used <= end - start
        consumed += used
        out += piece
        if code != MORE:
            break
        assert used == end - start
    return code, consumed, out


TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
EXTENSIONS = rb"(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + QUOTED + rb"))?)*"
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(" + EXTENSIONS + rb")\r\n")
TRAILER = re.compile(TOKEN + rb":[\t -~\x80-\xff]*\r\n")


def whole(data: bytes) -> tuple[bytes, bytes, int] | None:
    """(data, canonical body, length) of a complete valid body at the front, the obvious way."""
    at, body, out, extra = 0, b"", b"", 0
    while True:
        line = SIZE_LINE.match(data, at)
        if line is None:
            return None
        size = int(line[1], 16)
        if size > 1 << 62:
            return None
        extra += len(line[2])
        at = line.end()
        digits = line[1].lstrip(b"0")
        # one zero of a padded size stays
        out += (b"0" if line[1].startswith(b"0") else b"") + digits + b"\r\n"
        if size == 0:
            break
        chunk = data[at : at + size]
        if data[at + size : at + size + 2] != b"\r\n":
            return None
        body += chunk
        out += chunk + b"\r\n"
        at += size + 2
    while trailer := TRAILER.match(data, at):
        extra += len(trailer[0])
        at = trailer.end()
    if data[at : at + 2] != b"\r\n" or extra > 16384:
        return None
    return body, out + b"\r\n", at + 2


GOOD = [
    (b"0\r\n\r\n", b"", b"0\r\n\r\n"),
    (b"000\r\n\r\n", b"", b"0\r\n\r\n"),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"a\r\n0123456789\r\n00\r\n\r\n", b"0123456789", b"a\r\n0123456789\r\n0\r\n\r\n"),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b"A\r\n0123456789\r\n0\r\n\r\n"),
    (b"0005\r\nhello\r\n0\r\n\r\n", b"hello", b"05\r\nhello\r\n0\r\n\r\n"),
    (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    (b'5;a=b;c="d \\" ;\r";e\r\nhello\r\n0\r\n\r\n', None, None),
    (b'5;a=b;c="d \\" ;";e\r\nhello\r\n0\r\n\r\n', b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    (b'1;a=""\r\nx\r\n0\r\n\r\n', b"x", b"1\r\nx\r\n0\r\n\r\n"),
    (b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", b"\r\n", b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n"),
    (b"1\r\nx\r\n0\r\nVary: *\r\nB:\r\n\r\n", b"x", b"1\r\nx\r\n0\r\n\r\n"),
    (b"0\r\nContent-Length: 50\r\n\r\n", b"", b"0\r\n\r\n"),
]


@pytest.mark.parametrize(("data", "body", "relayed"), GOOD)
def test_bodies(data: bytes, body: bytes | None, relayed: bytes | None) -> None:
    for cuts in ([], list(range(len(data)))):
        if body is None:
            assert run(data, False, cuts)[0] == BAD
            continue
        after = data + b"GET / HTTP/1.1\r\n"
        assert run(after, False, cuts) == (END, len(data), body)
        assert run(after, True, cuts) == (END, len(data), relayed)


@pytest.mark.parametrize(
    ("data", "fault", "at"),
    [
        (b"\r\n", "SIZE", 0),
        (b" 5\r\n", "SIZE", 0),
        (b"+5\r\n", "SIZE", 0),
        (b"-1\r\n", "SIZE", 0),
        (b"0x5\r\n", "SIZE", 1),
        (b"5 \r\n", "SIZE", 1),
        (b"5\t;a\r\n", "SIZE", 1),
        (b"1_0\r\n", "SIZE", 1),
        (b"5,\r\n", "SIZE", 1),
        (b"g\r\n", "SIZE", 0),
        (b";a\r\n", "SIZE", 0),
        (b"5\n", "LINE", 1),
        (b"5\rhello", "LINE", 2),
        (b"FFFFFFFFFFFFFFFF0\r\n", "OVERFLOW", 15),
        (b"4000000000000001\r\n", "OVERFLOW", 15),
        (b"00000000000000005\r\n", "OVERFLOW", 16),
        (b"5;\r\n", "EXTENSION", 2),
        (b"5;;a\r\n", "EXTENSION", 2),
        (b"5; a\r\n", "EXTENSION", 2),
        (b"5;a \r\n", "EXTENSION", 3),
        (b"5;a=\r\n", "EXTENSION", 4),
        (b"5;a==b\r\n", "EXTENSION", 4),
        (b"5;a=b=c\r\n", "EXTENSION", 5),
        (b'5;a"b"\r\n', "EXTENSION", 3),
        (b'5;a="b"c\r\n', "EXTENSION", 7),
        (b'5;a="b\r\n', "EXTENSION", 6),
        (b'5;a="\\\x00"\r\n', "EXTENSION", 6),
        (b"5;a\x00\r\n", "EXTENSION", 3),
        (b"5;a\n", "LINE", 3),
        (b"5;a\rb", "LINE", 4),
        (b"5\r\nhello0\r\n", "DATA", 8),
        (b"5\r\nhello\n", "DATA", 8),
        (b"5\r\nhello\r0", "DATA", 9),
        (b"5\r\nhello!!\r\n", "DATA", 8),
        (b"0\r\n\n", "TRAILER", 3),
        (b"0\r\n\rx", "LINE", 4),
        (b"0\r\n x: y\r\n", "TRAILER", 3),
        (b"0\r\n: y\r\n", "TRAILER", 3),
        (b"0\r\nx y: z\r\n", "TRAILER", 4),
        (b"0\r\nx\r\n", "TRAILER", 4),
        (b"0\r\nx: y\n", "LINE", 7),
        (b"0\r\nx: \x00", "TRAILER", 6),
        (b"0\r\nx: y\rz", "LINE", 8),
        (b"0\r\nx: y\r\n z\r\n", "TRAILER", 9),
    ],
)
def test_refused_bodies(data: bytes, fault: str, at: int) -> None:
    for relay in (False, True):
        for cuts in ([], list(range(len(data)))):
            code, consumed, _ = run(data, relay, cuts)
            assert (code, consumed) == (BAD, at)
    decoder = ChunkDecoder(False)
    decoder.feed(data)
    assert ChunkFault(decoder.fault).name == "CHUNK_FAULT_" + fault
    assert decoder.feed(b"0\r\n\r\n") == (BAD, 0, b"")


def test_sizes_up_to_the_bound() -> None:
    decoder = ChunkDecoder(False)
    assert decoder.feed(b"4000000000000000\r\nxyz") == (MORE, 21, b"xyz")
    assert decoder.total == 3
    assert ChunkDecoder(False).feed(b"0000000000000005\r\nhello") == (MORE, 23, b"hello")


def test_extensions_and_trailers_are_capped_together() -> None:
    data = b"1;" + b"a" * 8191 + b"\r\nx\r\n0\r\nb:" + b"c" * 8188
    assert run(data + b"\r\n\r\n", False) == (END, len(data) + 4, b"x")
    assert run(data + b"c\r\n\r\n", False) == (BAD, len(data) + 2, b"x")
    assert run(b"1;" + b"a" * 20000, True)[0] == BAD
    assert run((b"1;" + b"a" * 999 + b"\r\nx\r\n") * 17, False)[0] == BAD
    assert run((b"1;" + b"a" * 999 + b"\r\nx\r\n") * 16, False)[0] == MORE


def test_nothing_is_read_beyond_the_end() -> None:
    decoder = ChunkDecoder(True)
    assert decoder.feed(b"0\r\n\r\nrest") == (END, 5, b"0\r\n\r\n")
    assert decoder.feed(b"rest") == (END, 0, b"")


extension = st.sampled_from([b"", b"", b";a", b";a=b", b';q="x;\\"y"', b";a;b=1"])
trailer = st.sampled_from([b"X: y\r\n", b"Content-Length: 5\r\n", b"Z:\r\n"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    out = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        pad = b"0" * draw(st.integers(0, 3))
        size = pad + draw(st.sampled_from([b"%x", b"%X"])) % len(data)
        out += size + draw(extension) + b"\r\n" + data + b"\r\n"
    out += b"0" * draw(st.integers(1, 3)) + draw(extension) + b"\r\n"
    return out + b"".join(draw(st.lists(trailer, max_size=3))) + b"\r\n"


@given(bodies(), st.lists(st.integers(0, 300), max_size=20), st.binary(max_size=8))
def test_valid_bodies(data: bytes, cuts: list[int], rest: bytes) -> None:
    expected = whole(data)
    assert expected is not None
    body, relayed, length = expected
    assert length == len(data)
    cuts = [c for c in cuts if c < len(data)]
    assert run(data + rest, False, cuts) == (END, length, body)
    assert run(data + rest, True, cuts) == (END, length, relayed)
    # what is relayed is itself a body of the same data, and relayed unchanged
    assert run(relayed, False) == (END, len(relayed), body)
    assert run(relayed, True) == (END, len(relayed), relayed)


PIECES = [
    b"0", b"1", b"5", b"a", b"F", b"\r\n", b"\r\n", b"\r", b"\n", b";", b"=", b'"', b"\\", b" ",
    b"\t", b"x", b":", b"hello", b"\x00", b"\xff", b"0\r\n\r\n", b"1\r\nx\r\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.lists(st.integers(0, 60), max_size=10))
def test_any_body(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    once = run(data, False)
    expected = whole(data)
    if expected is not None:
        assert once == (END, expected[2], expected[0])
        assert run(data, True)[2] == expected[1]
    else:
        assert once[0] != END
    cuts = [c for c in cuts if c < len(data)]
    assert run(data, False, cuts) == once
    assert run(data, True, cuts) == run(data, True)
    # what was refused stays refused with more bytes, what is incomplete can still end well
    if once[0] == BAD:
        assert run(data + b"\r\n0\r\n\r\n", False) == once
