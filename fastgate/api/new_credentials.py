"""Credentials to be, from the members of a request: which ones belong to which kind."""

from __future__ import annotations

from typing import Any

from fastgate.api.context import Context
from fastgate.api.problems import invalid
from fastgate.config import references
from fastgate.errors import ConfigurationError
from fastgate.identity import kinds
from fastgate.identity.kinds import NewCredential
from fastgate.imports import import_late
from fastgate.model.faults import did_you_mean
from fastgate.model.party import SUBJECT_MOST

_MEMBERS = {
    "key": ("key", "environment"),
    "subject": ("issuer", "subject"),
    "certificate": ("pin", "certificate"),
    "basic": ("user", "secret"),
}
"""The members of each kind."""


async def new_credential(ctx: Context, body: Any) -> NewCredential:
    """The credential that a `CredentialNew` describes. Raises Problem."""
    for kind, members in _MEMBERS.items():
        for member in members:
            if kind != body.kind and getattr(body, member) is not None:
                raise invalid(member, f"It belongs to the kind {kind!r}, not to {body.kind!r}.")
    if body.kind == "subject":
        return _subject(ctx, body)
    if body.kind == "certificate":
        return await _certificate(body)
    if body.kind == "basic":
        if body.user is None:
            raise invalid("user", "It is missing.")
        return kinds.basic(body.user, _literal("secret", body.secret))
    if body.key is not None and body.environment is not None:
        raise invalid("environment", "It becomes part of generated keys, not of given ones.")
    return kinds.api_key(_literal("key", body.key), body.environment)


def _literal(member: str, text: str | None) -> str | None:
    """A key or secret; "${OLD_KEY}" is none. Raises Problem."""
    try:
        found: str | None = references.literal(text)
    except ConfigurationError as error:
        raise invalid(member, error.message, error.hint) from None
    return found


def _subject(ctx: Context, body: Any) -> NewCredential:
    for member in ("issuer", "subject"):
        if getattr(body, member) is None:
            raise invalid(member, "It is missing.")
    check_issuer(ctx, body.issuer)
    if len(body.subject.encode()) > SUBJECT_MOST:
        raise invalid("subject", f"A subject has at most {SUBJECT_MOST} bytes.")
    return kinds.subject(body.issuer, body.subject)


def check_issuer(ctx: Context, name: str) -> None:
    """Raise Problem unless the configuration has this issuer."""
    names = [issuer.name for issuer in ctx.control.gateway.issuers]
    if name not in names:
        hint = did_you_mean(name, names, "Issuers")
        raise invalid("issuer", f"There is no issuer {name!r}. {hint}")


async def _certificate(body: Any) -> NewCredential:
    if (body.pin is None) is (body.certificate is None):
        raise invalid("pin", "Give either `pin` or `certificate`.")
    if body.pin is not None:
        return kinds.certificate(body.pin)
    pins = await import_late("fastgate.certificates.pins")
    try:
        found: list[str] = pins.pins_of(body.certificate.encode(), "the text")
    except ValueError as error:
        raise invalid("certificate", f"{error}.") from None
    return kinds.certificate(found[0])
