"""Issuers of tokens of a real gateway: their keys are fetched, kept, and brought to the workers."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certkit import Material
from gatewaykit import Gateway, eventually
from providerkit import KEYS, Provider, SigningKey

from fastgate.config.issuer_ids import id_of
from fastgate.issuers.storage import FOLDER
from fastgate.model.codec import decode
from fastgate.model.gateway import Issuer

Start = Callable[..., Gateway]
ROUTES = [{"name": "one", "path": "/", "respond": 204}]


def corp(provider: Provider, **more: Any) -> dict[str, Any]:
    return {"name": "corp", "issuer": provider.issuer, "audience": "orders", **more}


def document(*issuers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"issuers": list(issuers), "routes": ROUTES, **more}


def kids(gateway: Gateway, number: int = 0) -> list[str]:
    """The keys that workers have of an issuer."""
    return [key.kid for key in gateway.keyring().issuers[number].keys]


def state_of(gateway: Gateway, name: str = "corp") -> dict[str, Any]:
    items = gateway.api("/v1/issuers").json["items"]
    found: dict[str, Any] = next(each for each in items if each["name"] == name)
    return found


def metric(gateway: Gateway, line: str) -> float:
    text = gateway.api("/metrics").body.decode()
    return next(float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))


def test_keys_reach_the_workers_without_a_new_generation(gateway: Start) -> None:
    with Provider() as provider:
        running = gateway(document(corp(provider)))
        eventually(lambda: kids(running) == ["k1"], "the first key")
        [entry] = running.keyring().issuers
        assert entry.id == id_of(decode(corp(provider), Issuer))
        assert (entry.issuer, entry.audiences, entry.fetches) == (provider.issuer, ["orders"], True)
        assert bytes(entry.keys[0].key) == provider.keys[0].spki
        generation = running.generation

        provider.rotate("k2", "k3")
        done = running.api("/v1/issuers/corp/refresh", method="POST")
        assert done.status == 200
        assert [key["kid"] for key in done.json["keys"]] == ["k2", "k3"]
        eventually(lambda: kids(running) == ["k2", "k3"], "the new keys reach the workers")
        assert running.generation == generation
        assert running.said("corp: its keys have changed: new k2 (ECDSA P-256), k3 (ECDSA P-256)")

        status = state_of(running)
        assert (status["state"], status["source"]) == ("ok", "discovery")
        assert status["jwks_uri"] == f"{provider.origin}{KEYS}"
        assert status["keys"][0]["algorithms"] == ["ES256"]
        assert metric(running, 'fastgate_jwks_fetches_total{issuer="corp",result="ok"}') == 2
        assert metric(running, 'fastgate_jwks_age_seconds{issuer="corp"}') >= 0
        assert running.api("/readyz").status == 200


def test_a_restart_while_the_issuer_is_down(gateway: Start, tmp_path: Path) -> None:
    """Of the control process, and of the gateway: whose key is known suffers no harm."""
    state = tmp_path / "state"
    with Provider() as provider:
        running = gateway(document(corp(provider)), state=state)
        eventually(lambda: kids(running) == ["k1"], "the first key")
        file = state / FOLDER / "corp.json"
        eventually(file.exists, "the file")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        provider.fails = 503
        generation = running.generation
        running.kill("fg-control")
        eventually(lambda: running.generation > generation, "another control process publishes")
        assert kids(running) == ["k1"]
        running.stop()
        again = gateway(document(corp(provider)), state=state)
        assert kids(again) == ["k1"]
        assert state_of(again)["state"] == "ok"  # the keys are still fresh
        refused = again.api("/v1/issuers/corp/refresh", method="POST")
        assert (refused.status, refused.json["reason"]) == (503, "not_fetched")
        assert "it answered 503. The last good keys stay in use" in refused.json["detail"]
        assert kids(again) == ["k1"]
        status = state_of(again)
        assert (status["state"], status["failures"]) == ("stale", 1)
        assert again.said("the 1 known ones stay in use")


def test_an_issuer_that_is_down_does_not_stop_the_gateway(gateway: Start) -> None:
    with Provider() as provider:
        provider.fails = 500
        running = gateway(document(corp(provider)), workers=1)
        eventually(lambda: running.said("none are known"), "the warning")
        assert (kids(running), state_of(running)["state"]) == ([], "missing")
        provider.fails = 0
        eventually(lambda: kids(running) == ["k1"], "the key, after the back-off")
        assert running.said("corp: its keys could be fetched again")


def test_reloads(gateway: Start) -> None:
    """Issuers come, change and go; what is known of others stays."""
    with Provider() as provider, Provider() as other:
        running = gateway({"routes": ROUTES})
        with pytest.raises(AssertionError, match="no keyring"):
            running.keyring()
        running.reload_and_wait(document(corp(provider)))
        eventually(lambda: kids(running) == ["k1"], "the key")
        second = {"name": "other", "issuer": other.issuer}
        running.reload_and_wait(document(second, corp(provider, audience="shop")))
        assert kids(running, 1) == ["k1"]  # it has it at once, in the same keyring
        eventually(lambda: kids(running, 0) == ["k1"], "the key of the other one")
        spki = bytes(running.keyring().issuers[0].keys[0].key)
        assert spki == other.keys[0].spki != provider.keys[0].spki
        running.reload_and_wait({"routes": ROUTES})
        assert running.keyring().issuers == []
        assert running.api("/v1/issuers").json == {"items": []}


def test_https_with_an_authority_of_its_own(
    gateway: Start, tmp_path: Path, tls_material: Material
) -> None:
    leaf = tls_material.leaf("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.cert, leaf.key)
    authority = {"name": "internal", "ca": f"path:{tls_material.root.ca}"}
    with Provider(context) as provider:
        running = gateway(
            document(corp(provider, authority="internal"), authorities=[authority]), workers=1
        )
        eventually(lambda: kids(running) == ["k1"], "the key")
        running.reload_and_wait(document(corp(provider), authorities=[authority]))
        refused = running.api("/v1/issuers/corp/refresh", method="POST")
        assert refused.status == 503
        assert "its certificate is not accepted" in refused.json["detail"]
        assert kids(running) == ["k1"]


def test_keys_in_a_file(gateway: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    one, two = SigningKey("one"), SigningKey("two")

    def write(*keys: dict[str, Any]) -> None:
        file.write_text(json.dumps({"keys": list(keys)}))

    write(one.jwk())
    svc = {"name": "svc", "issuer": "svc", "keys": f"path:{file}"}
    running = gateway(document(svc), workers=1)
    assert kids(running) == ["one"]
    generation = running.generation
    write(one.jwk(), two.jwk())
    eventually(lambda: kids(running) == ["one", "two"], "the new key")
    assert running.generation == generation
    write({**two.jwk(), "d": "AAAA"})
    eventually(lambda: running.said("is a private key"), "the error")
    assert kids(running) == ["one", "two"]
    status = state_of(running, "svc")
    assert (status["state"], status["source"]) == ("stale", f"path:{file}")
    assert "is a private key" in status["problem"]
    conflict = running.api("/v1/issuers/svc/refresh", method="POST")
    assert (conflict.status, conflict.json["reason"]) == (409, "conflict")
    running.kill("fg-control")
    eventually(lambda: running.said("what workers have stays in use instead"), "its successor")
    assert kids(running) == ["one", "two"]


def test_a_gateway_does_not_begin_with_a_secret_that_others_can_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 64)
    secret.chmod(0o644)
    svc = {"name": "svc", "issuer": "svc", "secret": f"path:{secret}"}
    running = Gateway(document(svc), tmp_path, workers=1)
    assert running.wait() == 4
    assert "issuers[0].secret" in running.log_text()
    assert "its mode 0644 lets others read" in running.log_text()


def test_secrets_are_in_the_keyring_alone(gateway: Start) -> None:
    shared, asked = "s" * 40, "a-secret-for-asking"
    svc = {
        "name": "svc",
        "issuer": "svc",
        "secret": "env:SHARED",
        "introspection": {
            "endpoint": "https://svc.example/ask",
            "client_id": "gateway",
            "client_secret": "env:ASKED",
        },
    }
    running = gateway(document(svc), workers=1, environ={"SHARED": shared, "ASKED": asked})
    [entry] = running.keyring().issuers
    assert bytes(entry.keys[0].key) == shared.encode()
    assert entry.authorization.startswith("Basic ")
    assert entry.introspection == "/ask"
    shown = "".join(
        running.api(path).body.decode() for path in ("/v1/issuers", "/v1/config", "/metrics")
    )
    files = [path.read_bytes() for path in running.state.rglob("*") if path.is_file()]
    for secret in (shared, asked, entry.authorization):
        assert secret not in shown + running.log_text()
        assert not any(secret.encode() in content for content in files)


def test_the_command_line(gateway: Start) -> None:
    with Provider() as provider:
        running = gateway(document(corp(provider)), workers=1)
        eventually(lambda: kids(running) == ["k1"], "the key")
        assert state_of(running)["state"] == "ok"  # the store is there, and the admin's token

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "fastgate", "issuers", *arguments],
                env={**os.environ, "FASTGATE_STATE_DIR": str(running.state), "COLUMNS": "200"},
                capture_output=True,
                text=True,
                check=False,
            )

        listed = run("list")
        assert listed.returncode == 0
        for text in ("corp", provider.issuer, "discovery", "ok"):
            assert text in listed.stdout
        assert "k1" in run("list", "--keys").stdout
        provider.rotate("k2")
        assert "corp: 1 key, fetched again at " in run("refresh", "corp").stdout
        eventually(lambda: kids(running) == ["k2"], "the new key reaches the workers")
        provider.fails = 503
        refused = run("refresh", "corp")
        assert (refused.returncode, "it answered 503" in refused.stderr) == (1, True)
        assert run("list").returncode == 1
