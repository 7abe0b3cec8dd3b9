"""Networks, addresses to listen on, targets: forms taken and refused."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgate.model.places import Bind, Cidr, TargetUrl, TrustedPeer


@pytest.mark.parametrize(
    ("text", "canonical", "prefix"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", 104),
        ("192.0.2.7", "192.0.2.7", 128),
        ("192.0.2.7/32", "192.0.2.7", 128),
        ("2001:DB8::/32", "2001:db8::/32", 32),
        ("::1", "::1", 128),
        ("0.0.0.0/0", "0.0.0.0/0", 96),
    ],
)
def test_networks(text: str, canonical: str, prefix: int) -> None:
    cidr = Cidr.parse(text)
    assert str(cidr) == canonical
    packed, bits = cidr.mapped
    assert (len(packed), bits) == (16, prefix)


@given(st.ip_addresses())
def test_any_address_is_a_network_of_one(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if "%" in str(address):
        return
    cidr = Cidr.parse(str(address))
    assert cidr.mapped[1] == 128
    assert Cidr.parse(str(cidr)) == cidr


def test_a_network_with_bits_past_its_prefix_names_both_readings() -> None:
    with pytest.raises(ValueError, match=r"'10\.1\.2\.0/24' for the network or '10\.1\.2\.3'"):
        Cidr.parse("10.1.2.3/24")


@pytest.mark.parametrize("text", ["10.0.0", "example.com", "10.0.0.0/33", "fe80::1%eth0", "", 10])
def test_bad_networks(text: object) -> None:
    with pytest.raises(ValueError, match="network"):
        Cidr.parse(text)


def test_who_is_trusted() -> None:
    assert [str(TrustedPeer.parse(text)) for text in ("unix", "10.0.0.0/8", "::1/128")] == [
        "unix",
        "10.0.0.0/8",
        "::1",
    ]
    assert TrustedPeer.parse("unix").is_unix
    assert not TrustedPeer.parse("10.0.0.0/8").is_unix


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unix:/run/nginx.sock", "write 'unix' for all of them"),
        ("10.1.2.3/24", "write '10.1.2.0/24'"),
        ("proxy.internal", "a network or an address or 'unix'"),
        (7, "a network or an address or 'unix'"),
    ],
)
def test_who_cannot_be_trusted(text: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrustedPeer.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        (":8080", "0.0.0.0:8080", False),
        ("*:80", "0.0.0.0:80", False),
        ("[::]:8080", "[::]:8080", False),
        ("[::1]:0", "[::1]:0", True),
        ("localhost:9", "127.0.0.1:9", True),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
        ("unix:///run/x.sock", "unix:/run/x.sock", True),
        ("unix:@name", "unix:@name", True),
    ],
)
def test_binds(text: str, canonical: str, loopback: bool) -> None:
    bind = Bind.parse(text)
    assert str(bind) == canonical
    assert bind.loopback is loopback
    assert Bind.parse(canonical) == bind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (8080, "':8080'"),
        ("8080", "not an address"),
        ("example.com:80", "listeners take no names"),
        ("::1:80", "in brackets"),
        ("127.0.0.1:70000", "not a port"),
        ("127.0.0.1:", "not a port"),
        ("unix:relative", "absolute path"),
        ("unix:/" + "x" * 200, "at most 107 bytes"),
        ("http://127.0.0.1:80", "not an address"),
    ],
)
def test_bad_binds(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Bind.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical", "authority", "is_ip"),
    [
        ("http://10.0.0.11:9000", "http://10.0.0.11:9000", "10.0.0.11:9000", True),
        ("http://Orders.Internal", "http://orders.internal", "orders.internal", False),
        ("http://app:80/base/", "http://app/base", "app", False),
        ("http://[::1]:9000", "http://[::1]:9000", "[::1]:9000", True),
        ("http://[::1]", "http://[::1]", "[::1]", True),
        ("unix:/run/orders.sock", "unix:/run/orders.sock", "localhost", True),
        ("HTTP://a_b.c:1", "http://a_b.c:1", "a_b.c:1", False),
        ("https://a", "https://a", "a", False),
        ("https://a:443/b", "https://a/b", "a", False),
        ("https://a:80", "https://a:80", "a:80", False),
        ("http://a:443", "http://a:443", "a:443", False),
        ("HTTPS://[::1]", "https://[::1]", "[::1]", True),
    ],
)
def test_targets(text: str, canonical: str, authority: str, is_ip: bool) -> None:
    target = TargetUrl.parse(text)
    assert str(target) == canonical
    assert target.authority == authority
    assert target.is_ip is is_ip
    assert TargetUrl.parse(canonical) == target


def test_targets_with_and_without_tls_differ() -> None:
    clear, secured = TargetUrl.parse("http://a:8443"), TargetUrl.parse("https://a:8443")
    assert (clear.tls, secured.tls) == (False, True)
    assert clear != secured
    assert (clear.authority_at(443), secured.authority_at(443)) == ("a:443", "a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://", "neither a host name"),
        ("https:a", "not a target"),
        ("ftp://a", "not a target"),
        ("10.0.0.1:80", "not a target"),
        ("http://", "neither a host name"),
        ("http://user@a", "cannot have a query, a fragment, a user"),
        ("http://a/{tenant}", "a base path is literal"),
        ("http://a/v1/*", "a base path is literal"),
        ("http://a?x=1", "neither a host name"),
        ("http://a/b?x=1", "cannot have a query"),
        ("http://a/b/../c", "dot segments"),
        ("http://a//b", "empty or dot"),
        ("http://a:0", "not a port"),
        ("http://a:http", "not a port"),
        ("http://1.2.3", "neither a host name"),
        ("http://[1.2.3.4]:80", "not an address"),
        ("http://-a", "neither a host name"),
    ],
)
def test_bad_targets(text: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TargetUrl.parse(text)
