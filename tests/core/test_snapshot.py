"""Images: built, sealed, mapped; what is not one is refused, with the reason."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgate._core.snapshot.bounds import verify_records
from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import (
    HEADER_SIZE,
    ROUTE_SIZE,
    LimitKind,
    LimitScope,
    ListenerFlag,
    RouteFlag,
    Snapshot,
    stable_hash,
)
from fastgate.errors import SnapshotError


def sample() -> ImageBuilder:
    """An image with something in every table."""
    image = ImageBuilder()
    image.add_upstream("pool", slot=3, connect_ms=100)
    image.add_target(
        "http://a:1", identity=7, slot=0, sockaddr=b"\2\0" + b"x" * 14, authority="a:1"
    )
    image.add_target("http://b:1", identity=8, slot=5, sockaddr=b"", authority="b:1", weight=9)
    image.add_upstream("other", slot=4)
    image.add_target("unix:/x", identity=9, slot=1, sockaddr=b"\1\0/x\0", authority="localhost")
    limit = image.limit(
        identity=stable_hash("x"),
        kind=LimitKind.LIMIT_RATE,
        scope=LimitScope.BY_ADDRESS | LimitScope.BY_ROUTE,
        amount=100,
        name="burst",
        policy='"burst";q=100;w=60',
        interval_ns=10,
        tolerance_ns=1000,
        window_s=60,
    )
    image.add_service(
        "api", slot=0, upstream=1, first_byte_ms=5, idle_ms=6, plans=image.numbers([2])
    )
    image.add_plan("gold", slot=2, limits=image.table([limit]))
    image.add_route(
        "one",
        slot=11,
        service=0,
        handler=image.add_handler("a.b:c"),
        auth=image.add_auth(flags=1, header="x-key", challenge="Bearer"),
        cors=image.add_cors(
            origins=image.strings(["https://a", "https://b"]),
            allow_methods="GET",
            allow_headers="",
            expose_headers="ETag",
            max_age=60,
            flags=0,
        ),
        static_response=image.add_static(fields=b"A: b\r\n", body=b"hi", status=200),
        limits=image.table([limit]),
        addresses=image.table(
            [image.address_rule("10.0.0.0/8", False), image.address_rule("2001:db8::/32", True)]
        ),
        request_rules=image.table([image.header_rule("X-A", "1", 1)]),
        predicates=image.table([image.predicate(2, "x-b", "2")]),
        pattern="/{id}",
        params=image.strings(["id"]),
        tokens=image.strings(["PURGE"]),
        flags=RouteFlag.ROUTE_CERTIFICATE_REQUIRED,
        client_auth=image.ids([2**64 - 1, 3]),
    )
    subdomains = ListenerFlag.LISTENER_TLS | ListenerFlag.LISTENER_HSTS_SUBDOMAINS
    image.add_listener(2**63, flags=subdomains, hsts_s=600)
    image.add_listener(2, flags=ListenerFlag.LISTENER_REDIRECT_HTTPS, redirect_port=8443)
    image.set_refusal(60, fields=b"A: b\r\n", body=b"{}", status=429, close=False)
    image.set_faults(["", "bad"])
    image.set_settings(
        identity=5,
        via="gate",
        server="fg",
        max_line=8192,
        trusted_proxies=image.table([image.address_rule("127.0.0.1", True)]),
    )
    return image


@pytest.fixture
def fd() -> Iterator[int]:
    made = sample().finish(42)
    yield made
    os.close(made)


def test_everything_that_was_put_in_is_there(fd: int) -> None:
    snapshot = Snapshot(fd, verify=True)
    verify_records(snapshot)
    assert snapshot.generation == 42
    assert snapshot.bytes == os.fstat(fd).st_size
    assert snapshot.routes() == ["one"]
    assert snapshot.services() == ["api"]
    assert snapshot.upstreams() == ["pool", "other"]
    assert snapshot.handlers() == ["a.b:c"]
    assert snapshot.plans() == {2: "gold"}
    assert snapshot.faults() == ["", "bad"]
    route = snapshot.route(0)
    assert (route["name"], route["slot"], route["pattern"]) == (b"one", 11, b"/{id}")
    assert route["identity"] == stable_hash("one")
    assert (route["params"], route["tokens"]) == ([b"id"], [b"PURGE"])
    assert route["limits"][0]["policy"] == b'"burst";q=100;w=60'
    assert route["limits"][0]["scope"] == 3
    assert route["addresses"] == [
        (b"\0" * 10 + b"\xff\xff\x0a\0\0\0", 104, False),
        (bytes.fromhex("20010db8") + b"\0" * 12, 32, True),
    ]
    assert route["request_rules"][0]["line"] == b"X-A: 1\r\n"
    assert route["request_rules"][0]["name"] == b"x-a"
    assert route["predicates"][0]["value"] == b"2"
    assert route["client_auth"] == [2**64 - 1, 3]
    assert RouteFlag(route["flags"]) == (
        RouteFlag.ROUTE_CERTIFICATES | RouteFlag.ROUTE_CERTIFICATE_REQUIRED
    )
    encrypted, clear = snapshot.listeners()
    assert (encrypted["id"], encrypted["flags"], encrypted["hsts_s"]) == (2**63, 5, 600)
    assert encrypted["hsts"] == b"Strict-Transport-Security: max-age=600; includeSubDomains\r\n"
    assert (clear["id"], clear["flags"], clear["redirect_port"], clear["hsts"]) == (2, 2, 8443, b"")
    assert snapshot.service(0)["plans"] == [2]
    assert snapshot.upstream(0)["targets"] == [0, 1]
    assert snapshot.upstream(1)["targets"] == [2]
    assert snapshot.target(1)["sockaddr"] == b""
    assert snapshot.target(2)["sockaddr"] == b"\1\0/x\0"
    assert (snapshot.target(1)["weight"], snapshot.target(2)["upstream"]) == (9, 1)
    assert snapshot.plan(2)["limits"] == route["limits"]
    assert snapshot.plan(0)["name"] == b""
    assert snapshot.auth(0)["header"] == b"x-key"
    assert snapshot.cors(0)["origins"] == [b"https://a", b"https://b"]
    assert snapshot.static(0)["body"] == b"hi"
    assert snapshot.refusal(60)["status"] == 429
    assert snapshot.refusal(61)["status"] == 0
    settings_ = snapshot.settings()
    assert (settings_["via"], settings_["max_line"]) == (b"gate", 8192)
    assert settings_["trusted_proxies"][0][1] == 128


@pytest.mark.parametrize("view", ["route", "service", "upstream", "target", "plan", "auth"])
def test_a_record_that_is_not_there(fd: int, view: str) -> None:
    with pytest.raises(IndexError):
        getattr(Snapshot(fd), view)(99)


def test_the_image_cannot_be_changed(fd: int) -> None:
    Snapshot(fd)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)


def test_the_mapping_outlives_the_descriptor(fd: int) -> None:
    snapshot = Snapshot(os.dup(fd))
    again = Snapshot(snapshot.fd)
    assert snapshot.fd != fd
    assert snapshot.route(0) == again.route(0)


def test_a_snapshot_closes_what_it_opened(fd: int) -> None:
    snapshot = Snapshot(fd)
    mine = snapshot.fd
    del snapshot
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(mine)
    os.fstat(fd)


def test_mapping_is_not_repeated_work(fd: int) -> None:
    """Equal strings and tables stand in an image once."""
    image = ImageBuilder()
    for i in range(100):
        rules = image.table([image.header_rule("X-Long-Name", "v" * 1000, 1)])
        image.add_route(f"{i}", slot=i, request_rules=rules)
    made = image.finish(1)
    assert os.fstat(made).st_size < 100 * ROUTE_SIZE + 8000
    os.close(made)


def test_routes_share_a_policy_and_keep_what_is_their_own() -> None:
    image = ImageBuilder()
    for i in range(6):
        image.add_route(f"r{i}", slot=i, body_cap=i % 2, flags=8, pattern=f"/{i}")
    made = image.finish(1)
    snapshot = Snapshot(made, verify=True)
    verify_records(snapshot)
    os.close(made)
    assert snapshot.settings()["policies"]["count"] == 2
    routes = [snapshot.route(i) for i in range(6)]
    assert [route["policy"] for route in routes] == [0, 1] * 3
    assert [route["body_cap"] for route in routes] == [0, 1] * 3
    assert [route["pattern"] for route in routes] == [b"/%d" % i for i in range(6)]
    assert {route["flags"] for route in routes} == {8}


# ---- what is refused -----------------------------------------------------------------------


def seal(data: bytes) -> int:
    """A sealed memfd that holds these bytes; the caller closes it."""
    fd = os.memfd_create("fastgate-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def opened(raw: bytes, verify: bool = False) -> Snapshot:
    fd = seal(raw)
    try:
        return Snapshot(fd, verify=verify)
    finally:
        os.close(fd)


@pytest.fixture
def raw(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_a_sealed_copy_is_as_good(raw: bytes) -> None:
    assert opened(raw, verify=True).routes() == ["one"]


def test_unsealed(raw: bytes) -> None:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, raw)
        with pytest.raises(SnapshotError, match="not sealed"):
            Snapshot(fd)
    finally:
        os.close(fd)


def test_other_magic(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="FGSNAP"):
        opened(b"ELF" + raw[3:])


def test_other_version(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="version 999"):
        opened(raw[:8] + struct.pack("<I", 999) + raw[12:])


@pytest.mark.parametrize("cut", [0, 1, HEADER_SIZE - 1])
def test_shorter_than_its_header(raw: bytes, cut: int) -> None:
    with pytest.raises(SnapshotError, match="within its header"):
        opened(raw[:cut])


def test_cut_short(raw: bytes) -> None:
    with pytest.raises(SnapshotError, match="but it has"):
        opened(raw[:-32])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    made = sample().finish(1)
    raw = bytearray(os.pread(made, os.fstat(made).st_size, 0))
    os.close(made)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        opened(bytes(raw))


@pytest.mark.parametrize(
    ("flags", "hsts_s", "line"),
    [
        (0, None, b""),
        (0, 0, b"Strict-Transport-Security: max-age=0\r\n"),
        (8, 2**32 - 1, b"Strict-Transport-Security: max-age=4294967295; preload\r\n"),
        (12, 5, b"Strict-Transport-Security: max-age=5; includeSubDomains; preload\r\n"),
    ],
)
def test_a_listeners_hsts_is_a_line(flags: int, hsts_s: int | None, line: bytes) -> None:
    image = ImageBuilder()
    image.add_listener(1, flags=flags, hsts_s=hsts_s)
    made = image.finish(1)
    (listener,) = Snapshot(made, verify=True).listeners()
    os.close(made)
    assert listener["hsts"] == line


def test_large_images_are_checked_whole_only_where_asked() -> None:
    image = ImageBuilder()
    for i in range(30_000):
        image.add_route(f"route-{i}", slot=i, pattern=f"/route-{i}")
    made = image.finish(1)
    raw = bytearray(os.pread(made, os.fstat(made).st_size, 0))
    os.close(made)
    assert len(raw) > 2 << 20
    raw[-40] ^= 1
    opened(bytes(raw))
    with pytest.raises(SnapshotError, match="checksum of the image"):
        opened(bytes(raw), verify=True)


REFERENCES = [
    ({"service": 0}, "policy 0"),
    ({"handler": 1}, "policy 0"),
    ({"auth": 5}, "policy 0"),
    ({"limits": (1 << 39) + 3}, "policy 0"),
    ({"client_auth": (1 << 39) + 3}, "policy 0"),
    ({"params": (0xFFFFFFF8 << 32) + 1}, "route 0"),
    ({"traffic": 0}, "policy 0"),
    ({"flags": RouteFlag.ROUTE_FAULT}, "policy 0"),  # without a record
]


@pytest.mark.parametrize(("fields", "where"), REFERENCES)
def test_references_that_lead_nowhere(fields: dict[str, int], where: str) -> None:
    image = ImageBuilder()
    image.add_route("r", slot=0, **fields)
    made = image.finish(1)
    try:
        Snapshot(made)  # a worker trusts what control has verified
        with pytest.raises(SnapshotError, match=where):
            verify_records(Snapshot(made, verify=True))
    finally:
        os.close(made)


def test_predicates_of_traffic_that_lead_nowhere() -> None:
    image = ImageBuilder()
    image.add_traffic(fault_when=(1 << 39) + 3)
    made = image.finish(1)
    with pytest.raises(SnapshotError, match="traffic 0"):
        verify_records(Snapshot(made, verify=True))
    os.close(made)


def test_a_service_needs_its_upstream() -> None:
    image = ImageBuilder()
    image.add_service("s", slot=0, upstream=0, first_byte_ms=1, idle_ms=1)
    made = image.finish(1)
    with pytest.raises(SnapshotError, match="service 0"):
        verify_records(Snapshot(made, verify=True))
    os.close(made)


# ---- the builder's own refusals ------------------------------------------------------------


def test_numbers_that_do_not_fit() -> None:
    image = ImageBuilder()
    with pytest.raises(OverflowError):
        image.add_route("r", slot=1 << 32)
    with pytest.raises(OverflowError):
        image.add_route("r", slot=-1)


def test_a_builder_is_used_once() -> None:
    image = ImageBuilder()
    os.close(image.finish(1))
    with pytest.raises(ValueError, match="has already built its image"):
        image.finish(2)


def test_targets_need_an_upstream_and_a_short_address() -> None:
    image = ImageBuilder()
    with pytest.raises(ValueError, match="upstream before"):
        image.add_target("t", identity=1, slot=0, sockaddr=b"", authority="")
    image.add_upstream("u", slot=0)
    with pytest.raises(ValueError, match="too long"):
        image.add_target("t", identity=1, slot=0, sockaddr=b"x" * 113, authority="")


@pytest.mark.parametrize("reason", [0, -1, 160])
def test_a_refusal_needs_a_reason(reason: int) -> None:
    with pytest.raises(ValueError, match="no reason"):
        ImageBuilder().set_refusal(reason, fields=b"", body=b"", status=400, close=True)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "host", "1.2.3.4/33"])
def test_networks_that_are_none(network: str) -> None:
    with pytest.raises(ValueError, match=r"appear to be|host bits"):
        ImageBuilder().address_rule(network, True)


# ---- the hash ------------------------------------------------------------------------------


def test_the_hash_stays_what_it_is() -> None:
    """Persisted quotas and shared rows are known by it: these numbers never change."""
    for text, value in HASHES.items():
        assert stable_hash(text) == value
        assert stable_hash(text.encode()) == value


HASHES = {
    "": 0x572E28955249DE82,
    "a": 0xD0025813B584B2F9,
    "abc": 0xA6820069E9C53709,
    "abcd": 0x8EEC5DC55E4B0EE4,
    "route:orders-read/rate/0": 0xEE42DE62E0FFA478,
}


@settings(max_examples=50, deadline=None)
@given(st.sets(st.binary(max_size=24), min_size=2, max_size=200))
def test_different_bytes_hash_differently(texts: set[bytes]) -> None:
    assert len({stable_hash(text) for text in texts}) == len(texts)


def test_large_images_are_whole_huge_pages_and_mapped_as_such() -> None:
    huge = 2 << 20
    image = ImageBuilder()
    for i in range(60_000):
        image.add_route(f"route-{i}", slot=i, pattern=f"/route-{i}")
    made = image.finish(1)
    snapshot = Snapshot(made, verify=True)
    verify_records(snapshot)
    os.close(made)
    assert snapshot.bytes > 2 * huge
    assert snapshot.bytes % huge == 0
    assert snapshot.route(59_999)["name"] == b"route-59999"
    with open("/proc/self/maps") as maps:
        starts = [
            int(line.partition("-")[0], 16) for line in maps if "memfd:fastgate-snapshot" in line
        ]
    assert any(start % huge == 0 for start in starts)
