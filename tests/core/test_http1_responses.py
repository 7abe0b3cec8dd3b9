"""http1: responses; whatever is wrong with one has one reason."""

from __future__ import annotations

import pytest
from http1kit import FIELD_HOP, response

from fastgate._core.http.head import Framing, HeadFlag, Method, ParseFault
from fastgate._core.reason import Reason
from fastgate._core.testing.parsed_head import ParsedHead


@pytest.mark.parametrize(
    ("start", "status", "minor", "phrase"),
    [
        (b"HTTP/1.1 200 OK", 200, 1, b"OK"),
        (b"HTTP/1.0 404 Not Found \xe9\t", 404, 0, b"Not Found \xe9\t"),
        (b"HTTP/1.1 599 ", 599, 1, b""),
        (b"HTTP/1.1 204", 204, 1, b""),
    ],
)
def test_status_lines(start: bytes, status: int, minor: int, phrase: bytes) -> None:
    head = ParsedHead.response(response(start=start))
    assert head.code > 0
    assert (head.status, head.minor, head.reason) == (status, minor, phrase)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (response(start=b"HTTP/1.1 200OK"), "STATUS_LINE"),
        (response(start=b"HTTP/1.1  200 OK"), "STATUS_LINE"),
        (response(start=b"HTTP/1.1"), "STATUS_LINE"),
        (response(start=b"HTTP/1.1 20"), "STATUS_LINE"),
        (response(start=b"HTTP/1.1 2x0 OK"), "STATUS_CODE"),
        (response(start=b"HTTP/1.1 099 OK"), "STATUS_CODE"),
        (response(start=b"HTTP/1.1 600 OK"), "STATUS_CODE"),
        (response(start=b"HTTP/1.1 2000 OK"), "STATUS_LINE"),
        (response(start=b"HTTP/2.0 200 OK"), "VERSION_UNSUPPORTED"),
        (response(start=b"HTTP/1.2 200 OK"), "VERSION_UNSUPPORTED"),
        (response(start=b"ICY!/1.1 200 OK"), "VERSION_MALFORMED"),
        (b"\r\n" + response(), "STATUS_LINE"),
        (b"HTTP/1.1 200 OK\nX: y\r\n\r\n", "BARE_LF"),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", "NUL"),
        (response(b"X : y"), "FIELD_SPACE"),
        (response(b" folded"), "FOLDING"),
        (response(b"X: \x01"), "CONTROL"),
        (response(b"Content-Length: 5", b"Content-Length: 5"), "LENGTH_REPEATED"),
        (response(b"Content-Length: 5, 5"), "LENGTH_INVALID"),
        (response(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "LENGTH_WITH_CODING"),
        (response(b"Transfer-Encoding: gzip, chunked"), "CODING_UNKNOWN"),
        (response(b"Transfer-Encoding: identity"), "CODING_UNKNOWN"),
        (
            response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK"),
            "CODING_HTTP10",
        ),
        (response(start=b"HTTP/1.1 200 " + b"x" * 9000), "LINE_TOO_LONG"),
        (response(*[b"X: y"] * 101), "FIELDS_TOO_MANY"),
        (response(*[b"X: " + b"y" * 9000] * 5), "HEAD_TOO_LARGE"),
    ],
)
def test_refused_responses(data: bytes, fault: str) -> None:
    head = ParsedHead.response(data)
    assert ParseFault(head.fault).name == "FAULT_" + fault
    assert head.code == -Reason.UPSTREAM_INVALID_RESPONSE
    assert ParsedHead.response(data, cuts=range(len(data))).fault == head.fault


LENGTH = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
GET_, HEAD_, CONNECT_ = Method.METHOD_GET, Method.METHOD_HEAD, Method.METHOD_CONNECT


@pytest.mark.parametrize(
    ("status", "lines", "method", "framing", "alive"),
    [
        (200, [LENGTH], GET_, Framing.FRAMING_LENGTH, True),
        (200, [b"Content-Length: 0"], GET_, Framing.FRAMING_LENGTH, True),
        (200, [CHUNKED], GET_, Framing.FRAMING_CHUNKED, True),
        (200, [], GET_, Framing.FRAMING_CLOSE, False),
        (200, [LENGTH, b"Connection: close"], GET_, Framing.FRAMING_LENGTH, False),
        (200, [LENGTH], HEAD_, Framing.FRAMING_NONE, True),
        (200, [], HEAD_, Framing.FRAMING_NONE, True),
        (204, [b"Content-Length: 0"], GET_, Framing.FRAMING_NONE, True),
        (204, [CHUNKED], GET_, Framing.FRAMING_NONE, True),
        (304, [LENGTH], GET_, Framing.FRAMING_NONE, True),
        (100, [], GET_, Framing.FRAMING_NONE, True),
        (103, [b"Link: x"], GET_, Framing.FRAMING_NONE, True),
        (101, [b"Connection: upgrade"], GET_, Framing.FRAMING_NONE, True),
        (200, [LENGTH], CONNECT_, Framing.FRAMING_NONE, True),
        (407, [LENGTH], CONNECT_, Framing.FRAMING_LENGTH, True),
        (500, [], GET_, Framing.FRAMING_CLOSE, False),
    ],
)
def test_response_framing(
    status: int, lines: list[bytes], method: Method, framing: Framing, alive: bool
) -> None:
    data = response(*lines, start=b"HTTP/1.1 %d x" % status)
    head = ParsedHead.response(data, method)
    assert head.code == len(data)
    assert head.framing == framing
    assert bool(head.flags & HeadFlag.HEAD_KEEP_ALIVE) == alive
    assert head.content_length == (5 if LENGTH in lines else 0 if lines[:1] == [
        b"Content-Length: 0"] else None)  # fmt: skip


def test_http10_response_lives_only_when_it_says_so() -> None:
    lines = [LENGTH, b"Connection: keep-alive"]
    assert ParsedHead.response(response(*lines, start=b"HTTP/1.0 200 OK")).flags & 1
    assert not ParsedHead.response(response(LENGTH, start=b"HTTP/1.0 200 OK")).flags & 1


def test_response_hops_and_host() -> None:
    head = ParsedHead.response(
        response(LENGTH, b"Connection: X-Secret", b"X-Secret: 1", b"Keep-Alive: timeout=5",
                 b"Host: not checked, here", b"Host: nor here")
    )  # fmt: skip
    assert head.code > 0
    assert [n for n, _, _, f in head.fields if f & FIELD_HOP] == [
        b"Connection", b"X-Secret", b"Keep-Alive"]  # fmt: skip


def test_switching_protocols() -> None:
    lines = [b"Connection: Upgrade", b"Upgrade: websocket"]
    head = ParsedHead.response(response(*lines, start=b"HTTP/1.1 101 Switching Protocols"))
    assert head.flags & HeadFlag.HEAD_UPGRADE_WEBSOCKET
