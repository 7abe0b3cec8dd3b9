"""What facilitators of x402 say when they refuse a payment, in words, and what mends it.

The codes are those of the official schemas for `exact` on EVM networks; one that is not here is
shown as it came.
"""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """One code."""

    text: str
    fix: str


_NEW = "Make a new payment from the offer in the answer; none was taken."
_CLOCK = "Check the payer's clock, and make a new payment."

_DOMAIN = (
    "Whoever runs the API has to correct `asset_name` and `asset_version` of the route: they are "
    "signed, and are not those of the token's contract."
)
_POOR = Words(
    "The payer does not have the amount in this token on this network.",
    "Fund the payer's address with the token, and make a new payment.",
)
_SIGNATURE = Words(
    "The signature is not the payer's, for this token.",
    "Sign with the payer's own key, and check that `asset_name`, `asset_version` and `network` of "
    "the route are those of the token's contract: they are signed as well.",
)
_AMOUNT = Words("The amount is not the one that was asked for.", _NEW)
_NETWORK = Words(
    "The facilitator does not serve this network.",
    "Whoever runs the API has to name a facilitator and a network that go together.",
)

_BY_END: tuple[tuple[str, Words], ...] = (
    ("insufficient_funds", _POOR),
    ("insufficient_balance", _POOR),
    ("payload_signature", _SIGNATURE),
    ("failed_to_verify_signature", _SIGNATURE),
    ("authorization_valid_after", Words("The payment is not valid yet.", _CLOCK)),
    ("authorization_valid_before", Words("The payment has expired.", _CLOCK)),
    ("authorization_value", _AMOUNT),
    ("value_mismatch", _AMOUNT),
    ("recipient_mismatch", Words("Another address than the seller's would be paid.", _NEW)),
    (
        "nonce_already_used",
        Words("The payment was taken before.", "Make a new payment; one pays for one request."),
    ),
    ("token_name_mismatch", Words("The token has another name than was signed.", _DOMAIN)),
    ("token_version_mismatch", Words("The token has another version than was signed.", _DOMAIN)),
    (
        "eip3009_not_supported",
        Words(
            "The token does not take transfers by signature (EIP-3009).",
            "Whoever runs the API has to name a token that does.",
        ),
    ),
    (
        "simulation_failed",
        Words("The token would refuse the transfer.", "Ask the token's contract why it reverts."),
    ),
    ("invalid_network", _NETWORK),
    ("network_mismatch", _NETWORK),
    ("failed_to_get_network_config", _NETWORK),
    (
        "scheme",
        Words(
            "The facilitator does not know this scheme of payment.",
            "Whoever runs the API has to name a facilitator that knows it.",
        ),
    ),
    ("invalid_payload", Words("The facilitator could not read the payment.", _NEW)),
    ("invalid_x402_version", Words("The facilitator speaks another version of x402.", _NEW)),
    (
        "interrupted",
        Words("The request was interrupted before anything was settled; nothing was taken.", _NEW),
    ),
)
"""By the end of the code: schemes and versions put words of their own in front."""


def words_of(code: str) -> Words | None:
    """What a code means; None: it is not known here."""
    return next((words for end, words in _BY_END if code.endswith(end)), None)
