"""What a server presents over TLS, seen from outside."""

from __future__ import annotations

import socket
import ssl
from typing import NamedTuple

from cryptography import x509

from fastgate.certificates import facts
from fastgate.certificates.contexts import unverified_chain

TIMEOUT_S = 10.0


class Presented(NamedTuple):
    """One handshake."""

    version: str
    """ "TLSv1.3"."""
    cipher: str
    subject: str
    issuer: str
    hosts: list[str]
    addresses: list[str]
    key_type: str
    not_before: int
    """Unix seconds."""
    not_after: int
    fingerprint: str
    chain: list[str]
    """Names of the certificates that were sent, the leaf first."""
    problem: str
    """Why a client would refuse it; empty: it would not."""


def look(host: str, port: int, name: str, ca: str | None = None) -> Presented:
    """Connect and report what is presented for `name`.

    ca: a file of trusted certificates, instead of the operating system's. Raises OSError if there
    is no handshake, ssl.SSLError if it fails.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _connect(host, port, context, name) as connection:
        chain = [x509.load_der_x509_certificate(der) for der in unverified_chain(connection)]
        cipher = connection.cipher()
        version = connection.version() or "?"
    leaf = chain[0]
    try:
        key_type = facts.kind_of_key(leaf.public_key())
    except ValueError as error:
        key_type = str(error)
    return Presented(
        version=version,
        cipher=cipher[0] if cipher is not None else "?",
        subject=facts.name_of(leaf),
        issuer=facts.issuer_of(leaf),
        hosts=facts.hosts_of(leaf),
        addresses=facts.addresses_of(leaf),
        key_type=key_type,
        not_before=facts.begins(leaf),
        not_after=facts.ends(leaf),
        fingerprint=facts.fingerprint(facts.der_of(leaf)),
        chain=[facts.name_of(each) for each in chain],
        problem=_problem(host, port, name, ca),
    )


def _problem(host: str, port: int, name: str, ca: str | None) -> str:
    """Why a client that verifies refuses the connection."""
    context = ssl.create_default_context(cafile=ca)
    try:
        _connect(host, port, context, name).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return (error.reason or str(error)).replace("_", " ").lower()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _connect(host: str, port: int, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise
