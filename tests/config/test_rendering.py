"""Texts and bytes that workers copy."""

from __future__ import annotations

import ctypes
import errno
import socket
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.config.rendering import (
    canonical_path,
    challenges,
    cors_methods,
    notice,
    policy_member,
    rate_window,
    sockaddrs,
    static_response,
)
from fastgate.model.codec import decode
from fastgate.model.gateway import (
    Concurrency,
    Cors,
    Limit,
    Moment,
    Quota,
    Rate,
    Respond,
    Route,
    TargetUrl,
)


@pytest.mark.parametrize(
    ("rate", "burst", "text"),
    [
        ("1000/min", None, '"consumer-rate";q=1000;w=60'),
        ("50/s", 100, '"consumer-rate";q=100;w=2'),
        ("7/s", None, '"consumer-rate";q=7;w=1'),
        ("1/h", 1, '"consumer-rate";q=1;w=3600'),
        ("1000/s", 1, '"consumer-rate";q=1;w=1'),
    ],
)
def test_the_policy_of_a_rate_says_how_much_in_how_long(
    rate: str, burst: int | None, text: str
) -> None:
    assert policy_member(Limit(rate=Rate.parse(rate), burst=burst)) == text


@given(st.integers(1, 10**6), st.sampled_from(["s", "min", "h", "d"]), st.integers(1, 10**6))
def test_a_bucket_is_full_again_after_its_window(amount: int, unit: str, burst: int) -> None:
    limit = Limit(rate=Rate.parse(f"{amount}/{unit}"), burst=burst)
    seconds = {"s": 1, "min": 60, "h": 3600, "d": 86_400}[unit]
    window = rate_window(limit)
    assert window * amount >= burst * seconds
    assert window == 1 or (window - 1) * amount < burst * seconds


def test_the_policies_of_quotas_and_concurrency() -> None:
    quota = Quota(period="month", requests=5, by=["plan"])
    assert policy_member(quota) == '"plan-month";q=5;w=2592000'
    busy = Concurrency(max=3, name="busy")
    assert policy_member(busy) == '"busy";q=3;qu="concurrent-requests"'


def test_fixed_responses() -> None:
    fields, body = static_response(Respond(body="hé"), None)
    assert fields == b"Content-Type: text/plain; charset=utf-8\r\n"
    assert body == "hé".encode()
    fields, body = static_response(
        Respond(status=404, json={"a": [1]}, headers={"content-type": "application/x"}), "gate"
    )
    assert fields == b"content-type: application/x\r\nServer: gate\r\n"
    assert body == b'{"a":[1]}'
    assert static_response(Respond(status=204), None) == (b"", b"")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"api_key": {}},
            'ApiKey realm="g", header="X-Api-Key", Bearer realm="g"',
        ),
        (
            {"api_key": {"bearer": False, "query": "key"}},
            'ApiKey realm="g", header="X-Api-Key", query="key"',
        ),
        ({"api_key": {"header": None}}, 'Bearer realm="g"'),
        ({"jwt": "corp"}, 'Bearer realm="g"'),
        (
            {"any": [{"jwt": "corp"}, {"basic": {"realm": "shop"}}]},
            'Basic realm="shop", charset="UTF-8", Bearer realm="g"',
        ),
        ({"mtls": "partners"}, ""),
    ],
)
def test_challenges_name_every_way(fields: dict[str, Any], text: str) -> None:
    """Bearer comes last: workers add to it what is wrong with a token."""
    [route] = decode(
        {
            "version": 1,
            "routes": [{"name": "r", "path": "/", "respond": {}, "auth": fields}],
        }
    ).routes
    assert challenges(route.auth, "g") == text


def route(**fields: Any) -> Route:
    return Route(name="r", path="/", retired=True, **fields)


def test_notices_of_routes_that_go_away() -> None:
    assert notice(route()) == ""
    sunset = Moment.parse("2026-12-31T23:59:59Z")
    lines = notice(
        route(deprecated=Moment.parse("2026-01-01"), sunset=sunset, notice="https://x/y")
    ).split("\r\n")
    assert lines[0] == "Deprecation: @1767225600"
    assert parsedate_to_datetime(lines[1].partition(": ")[2]).timestamp() == sunset.unix
    assert lines[2:] == ['Link: <https://x/y>; rel="deprecation"; type="text/html"', ""]
    assert 'rel="sunset"' in notice(route(sunset=sunset, notice="https://x/y"))


def test_methods_of_cors() -> None:
    cors = Cors(origins=["*"])
    assert cors_methods(cors, ["GET"]) == "GET"
    assert "PATCH" in cors_methods(cors, [])
    assert cors_methods(Cors(origins=["*"], methods=["PUT"]), ["GET"]) == "PUT"


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/a%7eb", "/a~b"),
        ("/%2f", "/%2F"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%41{x}", "/A{x}"),
        ("/", "/"),
    ],
)
def test_patterns_are_canonical(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical
    assert canonical_path(canonical) == canonical


@pytest.mark.parametrize("path", ["/%", "/%2", "/%zz", "/%00"])
def test_escapes_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match="%"):
        canonical_path(path)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "unix:{}/s", "unix:@fastgate-{}"])
def test_the_kernel_connects_to_the_packed_address(bind: str, tmp_path: Path) -> None:
    path = bind.format(tmp_path)
    family = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}.get(path, socket.AF_UNIX)
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(family) as server, socket.socket(family) as client:
        if family == socket.AF_UNIX:
            name = path.removeprefix("unix:")
            server.bind(f"\0{name[1:]}" if name.startswith("@") else name)
            url = TargetUrl.parse(path)
        else:
            try:
                server.bind((path, 0))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
                    pytest.skip("this machine has no IPv6 loopback")
                raise
            port = server.getsockname()[1]
            url = TargetUrl.parse(
                f"http://[{path}]:{port}" if ":" in path else f"http://{path}:{port}"
            )
        server.listen()
        ((_, packed),) = sockaddrs(url, [])
        assert libc.connect(client.fileno(), packed, len(packed)) == 0, ctypes.get_errno()
        assert client.getpeername() == server.getsockname()


def test_an_ipv6_address_is_packed_as_the_kernel_has_it() -> None:
    (v6,) = sockaddrs(TargetUrl.parse("http://[::1]:80"), [])
    assert len(v6[1]) == 28
    assert v6[1][2:4] == b"\0\x50"
    assert v6[1][8:24] == b"\0" * 15 + b"\1"


def test_names_stand_for_all_their_addresses_ipv4_first() -> None:
    url = TargetUrl.parse("http://app.internal:8080")
    four = [(socket.AF_INET, (f"10.0.0.{i}", 8080)) for i in (2, 1, 2)]
    six = [(socket.AF_INET6, ("fe80::1%lo", 8080, 0, 1))]
    texts = [text for text, _ in sockaddrs(url, [*six, *four])]
    assert texts == ["app.internal 10.0.0.1:8080", "app.internal 10.0.0.2:8080"]
    ((_, packed),) = sockaddrs(url, six)
    assert packed[-4:] == (1).to_bytes(4, "little")
    assert sockaddrs(url, []) == []
