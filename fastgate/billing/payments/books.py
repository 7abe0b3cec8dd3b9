"""What the payments need of the ledger, and the names of the entries they make.

The names are the whole of idempotency: a payment is credited under its own name, whoever hears of
it first (the caller of the charge, a webhook, the reconciliation), and a refund that we asked for
is found again under the key it was asked with when the provider's event arrives.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from fastgate.billing.ledger.ledger import ID_MOST, Movement, Posted, Wanted
from fastgate.billing.payments.base import EventKind, ProviderEvent
from fastgate.store.ledger import Entry


class Books(Protocol):
    """`fastgate.billing.ledger.wallets.Wallets`, as far as payments are concerned."""

    async def credit(self, movement: Movement, *, tax: int = 0) -> Posted:
        """Paid in."""

    async def fee(self, movement: Movement, *, tax: int = 0) -> Posted:
        """An invoice was paid."""

    async def fee_aside(self, movement: Movement) -> Posted:
        """Set aside of what was earned: a fee that goes back, or is contested."""

    async def provider_fee(self, movement: Movement) -> Posted:
        """What the provider keeps of a payment."""

    async def freeze(self, movement: Movement) -> Posted:
        """Set aside what is to be paid back; refused when the wallet has not that much."""

    async def dispute(self, movement: Movement) -> Posted:
        """Set aside, also where the wallet then owes."""

    async def take_back(self, account: str, wanted: Wanted) -> None:
        """Take credits whose fees went back, or give them again."""

    async def pay_out(self, ident: str, *, reference: str = "") -> Posted:
        """What was set aside has left us."""

    async def release(self, ident: str, *, reference: str = "") -> Posted:
        """What was set aside is the account's again."""


class Entries(Protocol):
    """`fastgate.billing.ledger.ledger.Ledger`, as far as it is read here."""

    async def find(self, ident: str) -> Entry | None:
        """The entry of that id, if there is one."""


def _ident(*parts: str) -> str:
    """An entry's id; what is too long or not printable is replaced by its hash."""
    text = ":".join(parts)
    if len(text) <= ID_MOST - 16 and text.isprintable():  # what settles it has a suffix
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=24).hexdigest()
    return f"{parts[0]}:{parts[1][:56]}:{digest}"


def payment_id(provider: str, reference: str) -> str:
    """The entry that credits a payment."""
    return _ident("pay", provider, reference)


def cost_id(provider: str, reference: str) -> str:
    """The entry of what the provider keeps of a payment."""
    return _ident("cost", provider, reference)


def refund_id(provider: str, key: str) -> str:
    """The entry that sets aside what is refunded: by the key that it was asked for with."""
    return _ident("refund", provider, key)


def return_id(event: ProviderEvent) -> str:
    """The entry that sets aside what a refund or dispute takes back."""
    if event.kind in (EventKind.REFUND, EventKind.REFUND_FAILED):
        return refund_id(event.provider, event.attempt or event.reference)
    return returned_id(event.provider, event.reference)


def returned_id(provider: str, reference: str) -> str:
    """The entry that sets aside what a dispute contests."""
    return _ident("dispute", provider, reference)
