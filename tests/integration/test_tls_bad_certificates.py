"""Certificates and keys that are wrong, in both directions: what `fastgate check`, a start and a
reload say of the gateway's own; what clients say of them; which clients the gateway refuses.

Those of upstreams are in `test_tls_nginx`.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tlskit
from certkit import CLIENT, Identity, Material
from gatewaykit import PROJECT, Gateway, eventually, fetch
from nginxkit import Nginx, presenting
from pkikit import key_pem
from tlspeerkit import authority, curl, document, secure

Start = Callable[..., Gateway]

# ---- files that cannot be used -------------------------------------------------------------------


class Pair(NamedTuple):
    """Where the document looks for a certificate and its key."""

    cert: Path
    key: Path

    def take(self, identity: Identity) -> None:
        shutil.copy(identity.cert, self.cert)
        shutil.copy(identity.key, self.key)
        self.key.chmod(0o600)

    @property
    def entry(self) -> dict[str, Any]:
        return {"name": "api", "cert": f"path:{self.cert}", "key": f"path:{self.key}"}


def broken_chain(pair: Pair, material: Material) -> None:
    """An intermediate certificate of another authority with the same name."""
    leaf = material.leaf(issuer=material.intermediate)
    pair.take(leaf)
    other = material.authority("Test Intermediate")
    pair.cert.write_bytes(
        leaf.cert.read_bytes().partition(b"-----END CERTIFICATE-----\n")[0]
        + b"-----END CERTIFICATE-----\n"
        + other.ca.read_bytes()
    )


def cut_key(pair: Pair, _: Material) -> None:
    pair.key.write_bytes(pair.key.read_bytes()[:90] + b"\n-----END PRIVATE KEY-----\n")


SPOILT: dict[str, tuple[Callable[[Pair, Material], object], str, str, str]] = {
    # how; the field; what is said; and what to do
    "another key": (
        lambda pair, made: pair.key.write_bytes(made.unfitting_key().key.read_bytes()),
        "key",
        "does not belong to the certificate of",
        "take both from the same one",
    ),
    "an encrypted key": (
        lambda pair, made: pair.key.write_bytes(key_pem(made.leaf().private_key, b"secret")),
        "key",
        "is encrypted",
        "openssl pkey -in",
    ),
    "half a key": (cut_key, "key", "is not valid base64", "write it again"),
    "no key": (lambda pair, _: pair.key.unlink(), "key", "No such file", "Check the path"),
    "a key for everyone": (
        lambda pair, _: pair.key.chmod(0o644),
        "key",
        "its mode 0644 lets others read",
        "chmod 640",
    ),
    "no PEM": (
        lambda pair, made: pair.cert.write_bytes(made.leaf().chain_der[0]),
        "cert",
        "is in binary form",
        "openssl x509 -inform der -in FILE",
    ),
    "an empty file": (
        lambda pair, _: pair.cert.write_bytes(b""),
        "cert",
        "is empty",
        "begins with the line -----BEGIN CERTIFICATE-----",
    ),
    "a broken chain": (
        broken_chain,
        "cert",
        "the chain is broken",
        "Use the intermediate certificates that came with this certificate",
    ),
}


def plain(pair: Pair) -> dict[str, Any]:
    return {
        "listeners": [secure()],
        "certificates": [pair.entry],
        "routes": [{"name": "all", "path": "/{rest*}", "respond": {"body": "hello"}}],
    }


def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastgate", *arguments], capture_output=True, text=True,
        cwd=gateway.folder, env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def presented(gateway: Gateway) -> bytes | None:
    with tlskit.TlsClient(gateway.address(), tlskit.client_context()) as client:
        return client.peer


class Reloaded(NamedTuple):
    running: Gateway
    pair: Pair


@pytest.fixture(scope="module")
def reloaded(
    shared_gateway: Start, tls_material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Reloaded:
    """A gateway whose files the tests spoil."""
    folder = tmp_path_factory.mktemp("files")
    pair = Pair(folder / "api.pem", folder / "api.key")
    pair.take(tls_material.leaf())
    return Reloaded(shared_gateway(plain(pair), workers=1), pair)


@pytest.mark.parametrize(("spoil", "field", "says", "to_do"), SPOILT.values(), ids=list(SPOILT))
def test_files_that_cannot_be_used(
    reloaded: Reloaded,
    tls_material: Material,
    tmp_path: Path,
    spoil: Callable[[Pair, Material], object],
    field: str,
    says: str,
    to_do: str,
) -> None:
    """The same words from `check`, a reload and a start. A reload keeps the old certificate."""
    running, pair = reloaded
    good = tls_material.leaf()
    pair.take(good)
    spoil(pair, tls_material)
    generation = running.generation
    for said in (
        command(running, "check", "fastgate.yaml"),
        command(running, "reload", "--state-dir", str(running.state)),
    ):
        assert said.returncode in (1, 4), said.stdout
        assert f": certificates[0].{field}: " in said.stderr
        assert "fastgate.yaml:1" in said.stderr
        assert str(getattr(pair, field)) in said.stderr
        assert says in said.stderr
        assert to_do in said.stderr
        assert "-----BEGIN PRIVATE" not in said.stderr
    assert running.generation == generation
    assert presented(running) == good.chain_der[0]
    begun = Gateway(plain(pair), tmp_path, workers=1)
    assert begun.wait() == 4
    assert f": certificates[0].{field}: " in begun.log_text()
    assert says in begun.log_text()
    pair.take(good)
    assert command(running, "reload", "--state-dir", str(running.state)).returncode == 0


# ---- what clients say of certificates that can be used -------------------------------------------

DOUBTFUL: dict[str, tuple[Callable[[Material], Identity], str, str]] = {
    # which; what curl says; what the gateway says at its start
    "expired": (lambda made: made.expired(), "certificate has expired", "expired on"),
    "early": (
        lambda made: made.not_yet_valid(),
        "certificate is not yet valid",
        "is not valid before",
    ),
    "name": (lambda made: made.wrong_name(), "no alternative certificate subject name", ""),
    "unknown": (lambda made: made.unknown_issuer(), "unable to get local issuer", ""),
    "chain": (lambda made: made.without_chain(), "unable to get local issuer", ""),
    "self-signed": (lambda made: made.self_signed(), "self-signed certificate", ""),
    "revoked": (lambda made: made.revoked(), "certificate revoked", ""),
    "clients": (
        lambda made: made.leaf(usage=(CLIENT,)),
        "certificate purpose",
        "was not issued for servers",
    ),
    "reversed": (lambda made: made.reversed_chain(), "", ""),
}


@pytest.fixture(scope="module")
def doubtful(shared_gateway: Start, tls_material: Material) -> Gateway:
    """A listener for each of them."""
    return shared_gateway(
        document(
            listeners=[secure(name, certificates=[name]) for name in DOUBTFUL],
            **{name: made(tls_material) for name, (made, _, _) in DOUBTFUL.items()},
        ),
        workers=1,
    )


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_clients_refuse(doubtful: Gateway, tls_material: Material, name: str) -> None:
    """The gateway serves it, and warns of what it knows."""
    _, wanted, warned = DOUBTFUL[name]
    lists = ("--crlfile", tls_material.crl()) if name == "revoked" else ()
    got = curl(doubtful, "/", *lists, listener=name, ca=tls_material.root)
    assert got.code == (60 if wanted else 0), got.says
    assert wanted in got.says
    assert curl(doubtful, "/", "--insecure", listener=name).body == b"hello"
    if warned:
        lines = [line for line in doubtful.log_text().splitlines() if warned in line]
        assert any(f"'{name}'" in line for line in lines)


# ---- revocation lists that change ----------------------------------------------------------------


NOBODY = "somebody.example"
CHANGED = "the authority listed has changed"


def test_clients_are_revoked_without_a_reload(
    gateway: Start, tls_material: Material, tmp_path: Path
) -> None:
    """By both workers, also those that would resume a session; and they are accepted again."""
    lists = tmp_path / "lists.pem"
    client = tls_material.revoked(CLIENT)
    none = tls_material.crl(tls_material.leaf(NOBODY))
    shutil.copy(none, lists)
    running = gateway(
        document(
            listeners=[secure(client={"authorities": ["listed"]})],
            authorities=[authority("listed", tls_material.root, lists)],
            api=tls_material.leaf(),
        )
    )
    context = tlskit.client_context(identity=client, versions=("1.2", "1.2"))
    with tlskit.TlsClient(running.address(), context) as first:
        first.send(b"GET / HTTP/1.1\r\nHost: test.example\r\n\r\n")
        first.until(b"hello")
        session = first.session

    said: set[str] = set()

    def refused() -> bool:
        try:
            with tlskit.TlsClient(running.address(), context, session=session) as again:
                assert again.resumed
            return False
        except ssl.SSLError as error:
            said.add(str(error.reason))
            return True

    assert not refused()
    generation = running.generation
    shutil.copy(tls_material.crl(client), lists)
    eventually(lambda: running.said(CHANGED), "the list is read")
    # Sixteen in a row: neither worker accepts it.
    eventually(lambda: all(refused() for _ in range(16)), "clients are refused")
    shutil.copy(none, lists)
    eventually(lambda: running.log_text().count(CHANGED) == 2, "the list is read again")
    eventually(lambda: not refused(), "clients are accepted")
    assert said == {"SSLV3_ALERT_CERTIFICATE_REVOKED"}
    assert running.generation == generation


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_upstreams_are_revoked_without_a_reload(
    gateway: Start, tls_material: Material, tmp_path: Path, version: str
) -> None:
    """With a connection for each answer, so sessions are resumed all the time."""
    lists = tmp_path / "lists.pem"
    server = tls_material.revoked()
    shutil.copy(tls_material.crl(tls_material.leaf(NOBODY)), lists)
    block = presenting(server, f"keepalive_timeout 0; ssl_protocols {version};")
    with Nginx(tmp_path, {"it": block}) as nginx:
        tls = {"authority": "listed"}
        running = gateway(
            {
                "upstreams": [{"name": "it", "targets": [nginx.url("it")], "tls": tls}],
                "services": [{"name": "it", "upstream": "it"}],
                "routes": [{"name": "it", "path": "/facts", "service": "it"}],
                "authorities": [authority("listed", tls_material.root, lists)],
            }
        )

        def refused() -> bool:
            answer = fetch(running.address(), "/facts")
            assert answer.status == 200 or answer.json["reason"] == "upstream_tls_failed"
            return answer.status != 200

        assert not any(refused() for _ in range(8))
        generation = running.generation
        shutil.copy(tls_material.crl(server), lists)
        eventually(lambda: running.said(CHANGED), "the list is read")
        eventually(lambda: all(refused() for _ in range(16)), "it is refused", patience=10)
        assert running.generation == generation
