"""http1: requests, what is accepted and refused, case by case (docs/http.md)."""

from __future__ import annotations

import pytest
from http1kit import accepted, refused, request, response

from fastgate._core.http.faults import FAULT_TEXTS
from fastgate._core.http.head import FieldName, Framing, HeadFlag, Method, ParseFault
from fastgate._core.reason import Reason
from fastgate._core.testing.parse_bench import bench_parse
from fastgate._core.testing.parsed_head import ParsedHead, fault_reason_of


def test_simple_request() -> None:
    data = (
        b"POST /orders/7?full=1&x HTTP/1.1\r\nHost: api.example.com:8080\r\n"
        b"Content-Length: 12\r\nX-Thing: \t a b \t\r\nAccept:\r\n\r\n"
    )
    head = ParsedHead.request(data + b"hello world!")
    assert head.code == len(data)
    assert (head.method, head.method_id) == (b"POST", Method.METHOD_POST)
    assert head.target == b"/orders/7?full=1&x"
    assert (head.path, head.query) == (b"/orders/7", b"full=1&x")
    assert (head.host, head.host_port) == (b"api.example.com", 8080)
    assert (head.framing, head.content_length) == (Framing.FRAMING_LENGTH, 12)
    assert head.minor == 1
    assert head.flags == HeadFlag.HEAD_KEEP_ALIVE
    assert head.fields == [
        (b"Host", b"api.example.com:8080", FieldName.F_HOST, 0),
        (b"Content-Length", b"12", FieldName.F_CONTENT_LENGTH, 0),
        (b"X-Thing", b"a b", FieldName.F_OTHER, 0),
        (b"Accept", b"", FieldName.F_ACCEPT, 0),
    ]
    assert head.lines[2] == b"X-Thing: \t a b \t\r\n"
    assert head.first == {
        FieldName.F_HOST: 0,
        FieldName.F_CONTENT_LENGTH: 1,
        FieldName.F_ACCEPT: 3,
    }


@pytest.mark.parametrize("method", list(Method)[1:])
def test_method_ids(method: Method) -> None:
    name = method.name.removeprefix("METHOD_").encode()
    raw = {b"CONNECT": b"a:1", b"OPTIONS": b"*"}.get(name, b"/")
    head = accepted(request(start=name + b" " + raw + b" HTTP/1.1"))
    assert head.method_id == method
    other = accepted(request(start=name.lower() + b" / HTTP/1.1"))
    assert other.method_id == Method.METHOD_OTHER


def test_any_token_is_a_method() -> None:
    assert accepted(request(start=b"M-SEARCH!# / HTTP/1.1")).method == b"M-SEARCH!#"
    assert accepted(request(start=b"A" * 32 + b" / HTTP/1.1")).method == b"A" * 32


@pytest.mark.parametrize(
    ("start", "fault"),
    [
        (b"GET / HTTP/1.1 ", "VERSION_MALFORMED"),
        (b"GET  / HTTP/1.1", "TARGET_SPACE"),
        (b"GET /  HTTP/1.1", "TARGET_SPACE"),
        (b"GET /a b HTTP/1.1", "TARGET_SPACE"),
        (b"GET\t/ HTTP/1.1", "METHOD"),
        (b" GET / HTTP/1.1", "METHOD"),
        (b"G@T / HTTP/1.1", "METHOD"),
        (b"A" * 33 + b" / HTTP/1.1", "METHOD"),
        (b"A" * 9000, "METHOD"),
        (b"GET", "REQUEST_LINE"),
        (b"GET ", "TARGET_MISSING"),
        (b"GET HTTP/1.1", "TARGET_MISSING"),
        (b"GET  HTTP/1.1", "TARGET_MISSING"),
        (b"GET /", "VERSION_MISSING"),
        (b"GET / http/1.1", "VERSION_MALFORMED"),
        (b"GET / HTTP/1", "VERSION_MALFORMED"),
        (b"GET / HTTP/1.10", "VERSION_MALFORMED"),
        (b"GET / HTTP/01.1", "VERSION_MALFORMED"),
        (b"GET / HTTP/ 1.1", "VERSION_MALFORMED"),
        (b"GET / HTTP/1,1", "VERSION_MALFORMED"),
        (b"GET / XTTP/1.1", "VERSION_MALFORMED"),
        (b"GET / HTTP/0.9", "VERSION_UNSUPPORTED"),
        (b"GET / HTTP/1.2", "VERSION_UNSUPPORTED"),
        (b"GET / HTTP/9.9", "VERSION_UNSUPPORTED"),
        (b"PRI * HTTP/2.0", "VERSION_UNSUPPORTED"),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1", "LINE_TOO_LONG"),
        (b"GET / HTTP/1.1\r", "BARE_CR"),
        (b"GET / HT\rTP/1.1", "BARE_CR"),
        (b"GET / HTTP/1.1\nX: y", "BARE_LF"),
        (b"GET /\x00 HTTP/1.1", "NUL"),
        (b"GET /\x1f HTTP/1.1", "CONTROL"),
        (b"GET /\x7f HTTP/1.1", "CONTROL"),
        (b"\r\n\r\nGET / HTTP/1.1", "BLANK_LINES"),
    ],
)
def test_refused_request_lines(start: bytes, fault: str) -> None:
    refused(request(start=start), fault)


def test_one_empty_line_before_the_request_line() -> None:
    data = b"\r\n" + request()
    assert accepted(data).method == b"GET"
    assert ParsedHead.request(data, cuts=range(len(data))).summary == accepted(data).summary
    refused(b"\n" + request(), "BARE_LF")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("METHOD", Reason.MALFORMED_REQUEST),
        ("VERSION_MISSING", Reason.MALFORMED_REQUEST),
        ("VERSION_UNSUPPORTED", Reason.VERSION_NOT_SUPPORTED),
        ("LINE_TOO_LONG", Reason.TARGET_TOO_LONG),
        ("TARGET_MISSING", Reason.BAD_TARGET),
        ("TARGET_NUL", Reason.BAD_TARGET),
        ("BARE_LF", Reason.MALFORMED_REQUEST),
        ("FOLDING", Reason.MALFORMED_REQUEST),
        ("FIELD_TOO_LONG", Reason.HEADERS_TOO_LARGE),
        ("FIELDS_TOO_MANY", Reason.HEADERS_TOO_LARGE),
        ("HEAD_TOO_LARGE", Reason.HEADERS_TOO_LARGE),
        ("HOST_MISSING", Reason.BAD_HOST),
        ("HOST_MISMATCH", Reason.BAD_HOST),
        ("LENGTH_INVALID", Reason.AMBIGUOUS_FRAMING),
        ("CODING_INVALID", Reason.AMBIGUOUS_FRAMING),
        ("CODING_HTTP10", Reason.AMBIGUOUS_FRAMING),
        ("CODING_UNKNOWN", Reason.NOT_IMPLEMENTED),
        ("CONNECTION_INVALID", Reason.MALFORMED_REQUEST),
        ("UPGRADE_BODY", Reason.MALFORMED_REQUEST),
    ],
)
def test_reasons(fault: str, reason: Reason) -> None:
    assert fault_reason_of(ParseFault["FAULT_" + fault]) == reason


def test_every_fault_has_its_sentence() -> None:
    numbers = [f.value for f in ParseFault]
    assert numbers == list(range(ParseFault.FAULT_COUNT + 1))
    assert len(FAULT_TEXTS) == ParseFault.FAULT_COUNT
    assert FAULT_TEXTS[0] == ""
    for text in FAULT_TEXTS[1:]:
        assert text[0].isupper()
        assert text.endswith(".")
    assert len(set(FAULT_TEXTS)) == len(FAULT_TEXTS)


# ---- what several fields say together --------------------------------------------------


def test_host_missing_and_repeated() -> None:
    refused(request(host=b""), "HOST_MISSING")
    refused(request(b"Host: a"), "HOST_REPEATED")
    refused(request(b"host: b"), "HOST_REPEATED")
    head = accepted(request(start=b"GET / HTTP/1.0", host=b""))
    assert (head.host, head.host_port) == (b"", 0)
    refused(request(b"Host: a", start=b"GET / HTTP/1.0"), "HOST_REPEATED")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([b"Content-Length: 5", b"Content-Length: 5"], "LENGTH_REPEATED"),
        ([b"Content-Length: 5", b"Content-Length: 6"], "LENGTH_REPEATED"),
        ([b"Content-Length:"], "LENGTH_INVALID"),
        ([b"Content-Length: 5, 5"], "LENGTH_INVALID"),
        ([b"Content-Length: +5"], "LENGTH_INVALID"),
        ([b"Content-Length: -0"], "LENGTH_INVALID"),
        ([b"Content-Length: 0x5"], "LENGTH_INVALID"),
        ([b"Content-Length: 1_0"], "LENGTH_INVALID"),
        ([b"Content-Length: 1 0"], "LENGTH_INVALID"),
        ([b"Content-Length: 5;"], "LENGTH_INVALID"),
        ([b"Content-Length: \xb2"], "LENGTH_INVALID"),
        ([b"Content-Length: 4611686018427387905"], "LENGTH_OVERFLOW"),
        ([b"Content-Length: 18446744073709551621"], "LENGTH_OVERFLOW"),
        ([b"Content-Length: " + b"9" * 500], "LENGTH_OVERFLOW"),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], "LENGTH_WITH_CODING"),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 0"], "LENGTH_WITH_CODING"),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "CODING_REPEATED"),
        ([b"Transfer-Encoding:"], "CODING_INVALID"),
        ([b"Transfer-Encoding: chunked, chunked"], "CODING_INVALID"),
        ([b"Transfer-Encoding: chunked, gzip"], "CODING_INVALID"),
        ([b"Transfer-Encoding: chunked,"], "CODING_INVALID"),
        ([b"Transfer-Encoding: ,chunked"], "CODING_INVALID"),
        ([b"Transfer-Encoding: chunked;q=1"], "CODING_INVALID"),
        ([b"Transfer-Encoding: gzip;q=1, chunked"], "CODING_INVALID"),
        ([b'Transfer-Encoding: "chunked"'], "CODING_INVALID"),
        ([b"Transfer-Encoding: chunked chunked"], "CODING_INVALID"),
        ([b"Transfer-Encoding: gzip, , chunked"], "CODING_INVALID"),
        ([b"Transfer-Encoding: gzip"], "CODING_UNKNOWN"),
        ([b"Transfer-Encoding: xchunked"], "CODING_UNKNOWN"),
        ([b"Transfer-Encoding: identity"], "CODING_UNKNOWN"),
        ([b"Transfer-Encoding: gzip, chunked"], "CODING_UNKNOWN"),
        ([b"Transfer-Encoding: gzip ,\tdeflate"], "CODING_UNKNOWN"),
    ],
)
def test_refused_framing(lines: list[bytes], fault: str) -> None:
    refused(request(*lines), fault)


@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        ([], Framing.FRAMING_NONE, None),
        ([b"Content-Length: 0"], Framing.FRAMING_LENGTH, 0),
        ([b"content-length:\t007 "], Framing.FRAMING_LENGTH, 7),
        ([b"Content-Length: " + b"0" * 99 + b"5"], Framing.FRAMING_LENGTH, 5),
        ([b"Content-Length: 4611686018427387904"], Framing.FRAMING_LENGTH, 1 << 62),
        ([b"Transfer-Encoding: chunked"], Framing.FRAMING_CHUNKED, None),
        ([b"transfer-encoding:CHUNKED\t"], Framing.FRAMING_CHUNKED, None),
    ],
)
def test_accepted_framing(lines: list[bytes], framing: Framing, length: int | None) -> None:
    head = accepted(request(*lines))
    assert (head.framing, head.content_length) == (framing, length)


def test_transfer_encoding_is_no_part_of_http10() -> None:
    refused(request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), "CODING_HTTP10")


WEBSOCKET = HeadFlag.HEAD_UPGRADE_WEBSOCKET
OTHER = HeadFlag.HEAD_UPGRADE_OTHER


@pytest.mark.parametrize(
    ("start", "lines", "flags"),
    [
        (b"GET / HTTP/1.1", [b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket"], WEBSOCKET),
        (b"GET / HTTP/1.1", [b"Upgrade: websocket"], 0),
        (b"GET / HTTP/1.1", [b"Connection: Upgrade"], 0),
        (b"GET / HTTP/1.0", [b"Connection: Upgrade", b"Upgrade: websocket"], 0),
        (b"POST / HTTP/1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], OTHER),
        (b"GET / HTTP/1.1", [b"Connection: Upgrade", b"Upgrade: h2c"], OTHER),
        (b"GET / HTTP/1.1", [b"Connection: Upgrade", b"Upgrade: websocket, h2c"], OTHER),
        (b"GET / HTTP/1.1", [b"Connection: Upgrade"] + [b"Upgrade: websocket"] * 2, OTHER),
        (
            b"GET / HTTP/1.1",
            [b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 0"],
            WEBSOCKET,
        ),
    ],
)
def test_upgrade(start: bytes, lines: list[bytes], flags: int) -> None:
    assert accepted(request(*lines, start=start)).flags & (WEBSOCKET | OTHER) == flags


@pytest.mark.parametrize("line", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_upgrade_with_a_body(line: bytes) -> None:
    refused(request(b"Connection: Upgrade", b"Upgrade: websocket", line), "UPGRADE_BODY")


@pytest.mark.parametrize(
    ("version", "value", "flags"),
    [
        (b"1.1", b"100-Continue", HeadFlag.HEAD_EXPECT_CONTINUE),
        (b"1.0", b"100-continue", 0),
        (b"1.1", b"", HeadFlag.HEAD_BAD_EXPECT),
        (b"1.1", b"100-continued", HeadFlag.HEAD_BAD_EXPECT),
        (b"1.1", b"200-ok", HeadFlag.HEAD_BAD_EXPECT),
        (b"1.1", b"100-continue, x", HeadFlag.HEAD_BAD_EXPECT),
    ],
)
def test_expect(version: bytes, value: bytes, flags: int) -> None:
    head = accepted(request(b"Expect: " + value, start=b"PUT / HTTP/" + version))
    mask = HeadFlag.HEAD_EXPECT_CONTINUE | HeadFlag.HEAD_BAD_EXPECT
    assert head.flags & mask == flags


def test_bench_parse_parses() -> None:
    assert bench_parse(request(), 10) == 10
    assert bench_parse(response(), 10, True) == 10
    with pytest.raises(ValueError, match="not a complete head"):
        bench_parse(b"GET / HTTP/1.1\r\n", 10)
