"""Settings of names: name servers, bounds of TTLs, SRV targets, queues."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.model.dns import NameServer
from fastgate.model.places import TargetUrl


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("10.0.0.2", "10.0.0.2", 53, "10.0.0.2"),
        ("10.0.0.2:5353", "10.0.0.2", 5353, "10.0.0.2:5353"),
        ("10.0.0.2:53", "10.0.0.2", 53, "10.0.0.2"),
        ("2001:DB8::53", "2001:db8::53", 53, "2001:db8::53"),
        ("[2001:db8::53]", "2001:db8::53", 53, "2001:db8::53"),
        ("[2001:db8::53]:54", "2001:db8::53", 54, "[2001:db8::53]:54"),
    ],
)
def test_name_servers(text: str, host: str, port: int, shown: str) -> None:
    server = NameServer.parse(text)
    assert (server.host, server.port, str(server)) == (host, port, shown)
    assert NameServer.parse(str(server)) == server


@pytest.mark.parametrize("text", ["ns.internal", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2:x", ""])
def test_what_is_not_a_name_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"IP address|port|name server"):
        NameServer.parse(text)


@pytest.mark.parametrize(
    ("dns", "message"),
    [
        ({"min_ttl": "50ms"}, "at least 100ms"),
        ({"min_ttl": "10m"}, "max_ttl: 5m is less than min_ttl, 10m"),
        ({"max_ttl": "2d"}, "more than a day"),
        ({"timeout": "1ms"}, "at least 100ms"),
        ({"servers": ["ns.internal"]}, "not an IP address"),
    ],
)
def test_bounds(dns: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        codec.decode({"version": 1, "dns": dns})


def test_targets_with_srv_records() -> None:
    url = TargetUrl.parse("HTTPS+srv://_http._tcp.App.Internal/v1/")
    assert str(url) == "https+srv://_http._tcp.app.internal/v1"
    assert TargetUrl.parse(str(url)) == url
    assert (url.srv, url.tls, url.port, url.base) == (True, True, 0, "/v1")
    assert (url.server_name, url.authority) == ("app.internal", "app.internal")
    assert url.authority_at(9100) == "app.internal:9100"
    assert not url.is_ip
    # Consul has SRV records for names without a protocol, too.
    assert TargetUrl.parse("http+srv://app.service.consul").authority == "app.service.consul"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("srv://_http._tcp.app.internal", r"http\+srv://"),
        ("http+srv://_http._tcp.app.internal:80", "not the name of SRV records"),
        ("http+srv://_http._tcp", "not the name of SRV records"),
        ("http+srv://10.0.0.1", "not the name of SRV records"),
        ("http+dns://app.internal", "a target"),
        ("ftp+srv://app.internal", "a target"),
    ],
)
def test_what_is_not_one(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TargetUrl.parse(text)


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        ({"queue": {"max": 5}}, "without `max_connections`"),
        ({"max_connections": 1, "queue": {"max": 0}}, "1"),
        ({"max_connections": 1, "queue": {"max": 1, "timeout": "0s"}}, "at least 1ms"),
        ({"max_connections": 1, "queue": {"max": 1, "timeout": "2h"}}, "more than an hour"),
    ],
)
def test_queues(upstream: dict[str, Any], message: str) -> None:
    document = {"version": 1, "upstreams": [{"name": "u", "targets": "http://a", **upstream}]}
    with pytest.raises(ConfigurationError, match=message):
        codec.decode(document)
