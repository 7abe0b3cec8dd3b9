"""Credentials to be, by kind: their digest, and what identifies them to people."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import NamedTuple

import msgspec

from fastgate.model import digests
from fastgate.model.keys import BASE62, key_digest, new_key, shown_prefix
from fastgate.model.tls import pin_digest

BASIC_LENGTH = 32
"""Characters of a generated secret of HTTP Basic: 190 random bits, as in keys."""
LEEWAY_S = 600
"""Seconds for which a token is remembered beyond its expiry: the most that an issuer's `leeway` can
be."""
LAST_S = 0xFFFFFFFF
"""The last second that the index knows: in 2106."""


class NewCredential(NamedTuple):
    """A credential that does not exist yet."""

    kind: str
    digest: bytes
    about: dict[str, str]
    shown: str = ""
    """What its owner needs to have, and is shown once; empty: nothing."""
    prefix: str = ""
    """The beginning of that, which may be shown later."""


def api_key(key: str | None = None, environment: str | None = None) -> NewCredential:
    """A key: this one, or a new one. Raises ValueError for a bad environment."""
    made = key if key is not None else new_key(environment)
    return NewCredential("key", key_digest(made), {}, made, shown_prefix(made))


def subject(issuer: str, subject: str) -> NewCredential:
    """A subject of an issuer, by its name."""
    about = {"issuer": issuer, "subject": subject}
    return NewCredential("subject", digests.subject(issuer, subject), about)


def certificate(pin: str) -> NewCredential:
    """A client certificate, by its public key: "sha256/…"."""
    return NewCredential("certificate", digests.certificate(pin_digest(pin)), {"pin": pin})


def basic(user: str, secret: str | None = None) -> NewCredential:
    """A user of HTTP Basic with this secret, or a new one."""
    made = secret or "".join(secrets.choice(BASE62) for _ in range(BASIC_LENGTH))
    digest = digests.basic(user, hashlib.sha256(made.encode()).digest())
    return NewCredential("basic", digest, {"user": user}, made, shown_prefix(made))


# ---- consumers of subjects --------------------------------------------------------------


def consumer_of(digest: bytes) -> str:
    """The id of the consumer that is made for a subject with this digest."""
    return f"con_s{digest.hex()[:40]}"


def names_of(subject: str, digest: bytes) -> tuple[str, str]:
    """The names that such a consumer can have: the subject, as far as a name can be one; if another
    consumer has it, with a part of the digest."""
    plain = re.sub(r"[^A-Za-z0-9._@+ -]", "-", subject).strip()
    if not re.match(r"[A-Za-z0-9]", plain):
        plain = f"subject {plain}"
    plain = plain[:80].strip()
    return plain, f"{plain} {digest.hex()[:12]}"


# ---- tokens -----------------------------------------------------------------------------


class NewRevocation(NamedTuple):
    """A token that is to be revoked."""

    digest: bytes
    whole: bytes | None
    about: dict[str, str]
    expires_at: int | None
    """Unix seconds, as the token says; None: it does not say."""


def token(text: str) -> NewRevocation:
    """A token, of whatever form. What a JWT says about itself is not verified."""
    claims = _claims(text)
    if claims is None:
        return NewRevocation(digests.token(text), None, {}, None)
    about = {
        name: str(claims[name])[:200]
        for name in ("iss", "sub", "jti")
        if isinstance(claims.get(name), str | int)
    }
    said = claims.get("exp")
    expires = None
    if isinstance(said, int | float) and 0 <= said <= LAST_S:
        expires = int(said)
    return NewRevocation(
        digests.token(digests.signed_part(text)),
        digests.token(text),
        about,
        expires,
    )


def token_id(issuer: str, jti: str) -> NewRevocation:
    """A token by its `jti`. `issuer`: its name in the configuration."""
    return NewRevocation(
        digests.token_id(issuer, jti), None, {"issuer": issuer, "jti": jti[:200]}, None
    )


def _claims(text: str) -> dict[str, object] | None:
    """What a JWT says; None: it is none."""
    parts = text.split(".")
    if len(parts) != 3 or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part, re.A) for part in parts):
        return None
    try:
        header, claims = (
            msgspec.json.decode(_decoded(part), type=dict[str, object]) for part in parts[:2]
        )
    except (msgspec.DecodeError, ValueError):
        return None
    return claims if "alg" in header else None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
