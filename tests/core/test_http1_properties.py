"""http1: what must hold for any bytes. Splits change nothing, scanners change nothing, spans
stay inside, and h11 and llhttp (httptools) agree but for the differences listed here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import h11
import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgate._core.http.head import Framing, ParseFault
from fastgate._core.testing.parsed_head import ParsedHead
from fastgate._core.testing.scanners import scan_class, scanner, scanners, use_scanner

CLASSES = {
    1: rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]",
    2: rb"[\t\x20-\x7e\x80-\xff]",
    4: rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]|]",
    8: rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]|?{}^`\\]",
    16: rb"[A-Za-z0-9\-._~]",
    32: rb"[A-Za-z0-9\-._~]",
    64: rb"[\-0-9A-Za-z]",
    128: rb"[0-9]",
}


@pytest.fixture(params=scanners())
def each_scanner(request: pytest.FixtureRequest) -> Iterator[str]:
    before = scanner()
    use_scanner(request.param)
    yield request.param
    use_scanner(before)


def test_scanners_are_known_by_name() -> None:
    assert scanners()[-2:] == ("word", "table")
    assert scanner() == scanners()[0]
    with pytest.raises(ValueError, match="no scanner 'mmx'"):
        use_scanner("mmx")


@pytest.mark.parametrize("bit", list(CLASSES))
def test_each_octet_is_in_its_classes(each_scanner: str, bit: int) -> None:
    for octet in range(256):
        # alone, and where only a vector sees it
        member = re.fullmatch(CLASSES[bit], bytes([octet]), re.DOTALL) is not None
        for before, after in ((0, 0), (0, 40), (3, 60), (31, 1), (33, 0), (40, 40)):
            data = b"5" * before + bytes([octet]) + b"5" * after
            assert scan_class(data, bit) == (len(data) if member else before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b"a" * 31, b"9", b" ", b"\t", b"\x00", b"\x80", b"\x7f", b"_"])))
def test_scanners_agree_with_the_classes(each_scanner: str, pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    for bit, pattern in CLASSES.items():
        found = re.match(pattern + rb"*", data, re.DOTALL)
        assert found is not None
        assert scan_class(data, bit) == found.end()


# ---- heads of every shape ----------------------------------------------------------------

METHODS = [b"GET", b"GET", b"POST", b"OPTIONS", b"CONNECT", b"x", b"", b"P@"]
VERSIONS = [b"HTTP/1.1"] * 5 + [b"HTTP/1.0"] * 2 + [b"HTTP/2.0", b"HTTP/1"]
TARGETS = [
    b"/", b"/a/b?c=d", b"*", b"http://a/x", b"http://a", b"a:80", b"/a//b", b"/%2e%2e/", b"/%2f",
    b"/#", b"/\xff", b"/{", b"/?{", b"//", b"/a;b", b"http://u@a/", b"ftp://a/", b"/%00", b"/%",
    b"",
]  # fmt: skip
NAMES = [
    b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect",
    b"X-Thing", b"x_y", b"X-Consumer-Id", b"User-Agent", b"", b"bad name", b"Keep-Alive", b"TE",
]  # fmt: skip
VALUES = [
    b"a", b"a:80", b"5", b"05", b"5,5", b"", b"chunked", b"Chunked", b"gzip", b"gzip, chunked",
    b"close", b"keep-alive", b"Upgrade", b"websocket", b"h2c", b"100-continue", b"x, close",
    b"x-thing", b"\xe9", b"a\tb", b"\x00", b"\x0b", b"a\rb", b"-1", b"[::1]", b"u@a", b"  a  ",
]  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Request heads, mostly nearly right."""
    method = draw(st.sampled_from(METHODS))
    version = draw(st.sampled_from(VERSIONS))
    out = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n", b" "]))
    out += method + b" " + draw(st.sampled_from(TARGETS[:6] * 3 + TARGETS)) + b" " + version
    end = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"\r\n "])
    out += draw(end)
    names = draw(st.lists(st.sampled_from(NAMES), max_size=6))
    if draw(st.booleans()):
        names.insert(0, b"Host")
    for name in names:
        colon = draw(st.sampled_from([b": "] * 9 + [b":", b" : ", b""]))
        value = b"a" if name == b"Host" else draw(st.sampled_from(VALUES))
        out += name + colon + value + draw(end)
    return out + draw(st.sampled_from([b"\r\n"] * 5 + [b"", b"\n"])) + draw(st.binary(max_size=3))


LIMITS = st.tuples(
    st.sampled_from([8192, 8192, 12, 20, 40]),
    st.sampled_from([32768, 32768, 30, 60, 100]),
    st.sampled_from([100, 100, 2]),
    st.sampled_from([16384, 16384, 10, 20]),
)


@settings(max_examples=400)
@given(heads(), LIMITS, st.lists(st.integers(0, 200), max_size=8))
def test_whole_split_and_octet_by_octet_are_the_same(
    data: bytes, limits: tuple[int, int, int, int], cuts: list[int]
) -> None:
    whole = ParsedHead.request(data, limits=limits)
    for way in (range(len(data)), sorted(c for c in cuts if c < len(data))):
        assert ParsedHead.request(data, way, limits).summary == whole.summary
    check(whole, data)


STARTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204", b"HTTP/1.1 304 ", b"HTTP/1.1 99 x",
    b"HTTP/2 200", b"HTTP/1.1 100 Continue", b"HTTP/1.1 600 x", b"", b"\r\n",
]  # fmt: skip


@settings(max_examples=200)
@given(heads(), st.sampled_from(STARTS), LIMITS, st.lists(st.integers(0, 200), max_size=8))
def test_responses_too(
    data: bytes, start: bytes, limits: tuple[int, int, int, int], cuts: list[int]
) -> None:
    data = start + b"\r\n" + data.lstrip().partition(b"\r\n")[2]
    whole = ParsedHead.response(data, limits=limits)
    for way in (range(len(data)), sorted(c for c in cuts if c < len(data))):
        assert ParsedHead.response(data, 1, way, limits).summary == whole.summary
    check(whole, data)


def check(head: ParsedHead, data: bytes) -> None:
    """What holds for every result."""
    assert head.code <= len(data)
    assert (head.code < 0) == (head.fault != ParseFault.FAULT_NONE)
    assert 0 <= head.fault < ParseFault.FAULT_COUNT
    if head.code > 0:
        assert data[head.code - 4 : head.code] == b"\r\n\r\n"
        for (name, value, _, _), line in zip(head.fields, head.lines, strict=True):
            assert line.startswith(name + b":")
            assert line.endswith(b"\r\n")
            assert line[len(name) + 1 :].strip(b" \t\r\n") == value.strip(b" \t")
            assert value == value.strip(b" \t")


@settings(max_examples=200)
@given(heads())
def test_all_scanners_parse_alike(data: bytes) -> None:
    results = []
    before = scanner()
    for name in scanners():
        use_scanner(name)
        results.append(ParsedHead.request(data).summary)
    use_scanner(before)
    assert all(r == results[0] for r in results)


# ---- oracles -----------------------------------------------------------------------------
#
# Where we refuse what an oracle takes, the fault stands in its table with the shortest example
# and the reason; every example is tried, and a difference that is not in the table fails. What
# we take and an oracle refuses is said in TAKEN_BUT_*.

START = b"GET / HTTP/1.1\r\nHost: a\r\n"

H11_TAKES = {
    "METHOD": (b"A" * 33 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", "methods of any length"),
    "BARE_LF": (b"GET / HTTP/1.1\nHost: a\n\n", "LF ends a line"),
    "FOLDING": (START + b"A: b\r\n c\r\n\r\n", "obs-fold is unfolded"),
    "FIELDS_TOO_MANY": (START + b"A: b\r\n" * 101 + b"\r\n", "no cap on the number of fields"),
    "VERSION_UNSUPPORTED": (b"GET / HTTP/2.0\r\n\r\n", "any d.d; the caller must refuse"),
    "TARGET_CHARACTER": (b"GET /{ HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_FRAGMENT": (b"GET /# HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_ESCAPE": (b"GET /% HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_NUL": (b"GET /%00 HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_FORM": (b"GET * HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_SCHEME": (b"GET ftp://a/ HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_USERINFO": (b"GET http://u@a/ HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "TARGET_AUTHORITY": (b"CONNECT / HTTP/1.0\r\n\r\n", "targets are not parsed"),
    "HOST_EMPTY": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host is counted, not parsed"),
    "HOST_INVALID": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "Host is counted, not parsed"),
    "HOST_USERINFO": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "Host is counted, not parsed"),
    "HOST_PORT": (b"GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", "Host is counted, not parsed"),
    "HOST_MISMATCH": (b"GET http://a HTTP/1.1\r\nHost: b\r\n\r\n", "targets are not parsed"),
    "LENGTH_INVALID": (START + b"Content-Length: 5,5\r\n\r\n", "lists of one length"),
    "LENGTH_REPEATED": (START + b"Content-Length: 5\r\n" * 2 + b"\r\n", "lists of one length"),
    "LENGTH_WITH_CODING": (
        START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "the coding wins, and the length is forgotten",
    ),
    "LENGTH_OVERFLOW": (START + b"Content-Length: 9999999999999999999\r\n\r\n", "any integer"),
    "CODING_HTTP10": (
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "the coding is taken whatever the version",
    ),
    "CONNECTION_INVALID": (START + b"Connection: a b\r\n\r\n", "elements need not be tokens"),
    "UPGRADE_BODY": (
        START + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
        "upgrades are the caller's",
    ),
}

LLHTTP_TAKES = {
    "BLANK_LINES": (b"\r\n\r\n" + START + b"\r\n", "any number of empty lines"),
    "FIELDS_TOO_MANY": (START + b"A: b\r\n" * 101 + b"\r\n", "no cap on the number of fields"),
    "VERSION_MALFORMED": (b"CONNECT  \r\n\r\n", "CONNECT with no target, as HTTP/0.9"),
    "BARE_LF": (b"CONNECT  HTTP/0.9\n\r\n", "CONNECT with no target, as HTTP/0.9"),
    "VERSION_UNSUPPORTED": (b"GET / HTTP/2.0\r\n\r\n", "0.9 and 2.0 too"),
    "TARGET_MISSING": (b"CONNECT  HTTP/1.1\r\n\r\n", "CONNECT without a target"),
    "TARGET_CHARACTER": (b"GET /{ HTTP/1.0\r\n\r\n", "most of ASCII in a target"),
    "TARGET_FRAGMENT": (b"GET /# HTTP/1.0\r\n\r\n", "fragments are kept"),
    "TARGET_ESCAPE": (b"GET /% HTTP/1.0\r\n\r\n", "escapes are not looked at"),
    "TARGET_NUL": (b"GET /%00 HTTP/1.0\r\n\r\n", "escapes are not looked at"),
    "TARGET_FORM": (b"GET * HTTP/1.0\r\n\r\n", "asterisk for every method"),
    "TARGET_SCHEME": (b"GET ftp://a/ HTTP/1.0\r\n\r\n", "any scheme"),
    "TARGET_USERINFO": (b"GET http://u@a/ HTTP/1.0\r\n\r\n", "userinfo"),
    "TARGET_AUTHORITY": (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT without a port"),
    "HOST_MISSING": (b"GET / HTTP/1.1\r\n\r\n", "Host is the user's affair"),
    "HOST_REPEATED": (START + b"Host: a\r\n\r\n", "Host is the user's affair"),
    "HOST_EMPTY": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host is the user's affair"),
    "HOST_INVALID": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "Host is the user's affair"),
    "HOST_USERINFO": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "Host is the user's affair"),
    "HOST_PORT": (b"GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", "Host is the user's affair"),
    "HOST_MISMATCH": (b"GET http://a HTTP/1.1\r\nHost: b\r\n\r\n", "Host is the user's affair"),
    "CODING_UNKNOWN": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "any coding before a final chunked",
    ),
    "CODING_INVALID": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: a b, chunked\r\n\r\n",
        "anything before a final chunked",
    ),
    "CODING_HTTP10": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "the coding is taken whatever the version",
    ),
    "CONNECTION_INVALID": (START + b"Connection: a b\r\n\r\n", "elements need not be tokens"),
    "UPGRADE_BODY": (
        START + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
        "upgrades are the user's",
    ),
}


def h11_parses(data: bytes) -> h11.Request | None:
    """The request, or None: refused or not complete."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def taken_but_not_by_h11(data: bytes) -> bool:
    """One empty line before the request line is for us what RFC 9112 2.2 advises."""
    return data.startswith(b"\r\n")


@settings(max_examples=500)
@given(heads())
def test_against_h11(data: bytes) -> None:
    ours = ParsedHead.request(data)
    theirs = h11_parses(data)
    if ours.code > 0:
        assert (theirs is None) == taken_but_not_by_h11(data)
    if theirs is None:
        return
    if ours.code <= 0:
        assert ParseFault(ours.fault).name.removeprefix("FAULT_") in H11_TAKES
        return
    assert (theirs.method, theirs.target) == (ours.method, ours.target)
    rest = [(n, v) for n, v in theirs.headers if n != b"content-length"]
    # h11 lowers the value of Transfer-Encoding and re-reads Content-Length
    assert rest == [
        (n.lower(), v.lower() if n.lower() == b"transfer-encoding" else v)
        for n, v, _, _ in ours.fields
        if n.lower() != b"content-length"
    ]
    lengths = [int(v) for n, v in theirs.headers if n == b"content-length"]
    assert lengths == ([] if ours.content_length is None else [ours.content_length])
    chunked = (b"transfer-encoding", b"chunked") in theirs.headers
    assert chunked == (ours.framing == Framing.FRAMING_CHUNKED)


@pytest.mark.parametrize("name", list(H11_TAKES))
def test_each_difference_from_h11_is_real(name: str) -> None:
    data, _ = H11_TAKES[name]
    assert h11_parses(data) is not None
    assert ParseFault(ParsedHead.request(data).fault).name == "FAULT_" + name


class Collector:
    """What httptools tells of a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""
        self.method = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def llhttp_parses(data: bytes) -> Collector | None:
    """The head, or None: refused or not complete."""
    seen = Collector()
    parser = httptools.HttpRequestParser(seen)
    # an upgrade or an error after the head is not about the head
    with contextlib.suppress(httptools.HttpParserUpgrade, httptools.HttpParserError):
        parser.feed_data(data)
    if not seen.complete:
        return None
    seen.method = parser.get_method()
    return seen


@settings(max_examples=500)
@given(heads())
def test_against_llhttp(data: bytes) -> None:
    ours = ParsedHead.request(data)
    theirs = llhttp_parses(data)
    if ours.code > 0:
        # llhttp has a list of methods; for us any token is one
        assert (theirs is None) == (ours.method == b"x")
    if theirs is None:
        return
    if ours.code <= 0:
        assert ParseFault(ours.fault).name.removeprefix("FAULT_") in LLHTTP_TAKES
        return
    assert (theirs.method, theirs.url) == (ours.method, ours.target)
    assert theirs.headers == [(n, v) for n, v, _, _ in ours.fields]


@pytest.mark.parametrize("name", list(LLHTTP_TAKES))
def test_each_difference_from_llhttp_is_real(name: str) -> None:
    data, _ = LLHTTP_TAKES[name]
    assert llhttp_parses(data) is not None
    assert ParseFault(ParsedHead.request(data).fault).name == "FAULT_" + name
