"""target: the four forms, and every octet that one may or may not hold."""

from __future__ import annotations

import pytest
from http1kit import accepted, refused, request

from fastgate._core.http.head import HeadFlag, ParseFault, TargetForm
from fastgate._core.testing.parsed_head import ParsedHead


def target(raw: bytes, method: bytes = b"GET", host: bytes = b"Host: a") -> ParsedHead:
    return ParsedHead.request(request(start=method + b" " + raw + b" HTTP/1.1", host=host))


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
