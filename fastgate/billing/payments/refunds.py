"""Refunds, through the provider of the payment.

```
freeze (ledger and cell) ─▶ provider ─┬ done or pending ───▶ pay_out
                                      ├ refused ───────────▶ release
                                      └ unknown ───────────▶ stays set aside; repeat, same key
```

The amount is taken from the wallet first, so that it cannot be spent during the refund, and no
refund exceeds the balance. The refund of a fee is taken from revenue, and is at most what credit
notes have left of it. The same key is the same refund. A key whose refund was refused cannot be
used again. The provider's event of the refund carries the key, so it finds the same entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from fastgate.billing.ledger.ledger import EntryKind, Movement, settled_id
from fastgate.billing.payments.base import (
    ChargeStatus,
    Clock,
    ProviderRefused,
    Purpose,
    RefundResult,
)
from fastgate.billing.payments.books import Books, Entries, refund_id
from fastgate.billing.payments.chain import Chain
from fastgate.errors import ConflictError
from fastgate.model.units import Money
from fastgate.store.payments import Payment, PaymentTable, Return

KEY_MOST = 120


class Fees(Protocol):
    """The part of `fastgate.billing.dunning.dunning.Dunning` that refunds of fees need."""

    async def refundable(self, paid: Payment) -> int:
        """The maximum refund of a payment of an invoice, before earlier refunds are deducted."""

    async def returned(self, ident: str) -> bool:
        """A payment of an invoice was returned, fully or in part."""

    async def taken_back(self, ident: str) -> Mapping[tuple[str, str], int]:
        """How much of the credits of an invoice must be out of the wallet."""


class Refunds:
    """Refunds of payments."""

    def __init__(
        self,
        chain: Chain,
        payments: PaymentTable,
        books: Books,
        entries: Entries,
        clock: Clock,
        *,
        fees: Fees | None = None,
    ) -> None:
        self._chain = chain
        self._payments = payments
        self._books = books
        self._entries = entries
        self._clock = clock
        self._fees = fees

    async def refund(
        self, provider: str, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        """Refund a payment; all that is left of it if `amount` is None.

        Raises ProviderRefused (no such payment; more than is left; refused by the provider),
        ProviderUnavailable (repeat with the same key), InsufficientFundsError (already spent),
        ConflictError (the key was used for another refund, or one that was refused).
        """
        if not 0 < len(idempotency_key) <= KEY_MOST or not idempotency_key.isprintable():
            raise ProviderRefused(f"A refund's key has 1 to {KEY_MOST} printable characters.")
        paid = await self._payments.get(provider, payment)
        if paid is None:
            raise ProviderRefused(f"There is no payment {payment!r} by {provider!r}.")
        ident = refund_id(provider, idempotency_key)
        back = await self._amount(paid, amount, idempotency_key)
        await self._set_aside(ident, paid, back)
        try:
            result = await self._chain.call(
                provider, lambda it: it.refund(payment, back, idempotency_key)
            )
        except ProviderRefused:
            await self._books.release(ident, reference=payment)
            raise
        if result.status is ChargeStatus.FAILED:
            await self._books.release(ident, reference=result.reference)
            return result
        now = self._clock()
        await self._payments.put_return(
            Return(
                provider=provider,
                reference=result.reference,
                payment=payment,
                key=idempotency_key,
                kind="refund",
                currency=back.currency,
                amount=back.micros,
                state="returned",
                at=now,
                updated=now,
            )
        )
        await self._books.pay_out(ident, reference=result.reference)
        if paid.purpose == Purpose.INVOICE and self._fees is not None:
            await self._fees.returned(paid.subject)
            await self._books.take_back(paid.account, partial(self._fees.taken_back, paid.subject))
        return result

    async def _set_aside(self, ident: str, paid: Payment, back: Money) -> None:
        settled = await self._entries.find(settled_id(ident))
        if settled is not None and settled.kind == EntryKind.RELEASE:
            raise ConflictError(
                "This key was used for a refund that was refused; a new refund needs a new key."
            )
        from_wallet = paid.purpose == Purpose.TOP_UP
        set_aside = self._books.freeze if from_wallet else self._books.fee_aside
        await set_aside(
            Movement(
                id=ident,
                account=paid.account,
                currency=paid.currency,
                amount=back.micros,
                reference=paid.reference,
                note="refund",
            )
        )

    async def _amount(self, paid: Payment, amount: Money | None, key: str) -> Money:
        """The amount of the refund. Raises ProviderRefused for more than is left."""
        if amount is not None and amount.currency != paid.currency:
            raise ProviderRefused(f"The payment was made in {paid.currency}.")
        left = paid.amount
        returns = await self._payments.returns(paid.provider, paid.reference)
        again = any(item.key == key for item in returns)
        if paid.purpose == Purpose.INVOICE and self._fees is not None and not again:
            left = await self._fees.refundable(paid)
        for item in returns:
            if item.key == key and amount is None:  # a repeated call
                return Money(item.amount, item.currency)
            if item.state != "kept" and item.key != key:
                left -= item.amount
        micros = left if amount is None else amount.micros
        if not 0 < micros <= left:
            raise ProviderRefused(
                f"Of this payment {Money(max(0, left), paid.currency)} can be refunded at most: "
                "the rest was already refunded, or credited to the wallet by a credit note."
            )
        return Money(micros, paid.currency)
