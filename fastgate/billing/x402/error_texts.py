"""The codes with which facilitators of x402 refuse a payment: their meaning and their fix.

The codes are those of the official schemas for `exact` on EVM networks; an unknown code is shown
unchanged.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorText(NamedTuple):
    """One code."""

    text: str
    fix: str


_NEW = "Make a new payment from the offer in the answer. You were not charged."
_CLOCK = "Check the payer's clock, and make a new payment."

_DOMAIN = (
    "The API's operator has to correct the route's `asset_name` and `asset_version`: they are "
    "signed, and they differ from those of the token's contract."
)
_POOR = ErrorText(
    "The payer does not have enough of this token on this network.",
    "Fund the payer's address with the token, and make a new payment.",
)
_SIGNATURE = ErrorText(
    "The signature is not the payer's, for this token.",
    "Sign with the payer's own key, and check that `asset_name`, `asset_version` and `network` of "
    "the route are those of the token's contract: they are signed as well.",
)
_AMOUNT = ErrorText("The amount differs from the offer.", _NEW)
_NETWORK = ErrorText(
    "The facilitator does not serve this network.",
    "The API's operator has to name a facilitator that supports the network.",
)

_BY_END: tuple[tuple[str, ErrorText], ...] = (
    ("insufficient_funds", _POOR),
    ("insufficient_balance", _POOR),
    ("payload_signature", _SIGNATURE),
    ("failed_to_verify_signature", _SIGNATURE),
    ("authorization_valid_after", ErrorText("The payment is not valid yet.", _CLOCK)),
    ("authorization_valid_before", ErrorText("The payment has expired.", _CLOCK)),
    ("authorization_value", _AMOUNT),
    ("value_mismatch", _AMOUNT),
    (
        "recipient_mismatch",
        ErrorText("The payment goes to another address than the seller's.", _NEW),
    ),
    (
        "nonce_already_used",
        ErrorText("The payment was used before.", "Make a new payment; each pays for one request."),
    ),
    (
        "token_name_mismatch",
        ErrorText("The token's name differs from the one that was signed.", _DOMAIN),
    ),
    (
        "token_version_mismatch",
        ErrorText("The token's version differs from the one that was signed.", _DOMAIN),
    ),
    (
        "eip3009_not_supported",
        ErrorText(
            "The token does not support transfers by signature (EIP-3009).",
            "The API's operator has to name a token that does.",
        ),
    ),
    (
        "simulation_failed",
        ErrorText("The token would refuse the transfer.", "The token's contract shows why."),
    ),
    ("invalid_network", _NETWORK),
    ("network_mismatch", _NETWORK),
    ("failed_to_get_network_config", _NETWORK),
    (
        "scheme",
        ErrorText(
            "The facilitator does not support this payment scheme.",
            "The API's operator has to name a facilitator that does.",
        ),
    ),
    ("invalid_payload", ErrorText("The facilitator could not read the payment.", _NEW)),
    ("invalid_x402_version", ErrorText("The facilitator supports another version of x402.", _NEW)),
    (
        "interrupted",
        ErrorText(
            "The request was interrupted before the payment was settled. You were not charged.",
            _NEW,
        ),
    ),
)
"""By the end of the code, since schemes and versions add their own prefixes."""


def words_of(code: str) -> ErrorText | None:
    """The meaning of a code; None if it is unknown."""
    return next((words for end, words in _BY_END if code.endswith(end)), None)
