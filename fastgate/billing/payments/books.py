"""The part of the ledger that payments need, and the names of their entries.

Idempotency depends on these names alone. A payment is credited under its own name, no matter which
reports it first: the caller of the charge, a webhook or the reconciliation. A refund that we
requested is found by the key of that request when the provider's event arrives.
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
        """Set aside part of the revenue: a fee that is returned or contested."""

    async def provider_fee(self, movement: Movement) -> Posted:
        """The provider's fee for a payment."""

    async def freeze(self, movement: Movement) -> Posted:
        """Set aside the amount of a refund. Refused if the wallet does not have that much."""

    async def dispute(self, movement: Movement) -> Posted:
        """Set aside, even if the balance becomes negative."""

    async def take_back(self, account: str, wanted: Wanted) -> None:
        """Take back credits whose fees were returned, or restore them."""

    async def pay_out(self, ident: str, *, reference: str = "") -> Posted:
        """The amount that was set aside has been paid out."""

    async def release(self, ident: str, *, reference: str = "") -> Posted:
        """The amount that was set aside belongs to the account again."""


class Entries(Protocol):
    """The part of `fastgate.billing.ledger.ledger.Ledger` that is read here."""

    async def find(self, ident: str) -> Entry | None:
        """The entry of that id, if there is one."""


def _ident(*parts: str) -> str:
    """An entry's id. Text that is too long or not printable is replaced by its hash."""
    text = ":".join(parts)
    if len(text) <= ID_MOST - 16 and text.isprintable():  # leaves room for a suffix
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=24).hexdigest()
    return f"{parts[0]}:{parts[1][:56]}:{digest}"


def payment_id(provider: str, reference: str) -> str:
    """The entry that credits a payment."""
    return _ident("pay", provider, reference)


def cost_id(provider: str, reference: str) -> str:
    """The entry of the provider's fee for a payment."""
    return _ident("cost", provider, reference)


def refund_id(provider: str, key: str) -> str:
    """The entry that sets aside the amount of a refund: by the key of the request."""
    return _ident("refund", provider, key)


def return_id(event: ProviderEvent) -> str:
    """The entry that sets aside the amount of a refund or dispute."""
    if event.kind in (EventKind.REFUND, EventKind.REFUND_FAILED):
        return refund_id(event.provider, event.attempt or event.reference)
    return returned_id(event.provider, event.reference)


def returned_id(provider: str, reference: str) -> str:
    """The entry that sets aside the contested amount."""
    return _ident("dispute", provider, reference)
