"""Limits of connections, and who announces clients: short forms, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import check
from fastgate.model.codec import decode
from fastgate.model.connections import ConnectionLimit, HandshakeLimit
from fastgate.model.gateway import Gateway, Listener
from fastgate.model.units import Rate

TLS = [{"name": "c", "cert": "path:/c.pem", "key": "path:/c.key"}]


def gateway(**listener: Any) -> Gateway:
    one = {"name": "web", "bind": ":443", **listener}
    return decode({"version": 1, "certificates": TLS, "listeners": [one]})


def listener(**settings: Any) -> Listener:
    return gateway(**settings).listeners[0]


def fault(**settings: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        gateway(**settings)
    return str(caught.value)


def test_the_defaults() -> None:
    plain = listener()
    assert (plain.proxy_protocol, plain.connections, plain.handshakes) == ([], None, None)
    assert gateway().caps.handshakes == 1024


def test_short_forms() -> None:
    for connections in (
        100,
        {"max": 100},
        {"by": "address", "max": 100},
        {"by": ["address"], "max": 100},
    ):
        assert listener(connections=connections).connections == ConnectionLimit(max=100)
    rate = Rate.parse("20/s")
    for handshakes in ("20/s", {"rate": "20/s"}, {"by": "address", "rate": "20/s"}):
        assert listener(tls=True, handshakes=handshakes).handshakes == HandshakeLimit(rate=rate)
    assert [str(each) for each in listener(proxy_protocol="10.0.0.0/8").proxy_protocol] == [
        "10.0.0.0/8"
    ]
    mixed = listener(proxy_protocol=["10.0.0.0/8", "2001:db8::7", "unix"]).proxy_protocol
    assert [str(each) for each in mixed] == ["10.0.0.0/8", "2001:db8::7", "unix"]


@pytest.mark.parametrize(
    ("limit", "tolerance"),
    [
        ("20/s", 10**9),
        ({"rate": "20/s", "burst": 40}, 2 * 10**9),
        ({"rate": "1/d", "burst": 10**9}, 2**62),
    ],
)
def test_the_bucket(limit: object, tolerance: int) -> None:
    handshakes = listener(tls=True, handshakes=limit).handshakes
    assert handshakes is not None
    assert handshakes.tolerance_ns == tolerance


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"proxy_protocol": True}, "list who may send the header, such as `[10.0.0.0/8]`"),
        ({"proxy_protocol": False}, "list who may send the header"),
        ({"proxy_protocol": "any"}, "'any' is not a network or an address or 'unix'"),
        ({"proxy_protocol": ["10.0.0.1/8"]}, "10.0.0.0/8"),
        ({"proxy_protocol": ["unix"]}, "list the networks of your load balancers"),
        ({"proxy_protocol": ["10.0.0.0/8"], "bind": "unix:/run/s"}, "write `unix` for all"),
        ({"handshakes": "20/s"}, "this listener has no TLS; add `tls`, or limit `connections`"),
        ({"connections": {"max": 0}}, "max"),
        ({"connections": {"by": "consumer", "max": 1}}, "by"),
        ({"connections": {"by": [], "max": 1}}, "by"),
        ({"connections": {}}, "max"),
        ({"tls": True, "handshakes": {"burst": 5}}, "rate"),
        ({"tls": True, "handshakes": "20"}, "rate"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    assert words in fault(**settings)


def test_a_socket_of_its_kind_is_enough() -> None:
    for bind in (":80", "unix:/run/s"):
        assert listener(bind=bind, proxy_protocol=["10.0.0.0/8", "unix"]).proxy_protocol


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_networks_of_everyone_are_warned_about(network: str) -> None:
    (warning,) = check.warnings(gateway(proxy_protocol=["10.0.0.0/8", network], tls=True))
    assert str(warning).startswith(
        f"listeners[0].proxy_protocol[1]: '{network}': anyone who can connect may say who the "
        "client is"
    )
    assert check.warnings(gateway(proxy_protocol=["10.0.0.0/8", "128.0.0.0/1"], tls=True)) == []


def test_caps_of_handshakes() -> None:
    assert decode({"version": 1, "caps": {"handshakes": 1}}).caps.handshakes == 1
    with pytest.raises(ConfigurationError, match="handshakes"):
        decode({"version": 1, "caps": {"handshakes": 0}})
