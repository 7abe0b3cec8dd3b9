"""Pebble, the ACME authority for tests, with a name server for which every host is 127.0.0.1.

Both are built by `go install` from the Go module proxy, once, into `build/pebble/`. Where there is
no Go, tests that need them are skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from waitkit import free_ports

PEBBLE = "github.com/letsencrypt/pebble/v2"
VERSION = "v2.10.3"
PROGRAMS = ("pebble", "pebble-challtestsrv")
BUILD = Path(__file__).parent.parent / "build" / "pebble" / VERSION
PATIENCE_S = 60


def programs() -> Path:
    """The folder with both programs. Skips the test where there is no Go."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run beside each other
        if not all((BUILD / name).exists() for name in PROGRAMS):
            go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
            if go is None:
                pytest.skip("install Go (https://go.dev) to run this: it builds pebble")
            packages = [f"{PEBBLE}/cmd/{name}@{VERSION}" for name in PROGRAMS]
            subprocess.run(
                [go, "install", *packages], env={**os.environ, "GOBIN": str(BUILD)}, check=True
            )
    return BUILD


@dataclass
class Pebble:
    """A running authority. What it is for: `directory`, `ca`, `http_port`, `tls_port`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    http_port: int = 0
    tls_port: int = 0
    port: int = 0
    management_port: int = 0

    def __post_init__(self) -> None:
        ports = free_ports(6)  # at once: one by one, two may be the same
        self.http_port = self.http_port or ports[0]
        self.tls_port = self.tls_port or ports[1]
        self.port = self.port or ports[2]
        self.management_port = self.management_port or ports[3]
        self._names, self._names_management = (f"127.0.0.1:{port}" for port in ports[4:])
        self._processes: list[subprocess.Popen[bytes]] = []
        self.ca = _make_certificate(self.folder)

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "pebble.log").read_text()

    @property
    def orders(self) -> int:
        """The orders that were placed."""
        return self.log.count("Added order ")

    def start(self) -> Pebble:
        """Start it. A restarted one has forgotten everything."""
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management_port}",
            "certificate": str(self.folder / "pebble.pem"),
            "privateKey": str(self.folder / "pebble.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "keyAlgorithm": "ecdsa",
            "retryAfter": {"authz": 0, "order": 0},
            **self.settings,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self._run(
            "pebble-challtestsrv", "-dnsserver", self._names,
            "-management", self._names_management,
            "-defaultIPv6=", "-doh=", "-http01=", "-https01=", "-tlsalpn01=",
        )  # fmt: skip
        self._run("pebble", "-config", str(self.folder / "pebble.json"), "-dnsserver", self._names)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                self.get(self.directory)
                return self
            assert time.monotonic() < deadline, self.log
            assert all(process.poll() is None for process in self._processes), self.log
            time.sleep(0.05)  # neither says when it listens

    def _run(self, name: str, *arguments: str) -> None:
        quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [programs() / name, *arguments],
                    env={**os.environ, **quick, **self.environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def get(self, url: str) -> httpx.Response:
        with self._http() as client:
            return client.get(url)

    def manage(self, path: str, content: object = None) -> httpx.Response:
        """Ask its management interface; with content, POST it as JSON."""
        url = f"https://127.0.0.1:{self.management_port}{path}"
        with self._http() as client:
            return client.get(url) if content is None else client.post(url, json=content)

    def suggest(self, certificate: str, answer: str) -> None:
        """Answer this when asked for the renewal information of a certificate (PEM)."""
        content = {"Certificate": certificate, "ARIResponse": answer}
        assert self.manage("/set-renewal-info/", content).status_code == 200

    def _http(self) -> httpx.Client:
        trusted = ssl.create_default_context(cadata=self.ca.decode())
        return httpx.Client(verify=trusted, trust_env=False)


@contextlib.contextmanager
def pebble(
    folder: Path, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[Pebble]:
    """A running pebble, with variables of its environment and settings of its configuration."""
    folder.mkdir(exist_ok=True)
    programs()
    running = Pebble(folder, environment or {}, settings)
    try:
        yield running.start()
    finally:
        running.stop()


def _make_certificate(folder: Path) -> bytes:
    """A certificate and key for pebble's own server; returns the certificate, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pebble")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    (folder / "pebble.pem").write_bytes(pem)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "pebble.key").write_bytes(private)
    return pem
