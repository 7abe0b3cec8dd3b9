"""What tests of TLS with other programs share: parts of documents, curl, and the answers it gets.

    document(proxying(upstream), listeners=[secure("public")], api=leaf)      # for `gateway(…)`
    curl(gateway, "/path", ca=material.root)                                  # one run of curl

All requests are for the host `test.example` unless a test names another one. curl gets its address
by `--resolve`, so that SNI, verification and `Host` are those of real use.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from certkit import Authority, Identity
from gatewaykit import PATIENCE, Client, Gateway
from messagekit import parse_head

HOST = "test.example"


def program(name: str, package: str) -> str:
    """The path of an installed program; skips the test without it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"install the Debian package {package!r} to run this")
    return found


# ---- documents -----------------------------------------------------------------------------------


def certificate(name: str, identity: Identity) -> dict[str, Any]:
    """A certificate of the document."""
    return {"name": name, "cert": f"path:{identity.cert}", "key": f"path:{identity.key}"}


def authority(name: str, issuer: Authority, crl: Path | None = None) -> dict[str, Any]:
    """An authority of the document."""
    found = {"name": name, "ca": f"path:{issuer.ca}"}
    return {**found, "crl": f"path:{crl}"} if crl else found


def secure(name: str = "public", **tls: Any) -> dict[str, Any]:
    """A listener with TLS. More: its settings."""
    return {"name": name, "bind": "127.0.0.1:0", "tls": tls or True}


def document(
    base: dict[str, Any] | None = None,
    *,
    listeners: list[dict[str, Any]] | None = None,
    authorities: list[dict[str, Any]] | None = None,
    **certificates: Identity,
) -> dict[str, Any]:
    """A configuration with these certificates, in their order. Without `base`, one route answers
    all requests; without listeners, one has TLS."""
    return {
        "listeners": listeners or [secure()],
        "certificates": [certificate(name, each) for name, each in certificates.items()],
        "authorities": authorities or [],
        **(base or {"routes": [{"name": "all", "path": "/{rest*}", "respond": {"body": "hello"}}]}),
    }


# ---- connections that stay open ------------------------------------------------------------------


class TlsClient(Client):
    """gatewaykit's client over TLS. It verifies the certificate."""

    def __init__(self, address: tuple[str, int], trust: Authority, name: str = HOST) -> None:
        super().__init__(address)
        context = ssl.create_default_context(cafile=str(trust.ca))
        self.tls = {"ssl": context, "server_hostname": name}

    @property
    def presented(self) -> bytes:
        """The certificate that the gateway presented on the open connection, DER."""
        assert self.streams is not None
        made: ssl.SSLObject = self.streams[1].get_extra_info("ssl_object")
        return made.getpeercert(True) or b""


# ---- curl ----------------------------------------------------------------------------------------


class Curled(NamedTuple):
    """What curl has done. `code` is its exit code (0: fine), `says` its verbose output."""

    code: int
    status: int
    headers: dict[str, str]
    body: bytes
    says: str

    @property
    def version(self) -> str:
        """The version of TLS: "TLSv1.3"."""
        return self.says.partition("SSL connection using ")[2].partition(" ")[0]


def curl(
    gateway: Gateway,
    path: str = "/",
    *arguments: object,
    listener: str = "public",
    host: str = HOST,
    scheme: str = "https",
    ca: Authority | None = None,
) -> Curled:
    """Run curl with these arguments, verbosely. Without `ca` the operating system's are trusted."""
    ip, port = gateway.address(listener)
    command = [program("curl", "curl"), "-sSv", "-i", "--max-time", str(int(PATIENCE))]
    command += ["--resolve", f"{host}:{port}:{ip}"]
    command += ["--cacert", str(ca.ca)] if ca else []
    command += [*map(str, arguments), f"{scheme}://{host}:{port}{path}"]
    done = subprocess.run(command, capture_output=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    status, headers = parse_head(head) if head else (0, {})
    return Curled(done.returncode, status, headers, body, done.stderr.decode(errors="replace"))
