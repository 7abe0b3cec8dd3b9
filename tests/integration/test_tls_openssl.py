"""`openssl s_client` as a client of a real gateway: what it reports of each handshake."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from certkit import CLIENT, Authority, Identity, Material, Validity
from gatewaykit import PROJECT, Gateway, eventually
from tlspeerkit import HOST, authority, document, program, secure

Start = Callable[..., Gateway]
HERE = PROJECT / "tests" / "integration"
REQUEST = b"GET /%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
VERSIONS = ["-tls1_2", "-tls1_3"]


@pytest.fixture(scope="module")
def gateway(shared_gateway: Start, tls_material: Material) -> Gateway:
    """Two workers; certificates with both kinds of keys; client certificates for a listener, and
    for one name of another."""
    revoked = tls_material.crl(tls_material.revoked(CLIENT))
    partners = {"authorities": ["partners"]}
    asked = {"hosts": ["closed.example"], "client_certificate": {**partners, "required": False}}
    routes = [
        {"name": "worker", "path": "/worker", "handler": "tls_handlers:worker"},
        {"name": "closed", "path": "/worker", "handler": "tls_handlers:worker", **asked},
        {"name": "all", "path": "/{rest*}", "respond": {"body": "hello"}},
    ]
    return shared_gateway(
        document(
            {"routes": routes},
            listeners=[
                secure("public"),
                secure("strict", strict_names=True),
                secure("required", client=partners),
                secure("chain", certificates=["chain"]),
            ],
            authorities=[authority("partners", tls_material.root, revoked)],
            ecdsa=tls_material.leaf(HOST, "open.example", "same.example", "closed.example"),
            rsa=tls_material.leaf(HOST, kind="rsa"),
            chain=tls_material.leaf("chain.example", issuer=tls_material.intermediate),
        ),
        environ={"PYTHONPATH": f"{HERE}:{PROJECT}"},
    )


class Said(NamedTuple):
    """What s_client has printed; all of it, with the errors at the end."""

    code: int
    text: str

    @property
    def session(self) -> str:
        """ "New" or "Reused"."""
        found = re.search(r"^(New|Reused), ", self.text, re.M)
        assert found, self.text
        return found[1]

    @property
    def worker(self) -> int:
        """Who has answered a request for /worker."""
        found = re.search(r"worker (\d+)\.", self.text)
        assert found, self.text
        return int(found[1])


def command(
    gateway: Gateway, *arguments: object, listener: str, name: str, ca: Authority | None
) -> list[str]:
    host, port = gateway.address(listener)
    return [
        program("openssl", "openssl"), "s_client", "-connect", f"{host}:{port}",
        *(["-servername", name] if name else ["-noservername"]),
        *(["-CAfile", str(ca.ca)] if ca else []), *map(str, arguments),
    ]  # fmt: skip


def s_client(
    gateway: Gateway,
    *arguments: object,
    path: str = "",
    listener: str = "public",
    name: str = HOST,
    ca: Authority | None = None,
) -> Said:
    """Shake hands, send a request, print until the gateway closes."""
    done = subprocess.run(
        command(gateway, "-ign_eof", *arguments, listener=listener, name=name, ca=ca),
        input=REQUEST % (path.encode(), (name or HOST).encode()), capture_output=True,
    )  # fmt: skip
    return Said(done.returncode, (done.stdout + done.stderr).decode(errors="replace"))


@contextmanager
def commanded(gateway: Gateway, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """An s_client that takes commands on its standard input; all it prints is in `stdout`."""
    process = subprocess.Popen(
        command(gateway, *arguments, listener="public", name=HOST, ca=None),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def type_in(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def read_until(process: subprocess.Popen[bytes], mark: bytes) -> bytes:
    """What it prints, to the line with the mark or the end."""
    assert process.stdout is not None
    received = b""
    while mark not in received and (line := process.stdout.readline()):
        received += line
    return received


# ---- versions, protocols, keys -------------------------------------------------------------------


def test_tls_1_2(gateway: Gateway, tls_material: Material) -> None:
    said = s_client(gateway, "-tls1_2", "-alpn", "http/1.1", ca=tls_material.root)
    assert said.code == 0, said.text
    for line in (
        "Protocol  : TLSv1.2",
        "ALPN protocol: http/1.1",
        "Secure Renegotiation IS supported",
        "Compression: NONE",
        "Extended master secret: yes",
        "Verify return code: 0 (ok)",
        "HTTP/1.1 200 OK",
    ):
        assert line in said.text


def test_tls_1_3(gateway: Gateway, tls_material: Material) -> None:
    said = s_client(gateway, "-tls1_3", "-alpn", "h2,http/1.1", "-status", ca=tls_material.root)
    assert said.code == 0, said.text
    for line in (
        "New, TLSv1.3, Cipher is TLS_",
        "ALPN protocol: http/1.1",
        "OCSP response: no response sent",
        "Max Early Data: 0",
        "Verify return code: 0 (ok)",
        "HTTP/1.1 200 OK",
    ):
        assert line in said.text


@pytest.mark.parametrize(
    ("arguments", "alert"),
    [
        (["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"], "protocol version"),
        (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "protocol version"),
        (["-alpn", "h2"], "no application protocol"),
        (["-tls1_2", "-cipher", "AES128-SHA"], "handshake failure"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"], "handshake failure"),
        (["-tls1_3", "-groups", "X448"], "handshake failure"),
    ],
    ids=["1.0", "1.1", "h2", "no forward secrecy", "CBC", "X448"],
)
def test_what_is_not_spoken(gateway: Gateway, arguments: list[str], alert: str) -> None:
    said = s_client(gateway, *arguments)
    assert said.code == 1, said.text
    assert f"alert {alert}" in said.text


@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384"])
@pytest.mark.parametrize("version", VERSIONS)
def test_groups(gateway: Gateway, group: str, version: str) -> None:
    """The client has no other."""
    said = s_client(gateway, version, "-groups", group)
    assert said.code == 0, said.text
    assert "HTTP/1.1 200 OK" in said.text


@pytest.mark.parametrize(
    ("sigalgs", "bits"),
    [("ECDSA+SHA256", 256), ("RSA-PSS+SHA256", 2048), ("RSA-PSS+SHA256:ECDSA+SHA256", 256)],
    ids=["ECDSA", "RSA", "both"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_two_certificates_for_a_name(
    gateway: Gateway, version: str, sigalgs: str, bits: int
) -> None:
    """The client gets the one whose signatures it knows; ECDSA, if it knows both."""
    said = s_client(gateway, version, "-sigalgs", sigalgs)
    assert said.code == 0, said.text
    assert f"Server public key is {bits} bit" in said.text
    assert "HTTP/1.1 200 OK" in said.text


@pytest.mark.parametrize("length", [512, 4096])
def test_small_records_at_the_clients_wish(gateway: Gateway, length: int) -> None:
    said = s_client(gateway, "-maxfraglen", length)
    assert said.code == 0, said.text
    assert "HTTP/1.1 200 OK" in said.text


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unknown.example", ""], ids=["unknown", "none"])
def test_unknown_names(gateway: Gateway, tls_material: Material, name: str) -> None:
    said = s_client(gateway, name=name, ca=tls_material.root)
    assert said.code == 0, said.text
    assert "subject=CN = test.example\n" in said.text
    said = s_client(gateway, listener="strict", name=name)
    assert said.code == 1, said.text
    assert "unrecognized name" in said.text


def test_the_intermediate_certificate_is_sent(gateway: Gateway, tls_material: Material) -> None:
    said = s_client(gateway, listener="chain", name="chain.example", ca=tls_material.root)
    assert " 1 s:CN = Test Intermediate\n" in said.text
    assert " 2 s:" not in said.text
    assert "Verify return code: 0 (ok)" in said.text


# ---- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_are_resumed_by_every_worker(
    gateway: Gateway, tmp_path: Path, version: str
) -> None:
    file = tmp_path / "session"
    first = s_client(gateway, version, "-sess_out", file, path="worker")
    assert first.session == "New"
    assert first.worker in (gateway.worker(0), gateway.worker(1))

    def by_the_other() -> bool:
        said = s_client(gateway, version, "-sess_in", file, path="worker")
        assert said.session == "Reused", said.text
        return said.worker != first.worker

    eventually(by_the_other, "the other worker resumes")


def test_sessions_are_resumed_by_a_new_worker(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "session"
    first = s_client(gateway, "-sess_out", file, path="worker")
    known = {gateway.kill("fg-worker-0"), gateway.kill("fg-worker-1")}
    assert first.worker not in known
    eventually(lambda: gateway.api("/readyz").status == 200, "all workers serve")
    said = s_client(gateway, "-sess_in", file, path="worker")
    assert said.session == "Reused", said.text
    assert said.worker in known


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("made", "used"), [("open.example", "closed.example"), ("closed.example", "open.example")]
)
def test_a_session_counts_for_one_policy(
    gateway: Gateway, tls_material: Material, tmp_path: Path, made: str, used: str, version: str
) -> None:
    """Clients are asked for a certificate under one of these names, and not under the other."""
    file, client = tmp_path / "session", tls_material.client()
    mine = (version, "-cert", client.cert, "-key", client.key)
    assert s_client(gateway, *mine, "-sess_out", file, name=made).session == "New"
    assert s_client(gateway, *mine, "-sess_in", file, name=made).session == "Reused"
    said = s_client(gateway, *mine, "-sess_in", file, name=used)
    assert (said.code, said.session) == (0, "New"), said.text
    assert "HTTP/1.1 200 OK" in said.text


def test_a_session_counts_for_names_of_one_policy(gateway: Gateway, tmp_path: Path) -> None:
    """The same certificate, and nobody is asked for one. With TLS 1.3, s_client does not try."""
    file = tmp_path / "session"
    s_client(gateway, "-tls1_2", "-sess_out", file, name="open.example")
    said = s_client(gateway, "-tls1_2", "-sess_in", file, name="same.example")
    assert said.session == "Reused", said.text


# ---- client certificates -------------------------------------------------------------------------

OUTCOMES: dict[str, tuple[Callable[[Material], Identity | None], str]] = {
    "good": (lambda made: made.client(), ""),
    "rsa": (lambda made: made.client(kind="rsa"), ""),
    "none": (lambda made: None, "(certificate required|handshake failure)"),
    "expired": (
        lambda made: made.leaf("late.example", usage=(CLIENT,), validity=Validity(-30, -1)),
        "certificate expired",
    ),
    "not yet valid": (
        lambda made: made.leaf("early.example", usage=(CLIENT,), validity=Validity(1, 30)),
        "bad certificate",
    ),
    "unknown authority": (lambda made: made.client_of_stranger(), "unknown ca"),
    "revoked": (lambda made: made.revoked(CLIENT), "certificate revoked"),
    "for servers": (lambda made: made.leaf(), "unsupported certificate"),
    "self-signed": (lambda made: made.self_signed(), "unknown ca"),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("made", "alert"), OUTCOMES.values(), ids=list(OUTCOMES))
def test_client_certificates(
    gateway: Gateway,
    tls_material: Material,
    made: Callable[[Material], Identity | None],
    alert: str,
    version: str,
) -> None:
    identity = made(tls_material)
    mine = ("-cert", identity.cert, "-key", identity.key) if identity else ()
    said = s_client(gateway, version, *mine, listener="required")
    assert "Acceptable client certificate CA names\nCN = Test Root\n" in said.text
    if alert:
        assert re.search(f"alert {alert}", said.text), said.text
        assert "HTTP/1.1" not in said.text
    else:
        assert said.code == 0, said.text
        assert "HTTP/1.1 200 OK" in said.text


# ---- in a connection -----------------------------------------------------------------------------


def test_renegotiation_is_refused(gateway: Gateway) -> None:
    with commanded(gateway, "-tls1_2") as process:
        type_in(process, b"R\n")
        said = read_until(process, b":no renegotiation:")
    assert b"RENEGOTIATING" in said
    assert b":no renegotiation:" in said


@pytest.mark.parametrize("letter", [b"K", b"k"], ids=["both sides", "its own"])
def test_keys_are_updated(gateway: Gateway, letter: bytes) -> None:
    with commanded(gateway, "-tls1_3") as process:
        type_in(process, letter + b"\n")
        assert b"KEYUPDATE" in read_until(process, b"KEYUPDATE")
        type_in(process, REQUEST % (b"", HOST.encode()))
        said = read_until(process, b"closed")
    assert b"HTTP/1.1 200 OK" in said
    assert b"hello" in said
