"""Fixes: what helps after each refusal, as a diagnosis says it."""

from __future__ import annotations

import msgspec

from fastgate.refusal.remedies import REMEDIES


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """What helps where a check failed."""

    action: str
    """A remedy of `remedies.Action`, or: `use_key`, `new_key`, `ask`, `pay`."""
    text: str
    """One sentence, addressed to the caller."""
    page: str = ""
    """Below `/_fastgate/account/`, where it can be done; empty: not on a page."""


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
    """What helps after a refusal of this reason; None where its text says all there is."""
    if code in _FIXES:
        return _FIXES[code]
    for remedy in REMEDIES.get(code, ())[:1]:
        return Fix(action=remedy.action, text=f"{remedy.title}.", page=remedy.page)
    return None
