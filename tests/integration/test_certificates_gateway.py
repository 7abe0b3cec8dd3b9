"""Certificates of a real gateway: read at its start, watched, kept over its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gatewaykit import Gateway, eventually
from pkikit import Authority, Issued
from webhookkit import KEY, Receiver

Start = Callable[..., Gateway]
ROOT = Authority.root()


def document(folder: Path, issued: Issued) -> dict[str, Any]:
    cert, key = issued.write(folder / "api")
    return {
        "listeners": [{"name": "public", "bind": "127.0.0.1:0", "tls": True}],
        "certificates": [{"name": "api", "cert": f"path:{cert}", "key": f"path:{key}"}],
        "routes": [{"name": "one", "path": "/", "respond": 204}],
    }


def leaf(gateway: Gateway) -> bytes:
    return bytes(gateway.keyring().certificates[0].chain[0])


def connect(gateway: Gateway) -> tuple[http.client.HTTPSConnection, bytes]:
    """A new connection to its listener, and the certificate that it presents."""
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    context.check_hostname = False
    connection = http.client.HTTPSConnection(*gateway.address(), context=context)
    connection.connect()
    sock: Any = connection.sock
    return connection, sock.getpeercert(True)


def answered(connection: http.client.HTTPSConnection) -> bool:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status == 204


@pytest.fixture
def api() -> Issued:
    return ROOT.issue("api.example")


def test_a_replaced_file_reaches_the_workers_without_a_new_generation(
    gateway: Start, tmp_path: Path, api: Issued
) -> None:
    running = gateway(document(tmp_path, api))
    assert leaf(running) == api.der
    open_since_before, presented = connect(running)
    assert presented == api.der
    assert answered(open_since_before)
    generation = running.generation
    (status,) = running.api("/v1/certificates").json["items"]
    assert (status["name"], status["state"]) == ("api", "valid")
    renewed = ROOT.issue("api.example")
    renewed.write(tmp_path / "api")
    eventually(lambda: leaf(running) == renewed.der, "the new certificate")
    assert running.generation == generation
    assert running.said("the certificate api is a new one")
    with contextlib.closing(open_since_before):
        assert answered(open_since_before)
    for _ in range(8):  # whichever worker gets it
        connection, presented = connect(running)
        with contextlib.closing(connection):
            assert presented == renewed.der
            assert answered(connection)
    (after,) = running.api("/v1/certificates").json["items"]
    assert after["fingerprint"] != status["fingerprint"]
    assert (
        'fastgate_certificate_expiry_seconds{name="api"}' in running.api("/metrics").body.decode()
    )


def test_a_file_that_cannot_be_used_changes_nothing(
    gateway: Start, tmp_path: Path, api: Issued
) -> None:
    running = gateway(document(tmp_path, api))
    (tmp_path / "api.key").write_bytes(ROOT.issue("other.example").key_pem)
    eventually(lambda: running.said("does not belong to the certificate"), "the error")
    assert leaf(running) == api.der
    (status,) = running.api("/v1/certificates").json["items"]
    assert "does not belong to the certificate" in status["problem"]
    before = running.generation
    running.reload()
    eventually(lambda: running.said("the reload was refused"), "the refusal")
    assert running.generation == before
    assert "certificates[0].key" in running.log_text()


def test_the_keyring_outlives_control_and_its_files(
    gateway: Start, tmp_path: Path, api: Issued
) -> None:
    running = gateway(document(tmp_path, api))
    before = running.keyring()
    for name in ("api.pem", "api.key"):
        (tmp_path / name).unlink()
    generation = running.generation
    running.kill("fg-control")
    eventually(lambda: running.generation > generation, "another control process publishes")
    after = running.keyring()
    assert after.serial > before.serial
    assert after.tickets == before.tickets
    assert after.certificates == before.certificates
    assert running.said("what workers have stays in use instead")
    running.kill("fg-worker-0")
    eventually(lambda: running.api("/readyz").status == 200, "all workers serve")


def test_tls_comes_and_goes_with_reloads(gateway: Start, tmp_path: Path, api: Issued) -> None:
    clear = {"routes": [{"name": "one", "path": "/", "respond": 204}]}
    running = gateway(clear)
    with pytest.raises(AssertionError, match="no keyring"):
        running.keyring()
    running.reload_and_wait(document(tmp_path, api))
    assert leaf(running) == api.der
    running.reload_and_wait(clear)
    assert running.keyring().certificates == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "api.key").chmod(0o644), "its mode 0644 lets others read"),
        (lambda folder: (folder / "api.pem").unlink(), "api.pem cannot be read: No such file"),
        (lambda folder: (folder / "api.pem").write_bytes(b"x"), "has no PEM block"),
    ],
)
def test_a_gateway_does_not_begin_without_its_certificates(
    spoil: Callable[[Path], object], says: str, tmp_path: Path, api: Issued
) -> None:
    config = document(tmp_path, api)
    spoil(tmp_path)
    running = Gateway(config, tmp_path, workers=1)
    assert running.wait() == 4
    assert says in running.log_text()
    assert "certificates[0]." in running.log_text()
    assert "fastgate.yaml:" in running.log_text()


def test_a_gateway_begins_with_an_expired_certificate(gateway: Start, tmp_path: Path) -> None:
    """Some clients may take it, and none could take what is not served."""
    running = gateway(document(tmp_path, ROOT.issue("api.example", start=-9, end=-1)), workers=1)
    assert "expired on" in running.log_text()
    (status,) = running.api("/v1/certificates").json["items"]
    assert status["state"] == "expired"


def test_certificates_change_under_load_and_nothing_fails(
    gateway: Start, tmp_path: Path, api: Issued
) -> None:
    """By its files, and by a reload: new connections all the time, and one that stays open."""
    running = gateway(document(tmp_path, api))
    seen: set[bytes] = set()
    failures: list[str] = []
    over = threading.Event()

    def ask() -> None:
        stays, _ = connect(running)
        with contextlib.closing(stays):
            while not over.is_set():
                try:
                    fresh, presented = connect(running)
                    with contextlib.closing(fresh):
                        assert answered(fresh)
                    seen.add(presented)
                    assert answered(stays)
                except Exception as error:
                    failures.append(repr(error))
                    return

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        expected = {api.der}
        for reload in (False, True):
            renewed = ROOT.issue("api.example")
            renewed.write(tmp_path / "api")
            expected.add(renewed.der)
            if reload:
                running.reload_and_wait()
            eventually(lambda: failures or expected <= seen, "clients see the new certificate")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert seen == expected


def test_certificates_that_expire_are_announced_to_operators(
    gateway: Start, tmp_path: Path, receiver: Receiver
) -> None:
    """At a start, and for a file that comes while it runs."""
    soon = ROOT.issue("api.example", start=-85, end=5)
    config = document(tmp_path, soon)
    hook = {"name": "ops", "url": receiver.url, "secret": "env:HOOK_SECRET"}
    config["observability"] = {"webhooks": [hook]}
    running = gateway(config, environ={"HOOK_SECRET": KEY})

    def posted(count: int) -> list[dict[str, Any]]:
        eventually(lambda: len(receiver.got) >= count, f"{count} notices")
        return [json.loads(body) for _, body in receiver.got]

    (first,) = posted(1)
    assert (first["type"], first["data"]["certificate"]) == ("certificate.expiring", "api")
    ROOT.issue("api.example", start=-89, end=0.5).write(tmp_path / "api")
    second = posted(2)[1]
    assert second["data"]["expires"] < first["data"]["expires"]
    assert running.said("the certificate api expires on")
