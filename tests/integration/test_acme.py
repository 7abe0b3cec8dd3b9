"""A real gateway and a real authority (pebble): certificates that come and renew by themselves."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import Gateway, eventually, fetch
from pebblekit import Pebble, pebble
from waitkit import free_port
from webhookkit import KEY, Receiver

from fastgate._core.tls import keyring
from fastgate._core.tls.keyring import Keyring
from fastgate.billing.notices.webhooks import HEADER, verify

Start = Callable[..., Gateway]
HOST = "shop.example.com"
CHALLENGE = "/.well-known/acme-challenge/"


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Pebble]:
    with pebble(tmp_path / "pebble") as running:
        (tmp_path / "authority.pem").write_bytes(running.ca)
        yield running


def document(authority: Pebble, folder: Path, *hosts: str, **more: Any) -> dict[str, Any]:
    return {
        "listeners": [
            {
                "name": "clear",
                "bind": f"127.0.0.1:{authority.http_port}",
                "redirect": "https",
                "https_port": 443,
            },
            {"name": "public", "bind": "127.0.0.1:0", "tls": True},
        ],
        "certificates": [{"name": "shop", "hosts": list(hosts or (HOST,)), "acme": "pebble"}],
        "acme": [
            {
                "name": "pebble",
                "directory": authority.directory,
                "ca": f"path:{folder / 'authority.pem'}",
            }
        ],
        "routes": [{"name": "all", "path": "/{rest*}", "respond": 204}],
        **more,
    }


def keyring_of(gateway: Gateway) -> Keyring | None:
    """The keyring that the supervisor keeps, which is that of the workers."""
    for path in Path(f"/proc/{gateway.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is closed just now
            if "fastgate-keyring" in str(path.readlink()):
                with path.open("rb") as file:
                    return keyring.read(file.fileno())
    return None


def leaf(gateway: Gateway) -> bytes:
    """The certificate that workers have; empty: none."""
    found = keyring_of(gateway)
    return bytes(found.certificates[0].chain[0]) if found and found.certificates else b""


def shop(gateway: Gateway) -> dict[str, Any]:
    (found,) = gateway.api("/v1/certificates").json["items"]
    return dict(found)


@pytest.mark.parametrize("public", ["on", "off"])
def test_a_certificate_comes_renews_and_survives_processes(
    gateway: Start, authority: Pebble, tmp_path: Path, public: str
) -> None:
    config = document(authority, tmp_path, billing={"public": public})
    running = gateway(config, state=tmp_path / "s")
    generation = running.generation
    first = eventually(lambda: leaf(running), "the certificate")
    assert running.generation == generation  # no reload was needed
    status = eventually(lambda: (s := shop(running))["state"] == "valid" and s, "its state")
    assert (status["source"], status["problem"]) == ("acme: pebble", None)
    assert status["renews"] > status["not_before"]
    metrics = running.api("/metrics").body.decode()
    assert 'fastgate_acme_orders_total{result="issued"} 1' in metrics
    assert 'fastgate_certificate_expiry_seconds{name="shop"}' in metrics

    # Challenges alone are answered where everything else is redirected to https.
    asked = fetch(running.address("clear"), CHALLENGE + "x")
    assert (asked.status, asked.body) == (404, b"There is no pending challenge with this token.\n")
    for path in ("/else", "/_fastgate/problems", CHALLENGE, CHALLENGE + "x/y"):
        assert fetch(running.address("clear"), path).status == 308

    renewed = running.api("/v1/certificates/shop/renew?wait=true", method="POST")
    assert (renewed.status, renewed.json["name"]) == (200, "shop")
    second = eventually(lambda: (now := leaf(running)) != first and now, "the renewed one")

    # Neither a new control process nor a new gateway orders what is on disk.
    running.kill("fg-control")
    eventually(lambda: shop(running)["state"] == "valid", "the new control process")
    assert leaf(running) == second
    running.stop()
    again = gateway(config, state=tmp_path / "s")
    assert leaf(again) == second  # with the first configuration
    assert authority.orders == 2


def test_tls_alpn_01_through_the_workers_before_there_is_any_certificate(
    gateway: Start, authority: Pebble, tmp_path: Path
) -> None:
    config = document(authority, tmp_path)
    config["listeners"] = [
        {"name": "public", "bind": f"127.0.0.1:{authority.tls_port}", "tls": True}
    ]
    config["acme"][0]["challenge"] = "tls-alpn-01"
    running = gateway(config)
    first = eventually(lambda: leaf(running), "the certificate")
    assert presented(authority) == first
    running.api("/v1/certificates/shop/renew?wait=true", method="POST")
    second = eventually(lambda: (now := leaf(running)) != first and now, "the renewed one")
    eventually(lambda: presented(authority) == second, "all workers present it")
    found = keyring_of(running)
    assert found is not None
    assert found.challenges == []
    # Without a challenge, nobody is told about it.
    with pytest.raises(ssl.SSLError):
        presented(authority, "acme-tls/1")


def presented(authority: Pebble, protocol: str = "http/1.1") -> bytes:
    """The certificate that a client gets, verified with the authority's root."""
    roots = authority.manage("/roots/0").text
    context = ssl.create_default_context(cadata=roots)
    context.set_alpn_protocols([protocol])
    with (
        socket.create_connection(("127.0.0.1", authority.tls_port)) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        assert secured.selected_alpn_protocol() == protocol
        return secured.getpeercert(binary_form=True) or b""


def test_what_the_operator_sees_when_it_fails(
    gateway: Start, authority: Pebble, tmp_path: Path
) -> None:
    config = document(authority, tmp_path)
    config["listeners"][0]["bind"] = "127.0.0.1:0"  # not where the authority looks
    running = gateway(config)
    status = eventually(lambda: (s := shop(running))["problem"] and s, "the failure")
    assert status["state"] == "pending"
    assert status["problem"].startswith(f"pebble could not verify {HOST} by http-01: ")
    assert status["next_attempt"] is not None
    assert running.said("The certificate shop could not be ordered.")
    refused = running.api("/v1/certificates/shop/renew?wait=true", method="POST")
    assert (refused.status, refused.json["reason"]) == (503, "not_issued")
    # It is configured rightly now: at once.
    running.reload_and_wait(document(authority, tmp_path, HOST, "more.example"))
    eventually(lambda: leaf(running), "the certificate")


def test_secrets_and_files_that_are_missing_refuse_the_configuration(
    gateway: Start, authority: Pebble, tmp_path: Path
) -> None:
    running = gateway(document(authority, tmp_path))
    eventually(lambda: leaf(running), "the certificate")
    config = document(authority, tmp_path)
    config["acme"][0]["eab"] = {"kid": "k", "key": "env:NO_SUCH_KEY"}
    running.reload(config)
    eventually(lambda: running.said("the secret env:NO_SUCH_KEY is empty or not set"), "the error")
    config = document(authority, tmp_path)
    config["acme"][0]["ca"] = f"path:{tmp_path}/none.pem"
    running.reload(config)
    eventually(lambda: running.said(f"{tmp_path}/none.pem cannot be read"), "the error")
    assert shop(running)["state"] == "valid"


def test_a_certificate_that_is_not_issued_is_announced_to_operators(
    gateway: Start, tmp_path: Path, receiver: Receiver
) -> None:
    """The authority is away."""
    hook = {"name": "ops", "url": receiver.url, "secret": "env:HOOK_SECRET"}
    config = {
        "listeners": [
            {"name": "clear", "bind": "127.0.0.1:0"},
            {"name": "public", "bind": "127.0.0.1:0", "tls": True},
        ],
        "certificates": [{"name": "shop", "hosts": [HOST], "acme": "away"}],
        "acme": [{"name": "away", "directory": f"https://127.0.0.1:{free_port()}/dir"}],
        "routes": [{"name": "all", "path": "/{rest*}", "respond": 204}],
        "observability": {"webhooks": [hook]},
    }
    gateway(config, environ={"HOOK_SECRET": KEY})
    eventually(lambda: receiver.got, "a notice")
    ((headers, body),) = receiver.got
    notice = json.loads(body)
    assert verify([KEY], headers[HEADER], body, int(time.time()))
    assert notice["type"] == "certificate.failed"
    assert notice["data"]["certificate"] == "shop"
    assert "127.0.0.1" in notice["data"]["error"]


def test_the_gateway_stops_while_the_authority_does_not_answer(
    gateway: Start, authority: Pebble, tmp_path: Path
) -> None:
    running = gateway(document(authority, tmp_path))
    eventually(lambda: leaf(running), "the certificate")
    for process in authority._processes:
        process.send_signal(signal.SIGSTOP)
    running.api("/v1/certificates/shop/renew", method="POST")
    eventually(lambda: shop(running)["ordering"], "the attempt")
    assert running.stop() == 0
    for process in authority._processes:
        process.send_signal(signal.SIGCONT)
