"""Certificates from the command line: listed, tested, made."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from certkit import Identity, Material, Validity
from conftest import Cli, Gateway
from waitkit import free_port

from fastgate.cli.certificates import LOCALHOST
from fastgate.model.codec import decode

CONFIG = """\
version: 1
listeners: [{{bind: "127.0.0.1:8443", tls: true}}]
certificates:
  - {{name: api, cert: "path:{cert}", key: "path:{key}"}}
"""


def write(identity: Identity) -> None:
    Path("fastgate.yaml").write_text(CONFIG.format(cert=identity.cert, key=identity.key))


# ---- list -------------------------------------------------------------------------------


def test_list(cli: Cli, gateway: Gateway) -> None:
    ran = cli("certificates", "list")
    assert ran.code == 0
    first, second = ran.out.splitlines()[2:4]
    for text in ("api", "api.example.com", "ECDSA P-256", "Test Root", "2027-01-15", "valid"):
        assert text in first
    assert "listener public" in first
    for text in ("shop", "shop.example.com", "acme: letsencrypt", "pending"):
        assert text in second
    assert [each["name"] for each in cli.done("certificates", "list")] == ["api", "shop"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "expired"}, ""),
        ({"problem": "the key does not fit"}, "api: the key does not fit"),
    ],
)
def test_what_needs_attention_exits_1(
    changes: dict[str, str], says: str, cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _ = gateway.world.control.certificates()
    bad = msgspec.structs.replace(good, **changes)
    monkeypatch.setattr(gateway.world.control, "certificates", lambda: [bad])
    ran = cli("certificates", "list")
    assert ran.code == 1
    assert says in ran.err


def test_what_was_not_issued(cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ordered = gateway.world.control.certificates()
    failed = msgspec.structs.replace(
        ordered, problem="letsencrypt refused it.", next_attempt=1_800_000_000, ordering=True
    )
    monkeypatch.setattr(gateway.world.control, "certificates", lambda: [failed])
    ran = cli("certificates", "list")
    assert ran.code == 1
    assert "shop: letsencrypt refused it. The next attempt is at 2027-01-15 08:00:00Z." in ran.err
    assert "pending, being ordered" in ran.out


# ---- renew ------------------------------------------------------------------------------


def test_renew(cli: Cli, gateway: Gateway) -> None:
    ran = cli("certificates", "renew", "shop")
    assert (ran.code, "shop: being ordered" in ran.out) == (0, True)
    assert gateway.world.control.renewed == [("shop", False)]
    assert cli.done("certificates", "renew", "shop", "--wait")["name"] == "shop"
    assert gateway.world.control.renewed[1:] == [("shop", True)]
    ran = cli("certificates", "renew", "other")
    assert (ran.code, "There is no certificate 'other'" in ran.err) == (1, True)
    ran = cli("certificates", "renew", "api")
    assert (ran.code, "Replace the file" in ran.err) == (1, True)
    ran = cli("certificates", "renew", "broken", "--wait")
    assert (ran.code, "letsencrypt refused the order." in ran.err) == (1, True)


def test_renew_waits_for_an_attempt_that_takes_long(
    cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgate.cli.certificates.POLL_S", 0)
    _, pending = gateway.world.control.certificates()
    change = msgspec.structs.replace
    running = change(pending, ordering=True)
    issued = change(pending, state="valid", issuer="R10", not_after=1_800_000_000)
    failed = change(pending, problem="no.", next_attempt=1_800_000_000)
    for end, code, text in ((issued, 0, "issued by R10, expires 2027-01-15"), (failed, 1, "no.")):
        seen = iter([running, running, running, running, end, end, end])
        monkeypatch.setattr(gateway.world.control, "certificates", lambda seen=seen: [next(seen)])
        ran = cli("certificates", "renew", "shop", "--wait")
        assert (ran.code, text in ran.out + ran.err) == (code, True)


# ---- test -------------------------------------------------------------------------------


def test_files_that_can_be_used(cli: Cli, tls_material: Material) -> None:
    write(tls_material.leaf(issuer=tls_material.intermediate))
    ran = cli("certificates", "test")
    assert ran.code == 0
    assert ran.err == ""
    assert "Test Intermediate" in ran.out
    assert "All of them can be used." in ran.out
    data = cli.done("certificates", "test", "fastgate.yaml")
    assert data["valid"] is True
    assert data["certificates"][0]["key_type"] == "ECDSA P-256"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("expired", "expired on"),
        ("not_yet_valid", "is not valid before"),
        ("unfitting_key", "does not belong to the certificate"),
    ],
)
def test_files_that_cannot_be_used(kind: str, says: str, cli: Cli, tls_material: Material) -> None:
    """`check` says the same, with the same place."""
    write(getattr(tls_material, kind)())
    for command in (["certificates", "test"], ["check"]):
        ran = cli(*command)
        assert ran.code == 4
        assert "fastgate.yaml:4: certificates[0]" in ran.err
        assert says in ran.err
    ran = cli("certificates", "test", "--json")
    assert (ran.code, ran.data["valid"]) == (4, False)
    (error,) = ran.data["errors"]
    assert error["line"] == 4


def test_certificates_that_are_elsewhere_are_not_read_by_check(
    cli: Cli, tls_material: Material
) -> None:
    write(tls_material.expired())
    assert cli("check", "--no-files").code == 0


def test_doubts_are_warnings(cli: Cli, tls_material: Material) -> None:
    write(tls_material.client())
    ran = cli("check")
    assert ran.code == 0
    assert "'api' was not issued for servers" in ran.err
    assert cli("check", "--strict").code == 1
    assert "was not issued for servers" in cli("certificates", "test").err


def test_a_configuration_without_certificates(cli: Cli) -> None:
    Path("fastgate.yaml").write_text("version: 1\n")
    ran = cli("certificates", "test")
    assert (ran.code, ran.out) == (0, "The configuration has no certificates.\n")


# ---- what a listener presents -----------------------------------------------------------


@contextmanager
def presenting(identity: Identity) -> Iterator[int]:
    """A server with this certificate; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert, identity.key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                with sock:
                    sock.settimeout(30)
                    try:
                        with context.wrap_socket(sock, server_side=True) as wrapped:
                            wrapped.recv(1)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_listener_that_clients_accept(cli: Cli, tls_material: Material) -> None:
    with presenting(tls_material.leaf(issuer=tls_material.intermediate)) as port:
        there, ca = f"127.0.0.1:{port}", str(tls_material.root.ca)
        ran = cli("certificates", "test", "--connect", there, "--name", "localhost", "--ca", ca)
        assert ran.code == 0
        for text in ("TLSv1.3", "test.example", "ECDSA P-256", "localhost <- Test Intermediate"):
            assert text in ran.out
        assert "A client that asks for localhost accepts it." in ran.out
        data = cli.done("certificates", "test", "--connect", there, "--ca", ca)
        assert (data["accepted"], data["problem"]) == (True, "")


def test_a_listener_that_clients_refuse(cli: Cli, tls_material: Material) -> None:
    ca = str(tls_material.root.ca)
    with presenting(tls_material.leaf()) as port:
        there = f"127.0.0.1:{port}"
        ran = cli("certificates", "test", "--connect", there)
        assert ran.code == 1
        assert "refuses it: " in ran.out
        ran = cli("certificates", "test", "--connect", there, "--ca", ca, "--name", "b.example")
        assert ran.code == 1
        assert "A client that asks for b.example refuses it: Hostname mismatch" in ran.out
    with presenting(tls_material.leaf(validity=Validity(-3, -1))) as port:
        there = f"127.0.0.1:{port}"
        ran = cli("certificates", "test", "--connect", there, "--ca", ca, "--json")
        assert (ran.code, ran.data["accepted"]) == (1, False)
        assert ran.data["problem"] == "certificate has expired"


def test_no_listener_or_no_tls(cli: Cli) -> None:
    ran = cli("certificates", "test", "--connect", f"127.0.0.1:{free_port()}")
    assert ran.code == 3
    assert "no TLS there: connection refused" in ran.err
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            sock, _ = server.accept()
            with sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        ran = cli("certificates", "test", "--connect", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert ran.code == 3
    assert "no TLS there: " in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--connect", "a:b:c"], "'a:b:c' is not HOST:PORT"),
        (["--name", "a.example"], "--name and --ca belong to --connect"),
    ],
)
def test_wrong_use(arguments: list[str], says: str, cli: Cli) -> None:
    ran = cli("certificates", "test", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_a_file_of_trusted_certificates_that_is_not_there(cli: Cli, tls_material: Material) -> None:
    with presenting(tls_material.leaf()) as port:
        ran = cli("certificates", "test", "--connect", f"127.0.0.1:{port}", "--ca", "none.pem")
    assert ran.code == 2
    assert "--ca: there is no file 'none.pem'" in ran.err


# ---- self-signed ------------------------------------------------------------------------


def test_a_certificate_for_tests(cli: Cli, tmp_path: Path) -> None:
    previous = os.umask(0)  # the worst one
    try:
        ran = cli("certificates", "self-signed", "localhost")
    finally:
        os.umask(previous)
    assert ran.code == 0
    cert, key = tmp_path / "localhost.pem", tmp_path / "localhost.key"
    assert (stat.S_IMODE(cert.stat().st_mode), stat.S_IMODE(key.stat().st_mode)) == (0o644, 0o600)
    # What it says to add is a configuration that can be used.
    said = ran.out[ran.out.index("listeners:") : ran.out.index("Try it:")]
    (tmp_path / "fastgate.yaml").write_text(f"version: 1\n{said}")
    assert cli("check", "--strict").code == 0
    (row,) = cli.done("certificates", "test")["certificates"]
    assert row["hosts"] == ["localhost"]
    assert f"curl --cacert {cert} https://localhost:8443/" in ran.out


def test_self_signed_certificates_are_accepted_by_who_trusts_them(
    cli: Cli, tmp_path: Path, tls_material: Material
) -> None:
    made = cli.done("certificates", "self-signed", "localhost", "--days", "9")
    assert made["hosts"] == list(LOCALHOST)
    own = tls_material.leaf()
    identity = Identity(Path(made["cert"]), Path(made["key"]), own.certificate, own.private_key, ())
    with presenting(identity) as port:
        for name in LOCALHOST:
            ran = cli(
                "certificates", "test", "--connect", f"127.0.0.1:{port}", "--name", name,
                "--ca", made["cert"],
            )  # fmt: skip
            assert ran.code == 0, ran.out


@pytest.mark.parametrize(
    ("hosts", "names", "stem"),
    [
        (["api.test", "*.api.test"], ["api.test", "*.api.test"], "api.test"),
        (["*.api.test"], ["*.api.test"], "api.test"),
        (["[::1]"], ["::1"], "1"),
        (["10.0.0.1", "API.test", "api.test"], ["10.0.0.1", "api.test"], "10.0.0.1"),
    ],
)
def test_hosts_of_a_certificate_for_tests(
    hosts: list[str], names: list[str], stem: str, cli: Cli, tmp_path: Path
) -> None:
    made = cli.done("certificates", "self-signed", *hosts, "--out", "new/folder")
    assert made["hosts"] == names
    assert Path(made["cert"]) == tmp_path / "new" / "folder" / f"{stem}.pem"
    document = {
        "version": 1,
        "certificates": [{"name": stem, "cert": f"path:{made['cert']}"}],
    }
    assert decode(document).certificates[0].name == stem


def test_files_are_replaced_only_when_that_is_said(cli: Cli) -> None:
    made = cli.done("certificates", "self-signed", "a.test")
    before = Path(made["key"]).read_bytes()
    ran = cli("certificates", "self-signed", "a.test")
    assert ran.code == 1
    assert "a.test.pem exists. Name another directory, or use --force." in ran.err
    assert Path(made["key"]).read_bytes() == before
    assert cli("certificates", "self-signed", "a.test", "--force").code == 0
    assert Path(made["key"]).read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["a b"], 2, "'a b' is not a host"),
        (["*"], 2, "'*' is not a host"),
        (["a.test", "--days", "0"], 2, "0 is not in the range"),
        ([], 2, "Missing argument"),
        (["a.test", "--out", "/dev/null/x"], 1, "/dev/null/x"),
    ],
)
def test_certificates_that_cannot_be_made(
    arguments: list[str], code: int, says: str, cli: Cli
) -> None:
    ran = cli("certificates", "self-signed", *arguments)
    assert ran.code == code
    assert says in ran.err


def test_errors_are_json_if_that_is_asked_for(cli: Cli) -> None:
    cli("certificates", "self-signed", "a.test")
    ran = cli("certificates", "self-signed", "a.test", "--json")
    assert json.loads(ran.err)["error"]["message"].startswith("a.test.pem exists")
