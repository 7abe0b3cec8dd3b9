"""One lookup: /etc/hosts, a real name server, the operating system."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dnskit import NameServer, name_server

from fastgate.config.rendering import ServiceAddress
from fastgate.model.gateway import Dns, Duration
from fastgate.model.gateway import NameServer as Address
from fastgate.runtime.control.name_lookup import NameLookup, NotFound, system_lookup


@pytest.fixture
def server() -> Iterator[NameServer]:
    with name_server() as running:
        yield running


def looking(
    server: NameServer, tmp_path: Path, *, hosts: str = "", timeout: str = "5s"
) -> NameLookup:
    file = tmp_path / "hosts"
    file.write_text(hosts)
    lookup = NameLookup(hosts=str(file))
    lookup.configure(Dns(servers=[Address.parse(server.address)], timeout=Duration.parse(timeout)))
    return lookup


def v4(address: str, port: int = 80) -> tuple[int, tuple[str, int]]:
    return socket.AF_INET, (address, port)


async def test_addresses_and_their_ttl(server: NameServer, tmp_path: Path) -> None:
    server.ttl = 17
    server.put("app.internal", "A", "10.0.0.1", "10.0.0.2")
    found, ttl = await looking(server, tmp_path)("app.internal", 80)
    assert (sorted(found), ttl) == ([v4("10.0.0.1"), v4("10.0.0.2")], 17)
    assert server.asked == [("app.internal", "A")], "no AAAA is asked for if there is an A"


async def test_ipv6_if_there_is_no_ipv4(server: NameServer, tmp_path: Path) -> None:
    server.put("app.internal", "AAAA", "2001:db8::1")
    found, _ = await looking(server, tmp_path)("app.internal", 80)
    assert found == [(socket.AF_INET6, ("2001:db8::1", 80, 0, 0))]


async def test_an_alias(server: NameServer, tmp_path: Path) -> None:
    server.put("app.internal", "CNAME", "real.internal.")
    server.put("real.internal", "A", "10.0.0.1")
    assert (await looking(server, tmp_path)("app.internal", 80)).found == [v4("10.0.0.1")]


async def test_a_name_that_does_not_exist_and_one_without_an_address(
    server: NameServer, tmp_path: Path
) -> None:
    server.put("empty.internal", "A")
    lookup = looking(server, tmp_path)
    for name in ("nowhere.internal", "empty.internal"):
        with pytest.raises(NotFound):
            await lookup(name, 80)


async def test_a_server_that_is_down(server: NameServer, tmp_path: Path) -> None:
    server.put("app.internal", "A", "10.0.0.1")
    server.down = True
    with pytest.raises(OSError, match=r"no answer|time") as raised:
        await looking(server, tmp_path, timeout="100ms")("app.internal", 80)
    assert not isinstance(raised.value, NotFound)


async def test_the_next_server_is_asked(server: NameServer, tmp_path: Path) -> None:
    server.put("app.internal", "A", "10.0.0.1")
    with name_server() as silent:
        silent.down = True
        lookup = looking(server, tmp_path)
        servers = [Address.parse(each.address) for each in (silent, server)]
        lookup.configure(Dns(servers=servers, timeout=Duration.parse("2s")))
        assert (await lookup("app.internal", 80)).found == [v4("10.0.0.1")]
        assert silent.asked


async def test_the_hosts_file_comes_first_and_is_read_again(
    server: NameServer, tmp_path: Path
) -> None:
    server.put("app.internal", "A", "10.0.0.1")
    lookup = looking(server, tmp_path, hosts="10.9.9.9 other App.Internal # a comment\nbad line\n")
    found, ttl = await lookup("app.internal", 80)
    assert (found, ttl, server.asked) == ([v4("10.9.9.9")], None, [])
    (tmp_path / "hosts").write_text("# nothing\n")
    assert (await lookup("app.internal", 80)).found == [v4("10.0.0.1")]


async def test_localhost_is_never_asked_for(server: NameServer, tmp_path: Path) -> None:
    found, _ = await looking(server, tmp_path)("localhost", 80)
    assert v4("127.0.0.1") in found
    assert server.asked == []


async def test_srv_records(server: NameServer, tmp_path: Path) -> None:
    server.ttl = 9
    server.put(
        "_http._tcp.app.internal", "SRV",
        "10 3 8001 a.internal.", "10 1 8002 b.internal.", "20 0 8003 gone.internal.",
    )  # fmt: skip
    server.put("a.internal", "A", "10.0.0.1", "10.0.0.2")
    server.put("b.internal", "AAAA", "2001:db8::1")
    found, ttl = await looking(server, tmp_path)("_http._tcp.app.internal", 0)
    assert ttl == 9
    assert sorted(found) == [
        ServiceAddress(socket.AF_INET, ("10.0.0.1", 8001), "a.internal", 10, 3),
        ServiceAddress(socket.AF_INET, ("10.0.0.2", 8001), "a.internal", 10, 3),
        ServiceAddress(socket.AF_INET6, ("2001:db8::1", 8002, 0, 0), "b.internal", 10, 1),
    ]


@pytest.mark.parametrize("record", ["0 0 0 .", "0 0 80 gone.internal."])
async def test_srv_records_of_no_host(server: NameServer, tmp_path: Path, record: str) -> None:
    server.put("_http._tcp.app.internal", "SRV", record)
    with pytest.raises(NotFound):
        await looking(server, tmp_path)("_http._tcp.app.internal", 0)


async def test_the_servers_and_search_domains_of_resolv_conf(
    server: NameServer, tmp_path: Path
) -> None:
    """Without name servers the operating system is asked; SRV records then have nobody to ask."""
    resolv = tmp_path / "resolv.conf"
    lookup = NameLookup(hosts=str(tmp_path / "none"), resolv=str(resolv))
    assert v4("127.0.0.1") in (await lookup("localhost", 80)).found
    with pytest.raises(OSError, match="no name server"):
        await lookup("_http._tcp.app.internal", 0)
    resolv.write_text("nameserver 127.0.0.1\nsearch internal\n")
    resolver = (await lookup._name_servers()).resolver
    assert [str(each) for each in resolver.search] == ["internal."]
    assert [str(each) for each in resolver.nameservers] == ["127.0.0.1"]


async def test_the_system_knows_this_machine() -> None:
    assert (socket.AF_INET, ("127.0.0.1", 80)) in await system_lookup("127.0.0.1", 80)
