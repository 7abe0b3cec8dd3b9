"""docs/tls.md: the first five minutes are run as written; its documents are valid."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gatewaykit import PROJECT, eventually
from waitkit import free_port

from fastgate.config.file import loads
from fastgate.errors import ConfigurationError

GUIDE = (PROJECT / "docs" / "tls.md").read_text()
BLOCKS = re.findall(r"```(sh|yaml)\n(.*?)```", GUIDE, re.S)
DOCUMENTS = [text for kind, text in BLOCKS if kind == "yaml"]
FILES = {"PWD": "/here"}


def test_five_minutes(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("install the Debian package 'curl' to run this")
    port = str(free_port())
    environment = {
        **{name: value for name, value in os.environ.items() if "FASTGATE" not in name},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PWD": str(tmp_path),
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    (_, make), (_, document), (_, begin), (_, use) = BLOCKS[:4]
    made = run(make)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "localhost.key").stat().st_mode & 0o777 == 0o600
    text = document.replace("8443", port) + 'control: {bind: "127.0.0.1:0"}\n'
    (tmp_path / "fastgate.yaml").write_text(text)
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            f"exec {begin}", shell=True, cwd=tmp_path, env=environment, stderr=log
        )
    try:
        eventually(lambda: "serving" in (tmp_path / "log").read_text(), "the gateway serves")
        asked, tested = use.replace("8443", port).splitlines()
        answer = run(asked)
        assert answer.stdout == "Hello over TLS", answer.stderr
        assert "A client that asks for localhost accepts it." in run(tested).stdout
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


def test_the_first_document_has_five_lines() -> None:
    assert len(DOCUMENTS[0].splitlines()) <= 5


PARTS: dict[str, Callable[[str], str]] = {
    "the first": lambda text: text,
    "certificates": lambda text: text,
    "client certificates": lambda text: text + SERVED + CERTIFICATE,
    "upstreams": lambda text: text.replace("sha256/…", "sha256/" + "A" * 43 + "=") + CERTIFICATE,
    "control": lambda text: text + CERTIFICATE,
}
SERVED = """
upstreams: [{name: orders, targets: "http://10.0.0.1"}]
services: [{name: orders, upstream: orders}]
"""
CERTIFICATE = "certificates: [{name: api, cert: env:API}]\n"


@pytest.mark.parametrize(("number", "complete"), list(enumerate(PARTS.values())), ids=list(PARTS))
def test_the_documents_are_valid(number: int, complete: Callable[[str], str]) -> None:
    text = complete(DOCUMENTS[number])
    text = text if text.startswith("version") else f"version: 1\n{text}"
    loads(text, environ=FILES)


def test_all_documents_are_tested() -> None:
    assert len(DOCUMENTS) == len(PARTS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("routes: [{name: r, path: /, respond: 204, client_certificate: system}]", "anybody"),
        ('upstreams: [{name: u, targets: ["https://a", "http://b"]}]', "make two upstreams"),
        ("control: 0.0.0.0:8081", "sent in clear"),
        ("certificates: [{name: a, hosts: ['*.a.example'], acme: letsencrypt}]", "one host"),
    ],
)
def test_what_the_guide_says_is_refused(changes: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(f"version: 1\nlisteners: [':80']\n{changes}\n")
    assert says.replace("anybody", "accepted from clients") in str(caught.value)
