"""What the document says about issuers and is in files or variables: public keys, secrets.

    load      all of them, strictly: each that cannot be used is an error with its place
    refresh   only what has changed; what cannot be used keeps its last content

A file of public keys is a JWKS, or keys or certificates in PEM form. A private key in it is an
error: whoever can read the file could issue tokens.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote_plus

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from fastgate.certificates.pem import CERTIFICATES, PemError, blocks
from fastgate.certificates.pem import KEYS as PRIVATE
from fastgate.certificates.sources import Content, Stamp, check_private, read, stamp_of
from fastgate.errors import ConfigurationError
from fastgate.issuers.jwks import (
    IssuerKey,
    KeysError,
    KeySet,
    algorithms_of,
    read_jwks,
    spki_of,
)
from fastgate.model.gateway import Gateway, Introspection, Issuer, Secret
from fastgate.model.issuer import SECRET_BYTES
from fastgate.model.secret import PemPlace

Files = tuple[tuple[str, Stamp | None], ...]
"""Paths, each with the state of the file when it was read."""

PUBLIC = "PUBLIC KEY"


class LoadedIssuer(NamedTuple):
    """What was read for an issuer."""

    keys: tuple[IssuerKey, ...] = ()
    """Of a file of public keys."""
    secret: bytes = b""
    authorization: str = ""
    """Of introspection: the value of Authorization."""
    files: Files = ()
    problem: PemError | None = None
    """Why the current content cannot be used; the rest is that of earlier content."""
    remarks: tuple[str, ...] = ()
    """Why keys of the file are not used."""

    def changed(self) -> bool:
        """Whether a file is another one, or was written, since it was read."""
        return any(stamp_of(path) != stamp for path, stamp in self.files)


NOTHING = LoadedIssuer()


def load(
    gateway: Gateway,
    before: Mapping[str, LoadedIssuer],
    environ: Mapping[str, str] = os.environ,
) -> dict[str, LoadedIssuer]:
    """Read everything; what has not changed is taken from `before`.

    Raises ConfigurationError for the first that cannot be used, with the rest in `others`."""
    found = refresh(gateway, before, environ)
    if errors := problems(gateway, found):
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    return found


def refresh(
    gateway: Gateway,
    before: Mapping[str, LoadedIssuer],
    environ: Mapping[str, str] = os.environ,
) -> dict[str, LoadedIssuer]:
    """Read what has changed, by name of the issuer."""
    return {
        issuer.name: _refreshed(issuer, before.get(issuer.name, NOTHING), environ)
        for issuer in gateway.issuers
    }


def problems(gateway: Gateway, loaded: Mapping[str, LoadedIssuer]) -> list[ConfigurationError]:
    """What cannot be used, in the order of the document."""
    found = []
    for i, issuer in enumerate(gateway.issuers):
        problem = loaded[issuer.name].problem
        if problem is not None:
            place = f"issuers[{i}].{problem.field}"
            found.append(ConfigurationError(str(problem), place, hint=problem.hint or None))
    return found


def remarks(gateway: Gateway, loaded: Mapping[str, LoadedIssuer]) -> list[ConfigurationError]:
    """Keys in files that are not used, as warnings."""
    return [
        ConfigurationError(remark, f"issuers[{i}].keys")
        for i, issuer in enumerate(gateway.issuers)
        for remark in loaded[issuer.name].remarks
    ]


# ---- one of them ------------------------------------------------------------------------


def _refreshed(issuer: Issuer, old: LoadedIssuer, environ: Mapping[str, str]) -> LoadedIssuer:
    places = [place.place for place in _places(issuer) if place.kind == "path"]
    if places and [path for path, _ in old.files] == places and not old.changed():
        return old
    now = tuple((path, stamp_of(path)) for path in places)
    try:
        return _read(issuer, environ)
    except PemError as problem:
        return old._replace(files=now, problem=problem.bare())


def _places(issuer: Issuer) -> list[Secret]:
    """Everything that is read for it, in the order of reading."""
    asked = issuer.introspection
    places = [issuer.keys, issuer.secret]
    if asked is not None:
        places += [asked.client_secret, asked.token]
    return [place for place in places if place is not None]


def _read(issuer: Issuer, environ: Mapping[str, str]) -> LoadedIssuer:
    """Raises PemError, whose field is the place below the issuer."""
    contents: list[Content] = []

    def content(place: Secret, field: str) -> Content:
        try:
            contents.append(read(PemPlace(place.kind, place.place), environ))
        except PemError as problem:
            problem.field = field
            raise
        return contents[-1]

    keys, secret, authorization = KeySet(()), b"", ""
    if issuer.keys is not None:
        keys = _keys(content(issuer.keys, "keys"))
    if issuer.secret is not None:
        secret = _secret(issuer, content(issuer.secret, "secret"))
    if (asked := issuer.introspection) is not None:
        place, field = (
            (asked.token, "token") if asked.token else (asked.client_secret, "client_secret")
        )
        assert place is not None
        authorization = _authorization(asked, content(place, f"introspection.{field}"), field)
    files = tuple((each.path, each.stamp) for each in contents if each.path)
    return LoadedIssuer(keys.keys, secret, authorization, files, None, keys.left_out)


def _keys(content: Content) -> KeySet:
    try:
        if content.data.lstrip()[:1] == b"{":
            found = read_jwks(content.data)
        else:
            found = KeySet(tuple(_from_pem(content)))
    except KeysError as error:
        raise PemError(f"{content.where}: {error}", "", "keys") from None
    except PemError as error:
        error.field = "keys"
        raise
    if found.refused:
        raise PemError(
            f"{content.where}: {found.refused[0]}", "Write the public keys alone.", "keys"
        )
    return found


def _from_pem(content: Content) -> Sequence[IssuerKey]:
    found = []
    for number, block in enumerate(blocks(content.data, content.where), 1):
        where = f"{content.where}: block {number} ({block.label})"
        if block.label in PRIVATE or block.encrypted:
            raise PemError(
                f"{where} is a private key",
                "Write the public key alone: `openssl pkey -in FILE -pubout`.",
            )
        try:
            if block.label in CERTIFICATES:
                public = x509.load_der_x509_certificate(block.der).public_key()
            elif block.label == PUBLIC:
                public = serialization.load_der_public_key(block.der)  # type: ignore[assignment]
            else:
                raise PemError(
                    f"{where} is no public key", "Write blocks PUBLIC KEY or CERTIFICATE."
                )
            kind, algorithms = algorithms_of(public)
        except PemError:
            raise
        except (ValueError, UnsupportedAlgorithm) as error:
            raise PemError(f"{where} {error}") from None
        found.append(IssuerKey(kid="", kind=kind, algorithms=algorithms, spki=spki_of(public)))
    return found


def _secret(issuer: Issuer, content: Content) -> bytes:
    try:
        check_private(content)
    except PemError as error:
        error.field = "secret"
        raise
    secret = content.data.strip()
    least = max(SECRET_BYTES[each] for each in issuer.accepted)
    if len(secret) < least:
        raise PemError(
            f"{content.where} has {len(secret)} bytes; {', '.join(issuer.accepted)} needs at least "
            f"{least}",
            "Anyone who guesses it can issue tokens. Make a random one: `openssl rand -base64 64`.",
            "secret",
        )
    return secret


def _authorization(asked: Introspection, content: Content, field: str) -> str:
    """The value of Authorization. Raises PemError."""
    try:
        secret = content.data.strip().decode("ascii" if field == "token" else "utf-8")
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        raise PemError(
            f"{content.where} is empty, or no text",
            "Write it in one line.",
            f"introspection.{field}",
        )
    if asked.client_id is None:
        return f"Bearer {secret}"
    pair = f"{quote_plus(asked.client_id)}:{quote_plus(secret)}"  # RFC 6749, 2.3.1
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
