"""Contexts of Python's ssl for what control itself does over TLS: health checks, its own API.

Python's ssl loads keys from files alone, so they go through a memfd that is closed at once.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cryptography import x509

from fastgate.certificates.authorities import Trusted
from fastgate.certificates.facts import public_key_of
from fastgate.certificates.pairs import Pair
from fastgate.certificates.pem import pem
from fastgate.model.gateway import UpstreamTls
from fastgate.model.tls import pin_digest

_DER = 2  # _ssl.ENCODING_DER
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(
    profile: UpstreamTls, trusted: Trusted | None, pair: Pair | None
) -> ssl.SSLContext:
    """For connections to an upstream. `trusted`: its authority's certificates, unless it is not
    verified; `pair`: what we present. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[profile.min]
    if trusted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        with _file(
            *(pem("CERTIFICATE", der) for der in trusted.certificates),
            *(pem("X509 CRL", der) for der in trusted.crls),
        ) as path:
            context.load_verify_locations(path)
        if trusted.crls:
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    if pair is not None:
        load_pair(context, pair)
    return context


def server_context(pair: Pair) -> ssl.SSLContext:
    """For a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, pair)
    return context


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """Make a context present this certificate, from its next handshake on."""
    with _file(
        *(pem("CERTIFICATE", der) for der in pair.chain), pem("PRIVATE KEY", pair.key)
    ) as path:
        context.load_cert_chain(path)


def pinned(profile: UpstreamTls, chain: Iterable[bytes]) -> bool:
    """Whether a chain (DER) has a public key that the profile pins, if it pins any."""
    wanted = {pin_digest(pin) for pin in profile.pins}
    if not wanted:
        return True
    keys = (public_key_of(x509.load_der_x509_certificate(der)) for der in chain)
    return any(hashlib.sha256(key).digest() in wanted for key in keys)


def verified_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The chain of the peer as it was verified, in DER; the leaf first."""
    return _chain(connection, "get_verified_chain")


def unverified_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The chain as the peer sent it, in DER; the leaf first."""
    return _chain(connection, "get_unverified_chain")


def _chain(connection: ssl.SSLObject | ssl.SSLSocket, method: str) -> list[bytes]:
    public: Callable[[], list[bytes]] | None = getattr(connection, method, None)
    if public is not None:  # since Python 3.13
        return list(public())
    inner: Any = connection._sslobj  # type: ignore[union-attr]
    return [each.public_bytes(_DER) for each in getattr(inner, method)() or ()]


@contextmanager
def _file(*blocks: bytes) -> Iterator[str]:
    """The path of a file in memory, which exists as long as the block."""
    fd = os.memfd_create("fastgate-pem", os.MFD_CLOEXEC)
    try:
        view = memoryview(b"".join(blocks))
        while view:
            view = view[os.write(fd, view) :]
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
