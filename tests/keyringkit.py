"""Keyrings of the certificates that `certkit` makes.

keyring_of(material.leaf())                      # one listener, "test", with one certificate
keyring_of(a, b, policies=[...], authorities=[authority_entry(material.root)])
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certkit import Authority, Identity
from cryptography import x509

from fastgate._core.tls import keyring as format
from fastgate._core.tls.keyring import (
    AuthorityEntry,
    CertificateEntry,
    Keyring,
    ListenerTls,
    TicketKey,
)

LISTENER = "test"
"""The key of the listener of an `enginekit.Plane`."""


def certificate_entry(identity: Identity, name: str = "") -> CertificateEntry:
    names = identity.certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    return CertificateEntry(
        name=name or identity.cert.stem,
        hosts=[host.lower() for host in names.get_values_for_type(x509.DNSName)],
        chain=[memoryview(der) for der in identity.chain_der],
        key=memoryview(identity.key_der),
    )


def authority_entry(
    authority: Authority, name: str = "root", crls: Sequence[Path] = ()
) -> AuthorityEntry:
    return AuthorityEntry(
        name=name,
        certificates=[memoryview(ssl.PEM_cert_to_DER_cert(authority.ca.read_text()))],
        crls=[memoryview(_crl_der(path)) for path in crls],
    )


def _crl_der(path: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_crl(path.read_bytes()).public_bytes(Encoding.DER)


def ticket_key() -> TicketKey:
    return TicketKey(name=os.urandom(16), made=0, secret=memoryview(os.urandom(32)))


def keyring_of(
    *identities: Identity, listener: dict[str, Any] | None = None, **more: Any
) -> Keyring:
    """A keyring with one listener that has all these certificates. `more`: its other members."""
    settings: dict[str, Any] = {
        "key": LISTENER,
        "certificates": list(range(len(identities))),
        **(listener or {}),
    }
    listeners = [ListenerTls(**settings)] if identities else []
    return opened(
        Keyring(
            serial=more.pop("serial", 1),
            certificates=[
                certificate_entry(each, f"{i}-{each.cert.stem}")
                for i, each in enumerate(identities)
            ],
            listeners=listeners,
            tickets=more.pop("tickets", [ticket_key()]),
            **more,
        )
    )


def opened(keyring: Keyring) -> Keyring:
    """The keyring as a worker gets it: written, sealed and mapped."""
    fd = format.write(keyring)
    try:
        return format.read(fd)
    finally:
        os.close(fd)
