"""The keyring: what TLS needs and is secret, or may change without a new generation.

Control writes it into a sealed memfd, which the supervisor keeps for workers to come. Workers map
it and build contexts from it when they are first used (contexts.pyx). The snapshot holds no secret,
only the ids by which it refers to entries of the keyring (`authority_id`, `upstream_id`), and the
key of a listener.

The format is one msgpack message. Binary members are read as views into the mapping, not copied.
A memfd that is not sealed, or not a keyring, is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from typing import Literal

import msgspec

from fastgate.errors import KeyringError

MOST_BYTES = 256 << 20

TLS_1_2 = 0x0303
TLS_1_3 = 0x0304

TICKET_KEYS = 3
"""The newest encrypts; all decrypt."""

SYSTEM = "system"
"""The name of the authority that consists of the system's root certificates."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs of a keyring. Views stay valid as long as the keyring."""


class CertificateEntry(Entry):
    """A certificate that we present, with its private key."""

    name: str  # in the configuration
    hosts: list[str]  # that it is valid for, lower case; "*.example.com" for one label
    chain: list[memoryview]  # DER, the leaf first; without the root
    key: memoryview  # DER, PKCS #8


class AuthorityEntry(Entry):
    """Certificates that we trust to issue others."""

    name: str
    certificates: list[memoryview]  # DER
    crls: list[memoryview] = []  # DER; if there are any, each certificate of a chain is looked up


class NamePolicy(Entry):
    """Which client certificates are asked for under a name."""

    host: str  # as in routes: "*.example.com" is for one or more labels in front; "": any name
    authorities: list[int]  # indexes of `Keyring.authorities`
    required: bool = False  # no certificate, or no valid one: the handshake fails


class ListenerTls(Entry):
    """TLS at a listener. Without an entry, a listener speaks clear HTTP."""

    key: str  # messages.Listener.key
    # Indexes of `Keyring.certificates`; the first one is presented without a matching name. Empty
    # while none has been issued: every handshake fails.
    certificates: list[int]
    min_version: int = TLS_1_2
    policies: list[NamePolicy] = []  # the most specific host is used
    strict_names: bool = False  # a name without a certificate is refused with `unrecognized_name`


class UpstreamTls(Entry):
    """TLS to the targets of an upstream."""

    id: int  # unsigned, 64 bits, not 0; see `upstream_id`
    name: str = ""  # SNI, and the name to verify; "": the target's own host
    verify: bool = True
    authority: int = -1  # index of `Keyring.authorities`; with `verify`, required
    certificate: int = -1  # index of `Keyring.certificates`: what we present; -1: none
    pins: list[bytes] = []  # SHA-256 of acceptable SPKIs: one must be in the chain
    min_version: int = TLS_1_2


class TicketKey(Entry):
    """Encrypts session tickets. `secret` is the input of a derivation for each policy."""

    name: bytes  # 16 bytes, random
    made: int  # Unix seconds
    secret: memoryview  # 32 bytes, random


class Challenge(Entry):
    """A certificate for acme-tls/1 (RFC 8737)."""

    host: str
    certificate: memoryview  # DER
    key: memoryview  # DER, PKCS #8


class TokenKey(Entry):
    """A key that verifies tokens."""

    algorithms: list[str]  # that it may verify: "RS256", "ES384", "EdDSA", "HS256", ...
    key: memoryview  # DER, SubjectPublicKeyInfo; with HS algorithms: the secret
    kid: str = ""  # as in JWKs; "": it has none


class TokenHeader(Entry):
    """A header field that upstreams get from a claim."""

    name: str  # as it is sent
    claim: list[str]  # path of the claim: its name, then names within it


class IssuerEntry(Entry):
    """Who issues tokens: what tokens must have, what is read from them, and the keys.

    A claim is a path of names; an empty one reads nothing."""

    id: int  # unsigned, 64 bits, not 0: `issuer_id` of everything here but the keys
    name: str  # in the configuration
    issuer: str  # `iss`
    row: int = 0  # of the workers' counters: 1 to 15, the same over reloads
    audiences: list[str] = []  # one of them must be in `aud`; empty: any
    types: list[str] = []  # values of the header's `typ`, lower case; empty: any
    leeway_s: int = 30
    lifetime_s: int = 0  # the most between `iat` and `exp`; 0: any
    subject: list[str] = []  # names the caller: mostly ["sub"]
    plan: list[str] = []
    default_plan: str = ""  # of callers for whom neither `plan` nor their consumer names one
    scopes: list[list[str]] = []  # the first that is there: a string, or a list of strings
    headers: list[TokenHeader] = []
    unknown: Literal["refuse", "anonymous", "create"] = (
        "refuse"  # of subjects that are no consumer's
    )
    keys: list[TokenKey] = []
    fetches: bool = False  # a token with another key id may be a reason to fetch the keys again
    authorization: str = ""  # of introspection: the whole value of Authorization
    introspection: str = ""  # its path and query
    cache_s: int = 60  # for how long its answers are believed at most


class Keyring(Entry):
    """All of it. `serial` grows with each version that control writes."""

    serial: int
    magic: Literal["fastgate keyring 1"] = "fastgate keyring 1"
    certificates: list[CertificateEntry] = []
    authorities: list[AuthorityEntry] = []
    listeners: list[ListenerTls] = []
    upstreams: list[UpstreamTls] = []
    tickets: list[TicketKey] = []  # the newest first, at most TICKET_KEYS
    challenges: list[Challenge] = []
    issuers: list[IssuerEntry] = []


def authority_id(name: str) -> int:
    """The id of an authority in snapshots and connections: 64 bits, not 0."""
    return _id("authority", name)


def upstream_id(*parts: object) -> int:
    """The id of an upstream's TLS: a digest of everything that a connection depends on, so that
    another configuration uses other connections."""
    return _id("upstream", *parts)


def issuer_id(*parts: object) -> int:
    """The id of an issuer in snapshots: a digest of everything that a verdict on a token depends
    on, but for the keys."""
    return _id("issuer", *parts)


def listener_id(key: str) -> int:
    """The id of a listener in snapshots: 64 bits, not 0."""
    return _id("listener", key)


def _id(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def write(keyring: Keyring) -> int:
    """A sealed memfd with this keyring; the caller owns the descriptor. Raises OSError."""
    content = msgspec.msgpack.encode(keyring)
    fd = os.memfd_create("fastgate-keyring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Keyring:
    """Map a keyring; its views keep the mapping, and the caller keeps the descriptor.

    Raises KeyringError."""
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        size = os.fstat(fd).st_size
    except OSError as error:
        raise KeyringError(f"the keyring cannot be read: {error.strerror}") from error
    if sealed & _SEALS != _SEALS:
        raise KeyringError("the keyring is not sealed, so that another process could change it")
    if not 0 < size <= MOST_BYTES:
        raise KeyringError(f"the keyring has {size} bytes; 1 to {MOST_BYTES} are possible")
    mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
    mapped.madvise(mmap.MADV_DONTDUMP)
    try:
        return msgspec.msgpack.decode(memoryview(mapped), type=Keyring)
    except msgspec.DecodeError as error:
        raise KeyringError(f"the keyring cannot be read: {error}") from error
