"""Upstreams and targets from a configuration to the image."""

from __future__ import annotations

import os
import re
import socket

import pytest
from compilerkit import compiled, decode, refused

from fastgate._core.snapshot.snapshot import (
    Balance,
    HashBy,
    Snapshot,
    StickySecure,
)
from fastgate.config.compiler import SlotBook, compile_gateway
from fastgate.errors import ConfigurationError


def statuses_of(words: list[int]) -> set[int]:
    return {400 + i for i in range(256) if words[i // 64] >> (i % 64) & 1}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ([], set()),
        (503, {503}),
        (["400", 599], {400, 599}),
        (["5xx", 429, "503"], {429, *range(500, 600)}),
        ("4xx", set(range(400, 500))),
    ],
)
def test_statuses_that_eject_and_are_retried(written: object, meant: set[int]) -> None:
    upstream = {"name": "u", "targets": ["http://10.0.0.1:80"]}
    service = {"name": "s", "upstream": "u"}
    eject = {"statuses": written, "within": "3s", "for": "5s"}
    with compiled(
        {
            "upstreams": [{**upstream, "eject": eject}],
            "services": [{**service, "retries": {"statuses": written}}],
        }
    ) as snapshot:
        u = snapshot.upstream(0)
        assert statuses_of(u["eject_statuses"]) == meant
        assert (u["eject_within_ms"], u["eject_ms"]) == (3000, 5000)
        assert statuses_of(snapshot.service(0)["retry_statuses"]) == meant
    with compiled({"upstreams": [upstream], "services": [service]}) as snapshot:
        assert statuses_of(snapshot.upstream(0)["eject_statuses"]) == {502, 503, 504}
        assert statuses_of(snapshot.service(0)["retry_statuses"]) == set()


def test_upstreams_and_targets() -> None:
    upstreams = [
        {
            "name": "a",
            "targets": [{"url": "http://10.0.0.1:9000/base", "weight": 5}, "unix:/run/x.sock"],
            "balance": "hash",
            "hash_by": "header:X-User",
            "max_connections": 9,
            "eject": {"after": 0},
            "timeouts": {"connect": "50ms", "first_byte": "3s", "idle": "4s"},
        },
        {"name": "b", "targets": ["http://[::1]:80"]},
    ]
    services = [
        {
            "name": "svc",
            "upstream": "b",
            "timeout": "1s",
            "retries": {"attempts": 3, "budget": "5%"},
        },
        {"name": "s2", "upstream": "a"},
    ]
    with compiled({"upstreams": upstreams, "services": services}) as snapshot:
        a = snapshot.upstream(0)
        assert (a["balance"], a["hash_by"], a["hash_header"]) == (
            Balance.BALANCE_HASH, HashBy.HASH_BY_HEADER, b"x-user"
        )  # fmt: skip
        assert (a["connect_ms"], a["max_connections"], a["eject_after"]) == (50, 9, 0)
        assert a["targets"] == [0, 1]
        first, second, third = (snapshot.target(i) for i in range(3))
        assert (first["weight"], first["path"], first["authority"]) == (
            5,
            b"/base",
            b"10.0.0.1:9000",
        )
        assert first["sockaddr"][4:8] == socket.inet_aton("10.0.0.1")
        assert second["authority"] == b"localhost"
        assert third["authority"] == b"[::1]"
        assert (third["upstream"], third["slot"]) == (1, 2)
        assert len({first["identity"], second["identity"], third["identity"]}) == 3
        service = snapshot.service(0)
        assert (service["upstream"], service["first_byte_ms"], service["idle_ms"]) == (
            1,
            1000,
            60_000,
        )
        assert (service["attempts"], service["retry_budget"]) == (3, 50)
        assert snapshot.service(1)["first_byte_ms"] == 3000


def test_names_become_one_target_for_each_address() -> None:
    document = {
        "upstreams": [{"name": "up", "targets": ["http://app.internal:81", "http://10.0.0.9"]}]
    }
    slots = SlotBook()
    with compiled(document, slots=slots) as snapshot:
        assert [snapshot.target(i)["sockaddr_len"] for i in (0, 1)] == [0, 16]
        fixed = snapshot.target(1)["slot"]
    found = {
        "app.internal:81": [(2, ("10.0.0.8", 81)), (2, ("10.0.0.7", 81)), (10, ("::1", 81, 0, 0))]
    }
    with compiled(document, slots=slots, addresses=found) as snapshot:
        targets = [snapshot.target(i) for i in snapshot.upstream(0)["targets"]]
        assert [target["sockaddr"][4:8] for target in targets] == [
            socket.inet_aton(text) for text in ("10.0.0.7", "10.0.0.8", "10.0.0.9")
        ]
        assert {target["name"] for target in targets[:2]} == {b"http://app.internal:81"}
        assert targets[2]["slot"] == fixed
        assert len({target["slot"] for target in targets}) == 3


def test_more_targets_than_there_is_room_for() -> None:
    many = [f"http://10.0.0.{i}" for i in range(65)]
    error = refused({"upstreams": [{"name": "up", "targets": many}]})
    assert error.path == "upstreams[0].targets"
    with compiled({"upstreams": [{"name": "up", "targets": many[:64]}]}) as snapshot:
        assert len(snapshot.upstream(0)["targets"]) == 64


def test_a_name_with_too_many_addresses_is_cut_and_told() -> None:
    image = compile_gateway(
        decode({"upstreams": [{"name": "up", "targets": ["http://big.internal"]}]}),
        generation=1,
        slots=SlotBook(),
        addresses={"big.internal:80": [(2, (f"10.0.1.{i}", 80)) for i in range(70)]},
    )
    try:
        assert len(Snapshot(image.fd).upstream(0)["targets"]) == 64
        assert any("70 addresses" in warning for warning in image.warnings)
    finally:
        os.close(image.fd)


def test_targets_know_their_tls_and_their_host() -> None:
    """Health belongs to the address, connections to the address and what is verified."""

    def targets(*urls: str, **tls: object) -> list[dict[str, object]]:
        upstream = {"name": "u", "targets": list(urls)}
        document = {
            "upstreams": [{**upstream, "tls": tls} if tls else upstream],
            "services": [{"name": "s", "upstream": "u"}],
            "authorities": [{"name": "internal", "ca": "path:/ca.pem"}],
        }
        with compiled(document) as snapshot:
            return [snapshot.target(index) for index in snapshot.upstream(0)["targets"]]

    (clear,) = targets("http://10.0.0.1")
    assert (clear["tls"], clear["pool"], clear["host"]) == (0, clear["identity"], b"10.0.0.1")
    (unix,) = targets("unix:/run/x.sock")
    assert (unix["tls"], unix["host"]) == (0, b"")

    first, second = targets("https://10.0.0.1", "https://[fd00::1]:9443/base")
    assert first["tls"] == second["tls"] != 0
    assert (first["authority"], first["host"]) == (b"10.0.0.1", b"10.0.0.1")
    assert (second["authority"], second["host"]) == (b"[fd00::1]:9443", b"fd00::1")
    assert len({x[field] for x in (first, second) for field in ("identity", "pool")}) == 4

    profiles = (
        {"name": "a.internal"},
        {"authority": "internal"},
        {"min": "1.3"},
        {"verify": False},
        {"pins": ["sha256/" + "A" * 43 + "="]},
        {"pins": ["sha256/" + "B" * 43 + "="]},
    )
    others = [targets("https://10.0.0.1", **profile)[0] for profile in profiles]
    assert {other["identity"] for other in others} == {first["identity"]}
    assert len({other["pool"] for other in (first, *others)}) == 1 + len(profiles)
    assert len({other["tls"] for other in (first, *others)}) == 1 + len(profiles)
    (same,) = targets("https://10.0.0.1", min="1.2")  # written out, but the same
    assert same == first


def test_connections_with_a_proxy_header_are_kept_apart() -> None:
    """Health belongs to the address, connections to what they began with."""

    def target(**more: object) -> dict[str, object]:
        upstreams = [{"name": "u", "targets": ["https://10.0.0.1"], **more}]
        document = {"upstreams": upstreams, "services": [{"name": "s", "upstream": "u"}]}
        with compiled(document) as snapshot:
            version = snapshot.upstream(0)["proxy_protocol"]
            return {**snapshot.target(0), "version": version}

    found = [target(), target(proxy_protocol="v1"), target(proxy_protocol="v2")]
    assert [each["version"] for each in found] == [0, 1, 2]
    assert len({each["identity"] for each in found}) == 1
    assert len({each["pool"] for each in found}) == 3
    clear = [
        {"name": "u", "targets": ["http://10.0.0.1"]},
        {"name": "u", "targets": ["http://10.0.0.1"], "proxy_protocol": "v1"},
    ]
    pools = set()
    for upstream in clear:
        with compiled({"upstreams": [upstream], "services": []}) as snapshot:
            pools.add(snapshot.target(0)["pool"])
    assert len(pools) == 2


# ---- sticky cookies -----------------------------------------------------------------------------


def cookies(key: bytes | None, upstream: str = "u", **sticky: object) -> list[bytes]:
    """The cookie's value of each of two targets."""
    document = {
        "upstreams": [
            {
                "name": upstream,
                "targets": ["http://10.0.0.1:9000", "http://10.0.0.2:9000"],
                "sticky": {"cookie": "lb", **sticky},
            }
        ],
        "services": [],
    }
    image = compile_gateway(decode(document), generation=1, slots=SlotBook(), addresses={}, key=key)
    try:
        snapshot = Snapshot(image.fd, verify=True)
        return [snapshot.target(i)["sticky"] for i in snapshot.upstream(0)["targets"]]
    finally:
        os.close(image.fd)


def test_a_cookies_value_depends_on_the_key_and_the_target() -> None:
    first = cookies(b"k" * 16)
    assert len(set(first)) == 2
    assert cookies(b"k" * 16) == first
    assert not set(cookies(b"l" * 16)) & set(first)
    assert cookies(b"k" * 16, "v") == first  # other upstreams with these targets know it, too
    for value in first:
        assert re.fullmatch(rb"[A-Za-z0-9_-]{16}", value)


def test_a_secret_of_its_own_takes_the_place_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STICKY", "one")
    first = cookies(b"k" * 16, secret="env:STICKY")
    assert cookies(b"l" * 16, secret="env:STICKY") == first
    assert first != cookies(b"k" * 16)
    monkeypatch.setenv("STICKY", "two")
    assert cookies(b"k" * 16, secret="env:STICKY") != first
    monkeypatch.delenv("STICKY")
    with pytest.raises(ConfigurationError, match="STICKY is empty or not set") as caught:
        cookies(b"k" * 16, secret="env:STICKY")
    assert caught.value.path == "upstreams[0].sticky.secret"
    assert cookies(None, secret="env:STICKY")  # `fastgate check`: it may run elsewhere


def test_a_sticky_record() -> None:
    sticky = {"cookie": "lb", "path": "/a", "max_age": "1d", "same_site": "none", "secure": True}
    upstream = {"name": "up", "targets": ["http://10.0.0.1:9000"], "sticky": sticky}
    with compiled({"upstreams": [upstream]}) as snapshot:
        assert snapshot.upstream(0)["sticky"] == {
            "cookie": b"lb",
            "before": b"Set-Cookie: lb=",
            "after": b"; Path=/a; Max-Age=86400; HttpOnly; SameSite=None",
            "secure": StickySecure.STICKY_SECURE,
            "reserved": 0,
        }
    with compiled({"upstreams": [{**upstream, "sticky": "lb"}]}) as snapshot:
        found = snapshot.upstream(0)["sticky"]
        assert found["secure"] == StickySecure.STICKY_AUTO
        assert found["after"] == b"; Path=/; HttpOnly; SameSite=Lax"
    with compiled({}) as snapshot:
        assert snapshot.upstream(0)["sticky"] is None
        assert snapshot.target(0)["sticky"] == b""
