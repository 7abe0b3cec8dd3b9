"""http1: what is accepted, refused and found, case by case (docs/http.md)."""

from __future__ import annotations

import pytest

from fastgate._core.http1 import (
    DEFAULT_CAPS,
    FAULT_TEXTS,
    FieldName,
    Framing,
    HeadFlag,
    Method,
    ParsedHead,
    ParseFault,
    TargetForm,
    bench_parse,
    fault_reason_of,
)
from fastgate._core.reason import Reason

FIELD_HOP = 1
FIELD_UNDERSCORE = 2

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n"


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A request head of these field lines, with a Host unless told otherwise."""
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


def accepted(data: bytes) -> ParsedHead:
    head = ParsedHead.request(data)
    assert head.fault == ParseFault.FAULT_NONE, ParseFault(head.fault).name
    assert head.code == len(data)
    return head


def target(raw: bytes, method: bytes = b"GET", host: bytes = b"Host: a") -> ParsedHead:
    return ParsedHead.request(request(start=method + b" " + raw + b" HTTP/1.1", host=host))


# ---- the request line --------------------------------------------------------------------


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
        (b"GET / HTTP/1.1 ", "REQUEST"),
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
    if fault == "REQUEST":
        fault = "VERSION_MALFORMED"  # the version is what follows the last space: nothing
    refused(request(start=start), fault)


def refused(data: bytes, fault: str) -> ParsedHead:
    head = ParsedHead.request(data)
    assert ParseFault(head.fault).name == "FAULT_" + fault
    assert head.code == -fault_reason_of(head.fault) < 0
    # the same answer when asked again with more, and with every cut
    assert ParsedHead.request(data, cuts=range(len(data))).fault == head.fault
    return head


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


# ---- targets -----------------------------------------------------------------------------

NORMALIZING = HeadFlag.HEAD_PATH_NEEDS_NORMALIZING
SLASH = HeadFlag.HEAD_PATH_NEEDS_NORMALIZING | HeadFlag.HEAD_HAS_ENCODED_SLASH


@pytest.mark.parametrize(
    ("raw", "flags"),
    [
        (b"/", 0),
        (b"/a/b.c/d-e_f~g;h=i,j/k@l:m!n$o&p'q(r)s*t+u", 0),
        (b"/pages/[slug].js", 0),
        (b"/a|b", 0),
        (b"/.well-known/x", 0),
        (b"/a/...", 0),
        (b"/a/..b", 0),
        (b"/a/.b", 0),
        (b"/a.", 0),
        (b"//", NORMALIZING),
        (b"/a//b", NORMALIZING),
        (b"/.", NORMALIZING),
        (b"/..", NORMALIZING),
        (b"/./a", NORMALIZING),
        (b"/a/../b", NORMALIZING),
        (b"/a/..;x/b", NORMALIZING),
        (b"/a/.;x", NORMALIZING),
        (b"/%41", NORMALIZING),
        (b"/a%2fb", SLASH),
        (b"/a%2Fb", SLASH),
        (b"/a%5cb", SLASH),
        (b"/a\\b", SLASH),
        (b"/a?//../%2f\\", 0),
        (b"/?a=[1]&b={2}&c=d|e^f`g&h=%20", 0),
        (b"/??a=?b/", 0),
    ],
)
def test_accepted_targets(raw: bytes, flags: int) -> None:
    head = target(raw)
    assert head.code > 0, ParseFault(head.fault).name
    assert head.form == TargetForm.TARGET_ORIGIN
    path, mark, query = raw.partition(b"?")
    assert head.path == path
    assert head.query == (query if mark else None)
    assert head.flags & SLASH == flags


def test_dot_segment_before_the_query() -> None:
    assert target(b"/a/..?x").flags & NORMALIZING
    assert target(b"/a/.?x").flags & NORMALIZING


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"/a#b", "TARGET_FRAGMENT"),
        (b"/a?b#c", "TARGET_FRAGMENT"),
        (b"/caf\xc3\xa9", "TARGET_NON_ASCII"),
        (b"/?q=\xff", "TARGET_NON_ASCII"),
        (b'/"', "TARGET_CHARACTER"),
        (b"/<a>", "TARGET_CHARACTER"),
        (b"/{a}", "TARGET_CHARACTER"),
        (b"/a^", "TARGET_CHARACTER"),
        (b"/`", "TARGET_CHARACTER"),
        (b'/?a="b"', "TARGET_CHARACTER"),
        (b"/?a=<b>", "TARGET_CHARACTER"),
        (b"/a\tb", "TARGET_CHARACTER"),
        (b"/%", "TARGET_ESCAPE"),
        (b"/%4", "TARGET_ESCAPE"),
        (b"/%4g", "TARGET_ESCAPE"),
        (b"/%g4", "TARGET_ESCAPE"),
        (b"/%u0041", "TARGET_ESCAPE"),
        (b"/?a=100%", "TARGET_ESCAPE"),
        (b"/?a=%zz", "TARGET_ESCAPE"),
        (b"/a%00", "TARGET_NUL"),
        (b"/?a=%00", "TARGET_NUL"),
        (b"*", "TARGET_FORM"),
        (b"**", "TARGET_FORM"),
        (b"a/b", "TARGET_FORM"),
        (b"?a", "TARGET_FORM"),
        (b"example.com:80", "TARGET_FORM"),
        (b"http:/a/", "TARGET_FORM"),
        (b"\xe9", "TARGET_NON_ASCII"),
        (b"#", "TARGET_FRAGMENT"),
        (b"ftp://a/", "TARGET_SCHEME"),
        (b"ws://a/", "TARGET_SCHEME"),
        (b"://a/", "TARGET_SCHEME"),
        (b"http:///", "TARGET_AUTHORITY"),
        (b"http://", "TARGET_AUTHORITY"),
        (b"http://a:b/", "TARGET_AUTHORITY"),
        (b"http://a,b/", "TARGET_AUTHORITY"),
        (b"http://u@a/", "TARGET_USERINFO"),
        (b"http://u:p@a/", "TARGET_USERINFO"),
        (b"http://a#b", "TARGET_FRAGMENT"),
    ],
)
def test_refused_targets(raw: bytes, fault: str) -> None:
    refused(request(start=b"GET " + raw + b" HTTP/1.1"), fault)


def test_refused_target_is_refused_whatever_the_cap_of_the_path() -> None:
    assert target(b"*", method=b"OPTIONS").form == TargetForm.TARGET_ASTERISK


@pytest.mark.parametrize(
    ("raw", "host", "path", "query"),
    [
        (b"http://a/", b"Host: a", b"/", None),
        (b"http://a/b?c", b"Host: A:80", b"/b", b"c"),
        (b"HTTPS://A:443/b", b"Host: a", b"/b", None),
        (b"http://a", b"Host: a", b"/", None),
        (b"http://a?b", b"Host: a", b"/", b"b"),
        (b"http://a.:80/", b"Host: a", b"/", None),
        (b"http://[::1]:8/x", b"Host: [::1]:8", b"/x", None),
        (b"http://a:0/", b"Host: a:0", b"/", None),
    ],
)
def test_absolute_form(raw: bytes, host: bytes, path: bytes, query: bytes | None) -> None:
    head = target(raw, host=host)
    assert head.code > 0, ParseFault(head.fault).name
    assert head.form == TargetForm.TARGET_ABSOLUTE
    assert (head.path, head.query) == (path, query)
    assert head.authority == raw.split(b"//")[1].split(b"/")[0].split(b"?")[0]


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"http://a/", b"b"),
        (b"http://a/", b"a:8080"),
        (b"http://a:8080/", b"a"),
        (b"https://a/", b"a:80"),
        (b"http://a:443/", b"a"),
        (b"http://a:0/", b"a"),
    ],
)
def test_absolute_form_must_agree_with_host(raw: bytes, host: bytes) -> None:
    refused(request(start=b"GET " + raw + b" HTTP/1.1", host=b"Host: " + host), "HOST_MISMATCH")


def test_absolute_form_without_host_is_still_missing_it() -> None:
    refused(request(start=b"GET http://a/ HTTP/1.1", host=b""), "HOST_MISSING")
    head = accepted(request(start=b"GET http://a.b:8/ HTTP/1.0", host=b""))
    assert (head.host, head.host_port) == (b"a.b", 8)


@pytest.mark.parametrize("raw", [b"*", b"http://a"])
def test_asterisk_form(raw: bytes) -> None:
    head = target(raw, method=b"OPTIONS")
    assert head.form == TargetForm.TARGET_ASTERISK
    assert (head.path, head.query) == (b"/", None)
    assert head.code > 0
    assert target(b"http://a/", method=b"OPTIONS").form == TargetForm.TARGET_ABSOLUTE
    assert target(b"http://a?q", method=b"OPTIONS").form == TargetForm.TARGET_ABSOLUTE


def test_authority_form() -> None:
    head = target(b"example.com:443", method=b"CONNECT", host=b"Host: example.com:443")
    assert head.form == TargetForm.TARGET_AUTHORITY
    assert (head.authority, head.path) == (b"example.com:443", b"/")
    for raw in (b"example.com", b"/", b"http://a/", b"a:", b"*"):
        refused(request(start=b"CONNECT " + raw + b" HTTP/1.1"), "TARGET_AUTHORITY")


# ---- fields ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"X : y", "FIELD_SPACE"),
        (b"X\t: y", "FIELD_SPACE"),
        (b"Transfer-Encoding : chunked", "FIELD_SPACE"),
        (b" X: y", "FOLDING"),
        (b"\tX: y", "FOLDING"),
        (b" ", "FOLDING"),
        (b": y", "FIELD_NAME_EMPTY"),
        (b"X", "FIELD_COLON"),
        (b"X y", "FIELD_COLON"),
        (b"X[: y", "FIELD_NAME"),
        (b"X\xe9: y", "FIELD_NAME"),
        (b"X_y(: z", "FIELD_NAME"),
        (b"X/y: z", "FIELD_NAME"),
        (b"X: a\x00b", "NUL"),
        (b"X: a\x01b", "CONTROL"),
        (b"X: a\x0bb", "CONTROL"),
        (b"X: a\x7fb", "CONTROL"),
        (b"X: a\rb", "BARE_CR"),
        (b"X: a\r", "BARE_CR"),
        (b"X: a\nY: b", "BARE_LF"),
        (b"\n", "BARE_LF"),
        (b"X: " + b"a" * 16384, "FIELD_TOO_LONG"),
    ],
)
def test_refused_field_lines(line: bytes, fault: str) -> None:
    refused(request(line), fault)
    refused(request(line, b"Z: z", host=b"") + b"", fault)


def test_values_may_hold_text_of_any_encoding() -> None:
    value = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
    assert accepted(request(b"X: a" + value + b"b")).fields[1][1] == b"a" + value + b"b"


def test_every_token_character_in_a_name() -> None:
    name = b"!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert accepted(request(name + b":x")).fields[1] == (name, b"x", FieldName.F_OTHER, 0)


KNOWN = {
    f: f.name[2:].lower().replace("_", "-").encode()
    for f in FieldName
    if f not in (FieldName.F_OTHER, FieldName.F_UNDERSCORE, FieldName.F_X_CONSUMER)
}
VALUES = {
    FieldName.F_HOST: b"a",
    FieldName.F_CONTENT_LENGTH: b"1",
    FieldName.F_TRANSFER_ENCODING: b"chunked",
}


@pytest.mark.parametrize("known", list(KNOWN))
def test_known_names_in_any_case(known: FieldName) -> None:
    name = KNOWN[known]
    host = b"" if known == FieldName.F_HOST else b"Host: a"
    for spelling in (name, name.upper(), name.title(), name.swapcase()):
        head = accepted(request(spelling + b": " + VALUES.get(known, b"x"), host=host))
        assert head.fields[-1][2] == known
        assert head.first[known] == len(head.fields) - 1
    # nothing that only resembles it is taken for it
    for i in range(len(name)):
        for other in (b"!", b"~", bytes([name[i] ^ 1])):
            near = name[:i] + other + name[i + 1 :]
            if near in KNOWN.values() or not near.translate(None, b"[]{}@\\").isascii():
                continue
            head = ParsedHead.request(request(near + b": x"))
            assert head.code > 0 or head.fault in (
                ParseFault.FAULT_FIELD_NAME,
                ParseFault.FAULT_FIELD_SPACE,
                ParseFault.FAULT_FOLDING,
            )
            if head.code > 0:
                assert head.fields[1][2] in (FieldName.F_OTHER, FieldName.F_UNDERSCORE)
    assert accepted(request(name + b"x: y")).fields[1][2] == FieldName.F_OTHER


@pytest.mark.parametrize(
    ("name", "known", "flags"),
    [
        (b"X-Consumer-Id", FieldName.F_X_CONSUMER, 0),
        (b"x-consumer-", FieldName.F_X_CONSUMER, 0),
        (b"X-Consumer", FieldName.F_OTHER, 0),
        (b"X-Consumers-Id", FieldName.F_OTHER, 0),
        (b"X-Consumer-Id_x", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"X_Consumer_Id", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"x-CONSUMER_id", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"Content_Length", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
        (b"_", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
        (b"a" * 40 + b"_", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
    ],
)
def test_prefixes_and_underscores(name: bytes, known: FieldName, flags: int) -> None:
    head = accepted(request(name + b": 5"))
    assert head.fields[1] == (name, b"5", known, flags)
    assert bool(head.flags & HeadFlag.HEAD_HAS_UNDERSCORE) == bool(flags)
    assert head.content_length is None


# ---- Host --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "HOST_EMPTY"),
        (b" ", "HOST_EMPTY"),
        (b":80", "HOST_EMPTY"),
        (b"u@a", "HOST_USERINFO"),
        (b"u:p@a", "HOST_USERINFO"),
        (b"a/b", "HOST_INVALID"),
        (b"a, b", "HOST_INVALID"),
        (b"a,b", "HOST_INVALID"),
        (b"a b", "HOST_INVALID"),
        (b"a%41", "HOST_INVALID"),
        (b"a..b", "HOST_INVALID"),
        (b"\xe9", "HOST_INVALID"),
        (b"[::1", "HOST_INVALID"),
        (b"[::g]", "HOST_INVALID"),
        (b"[fe80::1%25eth0]", "HOST_INVALID"),
        (b"a:", "HOST_PORT"),
        (b"a:b", "HOST_PORT"),
        (b"a:65536", "HOST_PORT"),
        (b"a:000080", "HOST_PORT"),
        (b"a:80:80", "HOST_PORT"),
        (b"a:+80", "HOST_PORT"),
    ],
)
def test_refused_hosts(value: bytes, fault: str) -> None:
    refused(request(host=b"Host: " + value), fault)


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        (b"a", b"a", 0),
        (b"A-b_c~d.Example.:8080", b"A-b_c~d.Example", 8080),
        (b"127.0.0.1:1", b"127.0.0.1", 1),
        (b"[::1]", b"[::1]", 0),
        (b"[2001:DB8::1.2.3.4]:65535", b"[2001:DB8::1.2.3.4]", 65535),
        (b"a:0", b"a", 0),
    ],
)
def test_accepted_hosts(value: bytes, host: bytes, port: int) -> None:
    head = accepted(request(host=b"Host: " + value))
    assert (head.host, head.host_port) == (host, port)


def test_host_missing_and_repeated() -> None:
    refused(request(host=b""), "HOST_MISSING")
    refused(request(b"Host: a"), "HOST_REPEATED")
    refused(request(b"host: b"), "HOST_REPEATED")
    head = accepted(request(start=b"GET / HTTP/1.0", host=b""))
    assert (head.host, head.host_port) == (b"", 0)
    refused(request(b"Host: a", start=b"GET / HTTP/1.0"), "HOST_REPEATED")


# ---- framing -----------------------------------------------------------------------------


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


# ---- Connection, Upgrade, Expect ---------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "value", "alive"),
    [
        (b"1.1", None, True),
        (b"1.1", b"close", False),
        (b"1.1", b"Keep-Alive, CLOSE", False),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"closed", True),
        (b"1.1", b", ,close,", False),
        (b"1.0", None, False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_keep_alive(version: bytes, value: bytes | None, alive: bool) -> None:
    lines = [] if value is None else [b"Connection: " + value]
    head = accepted(request(*lines, start=b"GET / HTTP/" + version))
    assert bool(head.flags & HeadFlag.HEAD_KEEP_ALIVE) == alive


HOP = [
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Trailer", b"Transfer-Encoding",
    b"Upgrade", b"Proxy-Authenticate", b"Proxy-Authorization", b"HTTP2-Settings",
]  # fmt: skip


@pytest.mark.parametrize("name", HOP)
def test_hop_by_hop_fields(name: bytes) -> None:
    head = accepted(request(name + b": chunked"))
    assert head.fields[1][3] == FIELD_HOP
    assert not head.flags & HeadFlag.HEAD_CONNECTION_NAMES


def test_fields_that_connection_names() -> None:
    head = accepted(
        request(b"X-A: 1", b"Connection: x-a, X_B, nothing, user-agent", b"X_b: 2", b"x-a: 3",
                b"User-Agent: c", b"X-Ab: 4")
    )  # fmt: skip
    hops = [name for name, _, _, flags in head.fields if flags & FIELD_HOP]
    assert hops == [b"X-A", b"Connection", b"X_b", b"x-a", b"User-Agent"]
    assert head.flags & HeadFlag.HEAD_CONNECTION_NAMES


PROTECTED = [
    b"Host", b"Content-Length", b"Authorization", b"Via", b"Forwarded", b"X-Forwarded-For",
    b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port", b"X-Forwarded-Prefix",
    b"X-Real-IP", b"X-Request-ID", b"traceparent", b"tracestate", b"X-Consumer-Id",
    b"X_Consumer_Id", b"Content-Type", b"Cookie", b"Origin", b"Expect", b"Date",
]  # fmt: skip


@pytest.mark.parametrize("name", PROTECTED)
def test_fields_that_connection_cannot_take(name: bytes) -> None:
    value = {b"Host": b"a", b"Content-Length": b"1"}.get(name, b"100-continue")
    head = accepted(
        request(b"Connection: close, " + name.upper(), name + b": " + value,
                host=b"" if name == b"Host" else b"Host: a")
    )  # fmt: skip
    assert head.fields[-1][3] & FIELD_HOP == 0
    assert not head.flags & HeadFlag.HEAD_CONNECTION_NAMES
    assert not head.flags & HeadFlag.HEAD_KEEP_ALIVE


def test_refused_connection_values() -> None:
    refused(request(b"Connection: a b"), "CONNECTION_INVALID")
    refused(request(b'Connection: "close"'), "CONNECTION_INVALID")
    refused(request(b"Connection: close;"), "CONNECTION_INVALID")
    refused(request(b"Connection: " + b"a," * 33), "CONNECTION_TOO_MANY")
    refused(request(*[b"Connection: a"] * 33), "CONNECTION_TOO_MANY")
    accepted(request(b"Connection: " + b"a," * 32))


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


# ---- caps --------------------------------------------------------------------------------


def test_caps_at_their_edge() -> None:
    line = b"GET /abcdef HTTP/1.1"
    data = request(b"X-Y: abcdef", start=line)
    exact = (len(line), len(data), 2, len(b"X-Y: abcdef"))
    assert ParsedHead.request(data, limits=exact).code == len(data)
    for i, fault in enumerate(["LINE_TOO_LONG", "HEAD_TOO_LARGE", "FIELDS_TOO_MANY",
                               "FIELD_TOO_LONG"]):  # fmt: skip
        tight = tuple(n - (k == i) for k, n in enumerate(exact))
        assert len(tight) == 4
        for cuts in ((), range(len(data))):
            head = ParsedHead.request(data, cuts, tight)
            assert ParseFault(head.fault).name == "FAULT_" + fault


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GET /" + b"a" * 8188, "LINE_TOO_LONG"),
        (b"A" * 8193, "METHOD"),
        (GET + b"X" * 16385, "FIELD_TOO_LONG"),
        (GET + b"X: " + b"y" * 16382, "FIELD_TOO_LONG"),
        (GET + (b"X: " + b"y" * 10000 + b"\r\n") * 3 + b"Y" * 2800, "HEAD_TOO_LARGE"),
    ],
)
def test_caps_do_not_wait_for_the_line_to_end(data: bytes, fault: str) -> None:
    head = ParsedHead.request(data)
    assert ParseFault(head.fault).name == "FAULT_" + fault
    assert ParsedHead.request(data[:8000]).code == 0


def test_no_more_fields_than_the_head_can_hold() -> None:
    limits = (*DEFAULT_CAPS[:2], 1000, DEFAULT_CAPS[3])
    head = ParsedHead.request(request(*[b"X: y"] * 127), limits=limits)
    assert len(head.fields) == 128
    head = ParsedHead.request(request(*[b"X: y"] * 128), limits=limits)
    assert head.fault == ParseFault.FAULT_FIELDS_TOO_MANY


def test_a_name_longer_than_its_field_can_say() -> None:
    data = request(b"a" * 70000 + b": b")
    head = ParsedHead.request(data, limits=(8192, 100000, 100, 100000))
    assert head.fault == ParseFault.FAULT_FIELD_TOO_LONG


# ---- responses ---------------------------------------------------------------------------


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""])


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
    assert head.flags & WEBSOCKET


def test_bench_parse_parses() -> None:
    assert bench_parse(request(), 10) == 10
    assert bench_parse(response(), 10, True) == 10
    with pytest.raises(ValueError, match="not a complete head"):
        bench_parse(b"GET / HTTP/1.1\r\n", 10)
