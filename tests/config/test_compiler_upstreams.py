"""Upstreams and targets from a configuration to the image."""

from __future__ import annotations

import os
import socket

import pytest
from compilerkit import compiled, decode, refused

from fastgate._core.snapshot.snapshot import (
    Balance,
    HashBy,
    Snapshot,
)
from fastgate.config.compiler import SlotBook, compile_gateway


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
