"""PROXY headers and limits of connections in the image."""

from __future__ import annotations

from typing import Any

from compilerkit import compiled

from fastgate._core.snapshot.snapshot import ListenerFlag
from fastgate._core.tls.keyring import listener_id

CERTIFICATES = [{"name": "api", "cert": "path:/api.pem"}]
UNIX = ListenerFlag.LISTENER_PROXY_UNIX


def record(bind: str = ":443", **listener: Any) -> dict[str, Any] | None:
    """The record of one listener, if it has one."""
    one = {"name": "one", "bind": bind, **listener}
    with compiled({"listeners": [one], "certificates": CERTIFICATES}) as snapshot:
        found = snapshot.listeners()
    return found[0] if found else None


def test_who_announces_clients() -> None:
    found = record(proxy_protocol=["10.0.0.0/8", "2001:db8::7", "unix"])
    assert found is not None
    assert found["id"] == listener_id("0.0.0.0:443")
    assert found["flags"] == UNIX
    (v4, v4_prefix, _), (v6, v6_prefix, _) = found["proxies"]
    assert (v4[10:13], v4_prefix) == (b"\xff\xff\x0a", 104)
    assert (v6[:4] + v6[-1:], v6_prefix) == (b"\x20\x01\x0d\xb8\x07", 128)
    for networks in (["10.0.0.0/8"], ["10.0.0.0/8", "192.0.2.1"]):
        found = record(proxy_protocol=networks)
        assert found is not None
        assert not found["flags"]
        assert len(found["proxies"]) == len(networks)
    found = record("unix:/run/s", proxy_protocol="unix")
    assert found is not None
    assert (found["flags"], found["proxies"]) == (UNIX, [])


def test_limits_of_connections() -> None:
    found = record(connections=100)
    assert found is not None
    assert (found["max_connections"], found["handshake_ns"]) == (100, 0)
    found = record(tls=True, handshakes={"rate": "20/s", "burst": 40})
    assert found is not None
    assert found["max_connections"] == 0
    assert found["handshake_ns"] == 50_000_000
    assert found["handshake_tolerance_ns"] == 2_000_000_000


def test_a_listener_without_any_of_it_has_no_record() -> None:
    assert record() is None
    found = record(tls=True)
    assert found is not None
    assert (found["proxies"], found["max_connections"], found["handshake_ns"]) == ([], 0, 0)


def test_the_cap_of_handshakes() -> None:
    with compiled({"caps": {"handshakes": 77}}) as snapshot:
        assert snapshot.settings()["max_handshakes"] == 77
    with compiled({}) as snapshot:
        assert snapshot.settings()["max_handshakes"] == 1024
