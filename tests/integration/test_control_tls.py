"""The control API of a real gateway over TLS: its certificate, its changes, its command line."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatewaykit import Gateway, eventually
from pkikit import Authority, Issued

Start = Callable[..., Gateway]
ROOT = Authority.root()


def document(folder: Path, issued: Issued, **control: Any) -> dict[str, Any]:
    cert, key = issued.write(folder / "control")
    return {
        "certificates": [{"name": "own", "cert": f"path:{cert}", "key": f"path:{key}"}],
        "control": {"bind": "0.0.0.0:0", "tls": "own", **control},
        "routes": [{"name": "one", "path": "/", "respond": 204}],
    }


def port_of(gateway: Gateway) -> int:
    return int(gateway.running["control"].rpartition(":")[2])


def presented(gateway: Gateway, folder: Path) -> bytes:
    """The certificate of an answer of the API, verified; empty while there is no answer."""
    ca = folder / "root.pem"
    ca.write_bytes(ROOT.pem)
    context = ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("localhost", port_of(gateway), context=context)
    with contextlib.suppress(OSError), contextlib.closing(connection):
        connection.request("GET", "/healthz")
        sock: Any = connection.sock
        found: bytes = sock.getpeercert(True)
        assert connection.getresponse().status == 200
        return found
    return b""


def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "FASTGATE" not in name}
    return subprocess.run(
        [sys.executable, "-m", "fastgate", *arguments, "--state-dir", str(gateway.state)],
        capture_output=True, text=True, cwd=gateway.folder, env=environment,
    )  # fmt: skip


def test_the_api_presents_its_certificate_and_follows_its_files(
    gateway: Start, tmp_path: Path
) -> None:
    first = ROOT.issue("localhost")
    running = gateway(document(tmp_path, first), workers=1)
    assert eventually(lambda: presented(running, tmp_path), "an answer") == first.der
    assert running.running["control"] == f"https://0.0.0.0:{port_of(running)}"
    renewed = ROOT.issue("localhost")
    renewed.write(tmp_path / "control")
    eventually(lambda: presented(running, tmp_path) == renewed.der, "the new certificate")
    ran = command(running, "certificates", "list", "--json")
    assert ran.returncode == 0, ran.stderr
    (status,) = json.loads(ran.stdout)
    assert status["used_by"] == ["control"]
    assert status["fingerprint"] == running.running["control_certificate"]


def test_tls_of_the_api_comes_and_goes_with_reloads(gateway: Start, tmp_path: Path) -> None:
    issued = ROOT.issue("localhost")
    config = document(tmp_path, issued, bind="127.0.0.1:0")
    clear = {**config, "control": {"bind": "127.0.0.1:0"}}
    running = gateway(clear, workers=1)
    assert running.api("/v1/status").json["ready"] is True
    running.reload_and_wait(config)
    assert eventually(lambda: presented(running, tmp_path), "an answer over TLS") == issued.der
    assert command(running, "status").returncode == 0
    running.reload_and_wait(clear)
    eventually(lambda: running.api("/healthz").status == 200, "an answer in clear")


def test_a_control_process_that_dies_is_replaced(gateway: Start, tmp_path: Path) -> None:
    issued = ROOT.issue("localhost")
    running = gateway(document(tmp_path, issued), workers=1)
    eventually(lambda: presented(running, tmp_path), "an answer")
    running.kill("fg-control")
    assert eventually(lambda: presented(running, tmp_path), "an answer") == issued.der


def test_without_tls_it_is_not_reachable_for_others(tmp_path: Path) -> None:
    running = Gateway({"control": {"bind": "0.0.0.0:0"}}, tmp_path, workers=1)
    assert running.wait() == 4
    assert "control.bind: the control API can be reached from other machines" in running.log_text()
