"""Certificates that are made here: what openssl and Python's ssl make of them."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
from pkikit import openssl

from fastgate.certificates.pairs import read_pair
from fastgate.certificates.self_signed import self_signed
from fastgate.certificates.sources import Content


def test_a_pair_for_names_and_addresses() -> None:
    made = self_signed(["localhost", "*.test.example", "127.0.0.1", "[::1]"], days=30)
    pair = read_pair(Content("c", made.certificate), Content("k", made.key))
    assert pair.hosts == ("localhost", "*.test.example")
    assert pair.addresses == ("127.0.0.1", "::1")
    assert (pair.key_type, pair.issuer, pair.remarks) == ("ECDSA P-256", "localhost", ())
    assert pair.not_after == made.not_after
    assert 30 * 86_400 <= pair.not_after - pair.not_before < 31 * 86_400
    assert self_signed(["a"]).key != self_signed(["a"]).key


def test_openssl_accepts_it_strictly(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("install the Debian package 'openssl' to run this")
    file = tmp_path / "c.pem"
    file.write_bytes(self_signed(["localhost"]).certificate)
    said = openssl("verify", "-x509_strict", "-CAfile", file, "-verify_hostname", "localhost", file)
    assert said.endswith(b": OK\n")


def test_it_is_an_authority_for_itself_alone(tmp_path: Path) -> None:
    made = self_signed(["localhost"])
    file, key = tmp_path / "c.pem", tmp_path / "c.key"
    file.write_bytes(made.certificate)
    key.write_bytes(made.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key)
    here, there = socket.socketpair()

    def serve() -> None:
        with here, server.wrap_socket(here, server_side=True) as wrapped:
            wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.create_default_context(cafile=str(file))
    with there, client.wrap_socket(there, server_hostname="localhost") as wrapped:
        wrapped.send(b"x")
    thread.join()
