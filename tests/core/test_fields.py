"""fields: lines, names, values, caps; Host and Connection."""

from __future__ import annotations

import pytest
from http1kit import FIELD_HOP, FIELD_UNDERSCORE, FIELD_UNUSUAL, accepted, refused, request

from fastgate._core.http.head import FieldName, HeadFlag, ParseFault
from fastgate._core.testing.parsed_head import DEFAULT_CAPS, ParsedHead

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n"


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
    assert accepted(request(name + b":x")).fields[1] == (
        name,
        b"x",
        FieldName.F_OTHER,
        FIELD_UNUSUAL,
    )


KNOWN: dict[FieldName, bytes] = {
    f: f.name[2:].lower().replace("_", "-").encode()
    for f in FieldName
    if f
    not in (
        FieldName.F_OTHER,
        FieldName.F_UNDERSCORE,
        FieldName.F_X_CONSUMER,
        FieldName.F_ACCESS_CONTROL,
        FieldName.F_X_FORWARDED,
        FieldName.F_PROXY_CLAIM,
    )
}
UNKNOWN = (
    FieldName.F_OTHER,
    FieldName.F_UNDERSCORE,
    FieldName.F_X_FORWARDED,  # begins like one
    FieldName.F_ACCESS_CONTROL,
    FieldName.F_X_CONSUMER,  # with "!" or "~" for a "-"
)
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
                assert head.fields[1][2] in UNKNOWN
    assert accepted(request(name + b"x: y")).fields[1][2] in UNKNOWN


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
        (b"Access-Control-Allow-Origin", FieldName.F_ACCESS_CONTROL, 0),
        (b"Access-Control-", FieldName.F_ACCESS_CONTROL, 0),
        (b"Access-Control", FieldName.F_OTHER, 0),
        (b"X-Forwarded", FieldName.F_X_FORWARDED, 0),
        (b"x-forwarded-PREFIX", FieldName.F_X_FORWARDED, 0),
        (b"X-Forwarder", FieldName.F_OTHER, 0),
        (b"True-Client-IP", FieldName.F_PROXY_CLAIM, 0),
        (b"X-Original-URL", FieldName.F_PROXY_CLAIM, 0),
        (b"X_Original_URL", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"X_Forwarded_For", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"X_Forwarded_" + b"a" * 90, FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"Max_Forwards", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
        (b"Client-Cert", FieldName.F_X_CONSUMER, 0),
        (b"client-cert-CHAIN", FieldName.F_X_CONSUMER, 0),
        (b"Client-Certs", FieldName.F_OTHER, 0),
        (b"Client_Cert", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"Client.Cert_Chain", FieldName.F_X_CONSUMER, FIELD_UNDERSCORE),
        (b"CLIENT.cert", FieldName.F_X_CONSUMER, FIELD_UNUSUAL),
        (b"client+cert~chain", FieldName.F_X_CONSUMER, FIELD_UNUSUAL),
        (b"X.Consumer.Id", FieldName.F_X_CONSUMER, FIELD_UNUSUAL),
        (b"X-Forwarded.For", FieldName.F_X_CONSUMER, FIELD_UNUSUAL),
        (b"True.Client.IP", FieldName.F_X_CONSUMER, FIELD_UNUSUAL),
        (b"Content.Length", FieldName.F_OTHER, FIELD_UNUSUAL),
        (b"Access-Control-a.b", FieldName.F_ACCESS_CONTROL, FIELD_UNUSUAL),
        (b"Max.Forwards_", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
        (b"_", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
        (b"a" * 40 + b"_", FieldName.F_UNDERSCORE, FIELD_UNDERSCORE),
    ],
)
def test_prefixes_and_unusual_characters(name: bytes, known: FieldName, flags: int) -> None:
    head = accepted(request(name + b": 5"))
    assert head.fields[1] == (name, b"5", known, flags)
    assert bool(head.flags & HeadFlag.HEAD_HAS_UNDERSCORE) == (flags == FIELD_UNDERSCORE)
    assert head.content_length is None


# ---- Host ------------------------------------------------------------------------------


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


# ---- Connection ------------------------------------------------------------------------


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


# ---- caps ------------------------------------------------------------------------------


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
