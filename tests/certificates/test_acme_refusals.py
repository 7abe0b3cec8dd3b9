"""What goes wrong with authorities, and what the operator reads about it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from acmefaultkit import Between, Reply, problem
from acmekit import HOST, FakeClock, authority, settings, world
from pebblekit import Pebble, pebble
from waitkit import free_port

from fastgate.certificates.acme import client as client_module
from fastgate.certificates.acme.settings import AcmeSettings, Authority, Wanted, fault_of
from fastgate.errors import FastGateError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble"), domainBlocklist=["blocked.example"]) as running:
        yield running


async def failure_of(pebble: Pebble, folder: Path, wanted: AcmeSettings) -> str:
    """How the operator reads about the failure of the first attempt."""
    clock = FakeClock()
    async with world(pebble, folder, clock) as one:
        await one.service.reload(wanted)
        await clock.idle()
        (failure,) = one.failures
        (row,) = one.service.status()
        assert row.error == failure.error
        return failure.error


# ---- what the configuration makes impossible --------------------------------------------


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("*.example.com", "is a wildcard. Authorities issue certificates for wildcards by dns-01"),
        ("192.0.2.1", "is an IP address"),
        ("2001:db8::1", "is an IP address"),
        ("[2001:db8::1]", "is an IP address"),
        ("Shop.example.com", "is not a host name in lower case and ASCII form"),
        ("bücher.example", "is not a host name in lower case and ASCII form"),
        ("a..example", "is not a host name in lower case and ASCII form"),
        ("example.com.", "is not a host name in lower case and ASCII form"),
        ("", "is not a host name in lower case and ASCII form"),
        (f"{'a' * 64}.example", "is not a host name in lower case and ASCII form"),
        (".".join(["a" * 60] * 5), "is not a host name in lower case and ASCII form"),
        ("../../etc", "is not a host name in lower case and ASCII form"),
    ],
)
async def test_hosts_that_cannot_be_ordered(
    plain: Pebble, tmp_path: Path, host: str, text: str
) -> None:
    before = plain.orders
    async with world(plain, tmp_path, FakeClock()) as one:
        await one.service.reload(settings(authority(plain), HOST, host))
        (row,) = one.service.status()
        assert row.state == "refused"
        assert row.error.startswith(f"{host!r} ")
        assert text in row.error
        assert one.service.pair("shop") is None
        with pytest.raises(FastGateError, match="cannot be ordered"):
            await one.service.renew("shop")
    assert not (tmp_path / "acme").exists()
    assert plain.orders == before


@pytest.mark.parametrize("host", ["shop.example.com", "a", "xn--bcher-kva.example", "_x.example"])
def test_hosts_that_can(host: str) -> None:
    one = Authority("a", "https://a.example/dir")
    assert fault_of(Wanted("shop", (host,), "a"), AcmeSettings({"a": one})) is None


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Wanted("shop", (HOST,), "other"), "there is no ACME authority 'other'"),
        (Wanted("shop", (), "a"), "the certificate 'shop' names no host"),
        (Wanted("../shop", (HOST,), "a"), "'../shop' cannot be the name of a certificate"),
        (Wanted("..", (HOST,), "a"), "'..' cannot be the name of a certificate"),
        (Wanted("shop", (HOST,), "clear"), "the directory 'http://a' must begin with 'https://'"),
    ],
)
def test_settings_that_are_impossible(wanted: Wanted, text: str) -> None:
    found = {"a": Authority("a", "https://a"), "clear": Authority("clear", "http://a")}
    assert fault_of(wanted, AcmeSettings(found)) == text


# ---- directories ------------------------------------------------------------------------


async def test_an_authority_that_cannot_be_reached(plain: Pebble, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{free_port()}/dir"
    text = await failure_of(plain, tmp_path, settings(authority(plain, directory=url)))
    assert text == f"pebble cannot be reached at {url}: Connection refused."


async def test_an_authority_whose_name_is_unknown(plain: Pebble, tmp_path: Path) -> None:
    url = "https://authority.invalid/dir"
    text = await failure_of(plain, tmp_path, settings(authority(plain, directory=url)))
    assert text.startswith(f"pebble cannot be reached at {url}: ")
    assert "Name or service not known" in text or "name resolution" in text


async def test_an_authority_that_is_not_trusted(plain: Pebble, tmp_path: Path) -> None:
    text = await failure_of(plain, tmp_path, settings(authority(plain, ca=None)))
    assert text.startswith(f"pebble cannot be reached at {plain.directory}: its certificate cannot")
    assert text.endswith("If it has an authority of its own, name that with `ca`.")


async def test_a_file_of_authorities_that_has_none(plain: Pebble, tmp_path: Path) -> None:
    text = await failure_of(plain, tmp_path, settings(authority(plain, ca=b"no certificates")))
    assert text.startswith(f"pebble cannot be reached at {plain.directory}: ")


async def test_a_directory_in_clear_text(plain: Pebble, tmp_path: Path) -> None:
    """A server without TLS at an https address."""
    url = f"https://127.0.0.1:{plain.http_port}/dir"
    text = await failure_of(plain, tmp_path, settings(authority(plain, directory=url)))
    assert text.startswith(f"pebble cannot be reached at {url}: TLS failed (")


NO_DIRECTORY = "is not the directory of an ACME authority"


def member(name: str, value: object) -> Any:
    def change(method: str, path: str, reply: Reply) -> Reply:
        found = {**json.loads(reply.body), name: value}
        return reply._replace(body=json.dumps(found).encode())

    return change


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda *_: Reply(200, b"<h1>Hello</h1>"), "pebble sent something that cannot be under"),
        (lambda *_: Reply(200, b"[1, 2]"), NO_DIRECTORY),
        (lambda *_: Reply(200, b"{}"), f"{NO_DIRECTORY}: its 'newNonce' is not an address"),
        (lambda *_: Reply(404), "refused to give its directory: status 404, without an expl"),
        (
            lambda *_: problem("serverInternal", "out of\\norder", 500),
            "pebble refused to give its directory: out of order (serverInternal). The fault is the "
            "authority's.",
        ),
        (lambda *_: Reply(302, b"", {"location": "/dir"}), "pebble cannot be reached at "),
        (lambda *_: Reply(200, b"", endless=True), "sent a response that is longer than 1 MiB"),
        (lambda *_: None, "pebble cannot be reached at "),
        (member("newOrder", "http://a.example/order"), f"{NO_DIRECTORY}: its 'newOrder' is not"),
        (member("newAccount", None), f"{NO_DIRECTORY}: its 'newAccount' is not an address"),
        (member("renewalInfo", 1), f"{NO_DIRECTORY}: its 'renewalInfo' is not an address"),
    ],
)
async def test_what_is_not_a_directory(
    plain: Pebble, tmp_path: Path, fault: Any, text: str
) -> None:
    between = Between(plain)
    async with between.served():
        between.faults = [("/dir", fault)] * 40
        wanted = settings(authority(plain, directory=between.directory))
        found = await failure_of(plain, tmp_path, wanted)
        assert text in found
        assert found.endswith(".")
        assert "\n" not in found


async def test_an_authority_that_does_not_answer(
    plain: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "CONNECT_S", 0.2)  # includes the TLS handshake
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/dir"
        text = await failure_of(plain, tmp_path, settings(authority(plain, directory=url)))
    assert text == f"pebble cannot be reached at {url}: it does not answer."


async def test_an_authority_that_answers_too_slowly(
    plain: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little at a time, so that no single read times out."""
    monkeypatch.setattr(client_module, "WHOLE_S", -1)
    wanted = settings(authority(plain))
    text = await failure_of(plain, tmp_path, wanted)
    assert text == (
        "pebble sent a response that is longer than 1 MiB, or takes longer than -1 seconds."
    )


async def test_a_stop_does_not_wait_for_an_authority_that_does_not_answer(
    plain: Pebble, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/dir"
        async with world(plain, tmp_path, FakeClock()) as one:
            await one.service.reload(settings(authority(plain, directory=url)))
            await one.service.stop()
            assert one.service.status() == []
        names = {thread.name for thread in threading.enumerate() if not thread.daemon}
        assert not [name for name in names if name.startswith("acme")]


# ---- orders -----------------------------------------------------------------------------


async def test_a_host_that_the_authority_rejects(plain: Pebble, tmp_path: Path) -> None:
    text = await failure_of(plain, tmp_path, settings(authority(plain), "blocked.example"))
    assert text.startswith("pebble refused the order for blocked.example: ")
    assert text.endswith(
        "(rejectedIdentifier). The authority does not issue certificates for this host."
    )


@pytest.mark.parametrize(
    ("challenge", "advice"),
    [
        (
            "http-01",
            "(connection). Check that the host's DNS records lead to this gateway, and that port "
            "80 is open to the Internet.",
        ),
        (
            "tls-alpn-01",  # which pebble reports in another way
            "(unauthorized). Check that the host's DNS records lead to this gateway only, and that "
            "nothing in front of it answers port 443 itself.",
        ),
    ],
)
async def test_a_gateway_that_the_authority_cannot_reach(
    tmp_path: Path, challenge: str, advice: str
) -> None:
    (tmp_path / "state").mkdir()
    with pebble(tmp_path / "pebble") as running:
        wanted = authority(running, challenge=challenge)
        before = running.http_port, running.tls_port
        # The service shows its proofs elsewhere.
        running.http_port, running.tls_port = free_port(), free_port()
        text = await failure_of(running, tmp_path / "state", settings(wanted))
        running.http_port, running.tls_port = before
    assert text.startswith(f"pebble could not verify {HOST} by {challenge}: ")
    assert text.endswith(advice)


async def test_another_server_that_answers_the_challenge(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:
        put = one.proofs.tokens.put
        one.proofs.tokens.put = lambda token, _: put(token, "wrong")  # type: ignore[method-assign]
        await one.service.reload(settings(authority(plain)))
        await clock.idle()
        (failure,) = one.failures
        assert "(unauthorized). Check that the host's DNS records lead to this gateway only, and " \
            "that nothing in front of it answers port 80 itself." in failure.error  # fmt: skip
        assert one.service.orders["refused"] == 1
        assert one.storage.order("shop") is None  # the next attempt places another one
        one.proofs.tokens.put = put  # type: ignore[method-assign]
        await one.service.renew("shop", wait=True)


async def test_workers_that_do_not_take_the_challenge(plain: Pebble, tmp_path: Path) -> None:
    clock = FakeClock()
    async with world(plain, tmp_path, clock) as one:

        async def publish(host: str, certificate: bytes, key: bytes) -> None:
            raise OSError("no worker")

        one.proofs.publish = publish  # type: ignore[method-assign]
        await one.service.reload(settings(authority(plain, challenge="tls-alpn-01")))
        await clock.idle()
        (failure,) = one.failures
        assert failure.error == "An error in the gateway: OSError. See its log."
        assert one.proofs.log == [("withdraw", HOST)]


async def test_a_challenge_that_the_authority_does_not_offer(plain: Pebble, tmp_path: Path) -> None:
    between = Between(plain)

    def only_dns(method: str, path: str, reply: Reply) -> Reply:
        found = json.loads(reply.body)
        found["challenges"] = [each for each in found["challenges"] if "dns" in each["type"]]
        return reply._replace(body=json.dumps(found).encode())

    async with between.served():
        between.faults = [("authZ/", only_dns)] * 40
        wanted = settings(authority(plain, directory=between.directory))
        text = await failure_of(plain, tmp_path, wanted)
    assert text.startswith(f"pebble does not accept http-01 as proof of {HOST}, only dns-")
    assert text.endswith("Choose another `challenge`, or use a certificate from files.")


def without(name: str) -> Any:
    def change(method: str, path: str, reply: Reply) -> Reply:
        found = json.loads(reply.body)
        found.pop(name, None)
        return reply._replace(body=json.dumps(found).encode())

    return change


def status(value: str, **more: object) -> Any:
    def change(method: str, path: str, reply: Reply) -> Reply:
        found = {**json.loads(reply.body), "status": value, **more}
        return reply._replace(body=json.dumps(found).encode())

    return change


ERROR = {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids it"}
UNKNOWN = "sent something that cannot be understood"


@pytest.mark.parametrize(
    ("part", "fault", "text"),
    [
        ("nonce-plz", lambda *_: Reply(200), UNKNOWN),
        ("nonce-plz", lambda *_: Reply(500), "status 500, without an explanation."),
        ("sign-me-up", lambda *_: Reply(201, b"{}"), UNKNOWN),
        (
            "sign-me-up",
            lambda *_: problem("userActionRequired", "agree to https://a.example/terms"),
            "pebble refused to register an account: agree to https://a.example/terms "
            "(userActionRequired). The authority's terms have changed",
        ),
        ("order-plz", lambda *_: Reply(201, b"[]"), UNKNOWN),
        ("order-plz", without("status"), UNKNOWN),
        ("order-plz", without("finalize"), UNKNOWN),
        ("order-plz", without("authorizations"), UNKNOWN),
        ("order-plz", status("strange"), UNKNOWN),
        (
            "order-plz",
            lambda _, __, reply: reply._replace(fields={**reply.fields, "location": "/a"}),
            "accepted the order but gave no address for it",
        ),
        ("authZ/", without("identifier"), UNKNOWN),
        ("authZ/", without("challenges"), UNKNOWN),
        ("authZ/", without("status"), UNKNOWN),
        ("authZ/", status("deactivated"), f"could not verify {HOST} by http-01: it is deactivated"),
        ("chalZ/", lambda *_: problem("malformed", "no"), f"refused to verify {HOST}: no (malf"),
        (
            "finalize-order/",
            lambda *_: problem("badCSR", "weak key", 400),
            f"refused the request for the certificate of {HOST}: weak key (badCSR). The authority "
            "does not accept the kind of key",
        ),
        (
            "finalize-order/",
            status("invalid", error=ERROR),
            f"did not issue the certificate of {HOST}: CAA forbids it (caa). A CAA record of the",
        ),
        ("finalize-order/", status("invalid"), "and gave no reason."),
        ("my-order/", status("valid"), "issued the certificate but gave no address for it"),
        (
            "certZ/",
            lambda _, __, reply: reply._replace(body=b"no PEM"),
            "What pebble issued cannot be used: it has no cert",
        ),
        (
            "certZ/",
            lambda _, __, reply: reply._replace(body=reply.body[: len(reply.body) // 2 + 20]),
            "What pebble issued cannot be used: ",
        ),
        (
            "certZ/",
            lambda _, __, reply: reply._replace(body=pebble_certificate()),
            "What pebble issued cannot be used: the key in it does not belong to the certificate",
        ),
    ],
)
async def test_answers_that_cannot_be_used(
    plain: Pebble, tmp_path: Path, part: str, fault: Any, text: str
) -> None:
    clock, between = FakeClock(), Between(plain)
    between.faults = [(part, fault)]
    async with between.served(), world(plain, tmp_path, clock) as one:
        await one.service.reload(settings(authority(plain, directory=between.directory)))
        (until,) = await clock.idle()
        (failure,) = one.failures
        assert text in failure.error
        assert "\n" not in failure.error
        assert one.service.pair("shop") is None
        assert until is not None
        await clock.move(until)  # the next attempt finds a whole authority
        assert one.issued == ["shop"]


def pebble_certificate() -> bytes:
    """Somebody else's certificate."""
    from acmekit import make_stored

    from fastgate.certificates.acme.clock import SystemClock

    now = SystemClock().now()
    pem = make_stored("", [HOST], now, now.replace(year=now.year + 1)).pem
    return pem[pem.index("-----BEGIN CERTIFICATE") :].encode()


# ---- packages ---------------------------------------------------------------------------


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
sys.modules["josepy"] = None
from fastgate.certificates.acme.events import Events
from fastgate.certificates.acme.service import AcmeService
from fastgate.certificates.acme.settings import AcmeSettings, Authority, Wanted

async def run():
    service = AcmeService(Path(sys.argv[1]), None, Events(print, print))
    await service.reload(AcmeSettings())
    assert not {"acme", "requests", "cryptography"} & set(sys.modules)
    one = Authority("a", "https://a.example/dir")
    await service.reload(AcmeSettings({"a": one}, (Wanted("shop", ("a.example",), "a"),)))

asyncio.run(run())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.stderr.strip().endswith("Install them with: pip install 'fastgate[acme]'.")
    assert "Certificates from ACME authorities need packages that are not installed" in ran.stderr
