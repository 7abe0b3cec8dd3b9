"""Fixes: what the caller can do after each refusal."""

from __future__ import annotations

import msgspec

from fastgate.refusal.remedies import REMEDIES


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """The fix for a failed check."""

    action: str
    """A remedy of `remedies.Action`, or: `use_key`, `new_key`, `ask`, `pay`."""
    text: str
    """One sentence, addressed to the caller."""
    page: str = ""
    """The page below `/_fastgate/account/` for the fix; empty: none."""


ASK = Fix(action="ask", text="Ask the API's operator.")
_FIXES: dict[str, Fix] = {
    "credential_missing": Fix(
        action="use_key", text="Send your key in one of the ways that WWW-Authenticate names."
    ),
    "credential_unknown": Fix(
        action="use_key",
        text="Check that the key is complete and belongs to this gateway, or ask for a new one.",
    ),
    "token_invalid": Fix(action="new_key", text="Get a new token."),
    "insufficient_scope": Fix(
        action="new_key", text="Get a token with the scopes that WWW-Authenticate names."
    ),
    "subject_unknown": ASK,
    "credential_expired": Fix(action="new_key", text="Ask for a new key."),
    "credential_revoked": Fix(
        action="new_key", text="Use the key that replaced it, or ask for a new one."
    ),
    "consumer_suspended": ASK,
    "forbidden": ASK,
    "subscription_paused": Fix(action="ask", text="Ask the API's operator to resume it."),
    "payment_required": Fix(
        action="pay", text="Pay in one of the ways that the PAYMENT-REQUIRED field offers."
    ),
    "payment_invalid": Fix(
        action="pay", text="Make a new payment from the offer in this answer. You were not charged."
    ),
    "settlement_unknown": Fix(
        action="wait", text="Do not pay again; send the same request with the same payment."
    ),
}


def fix_of(code: str) -> Fix | None:
    """The fix for a refusal with this reason; None if the reason's text is enough."""
    if code in _FIXES:
        return _FIXES[code]
    for remedy in REMEDIES.get(code, ())[:1]:
        return Fix(action=remedy.action, text=f"{remedy.title}.", page=remedy.page)
    return None
