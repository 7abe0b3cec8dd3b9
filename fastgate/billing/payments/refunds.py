"""Giving money back through the provider that took it.

```
freeze (ledger and cell) ─▶ provider ─┬ done or on its way ─▶ pay_out
                                      ├ refused ───────────▶ release
                                      └ unknown ───────────▶ stays set aside; ask again, same key
```

The wallet gives first, so that what is being paid back cannot be spent meanwhile, and no more is
paid back than is there; a fee is taken out of what was earned, and no more of it is paid back than
credit notes have left. The same key is one refund. A key whose refund was refused is used up.
The provider's event of the refund carries the key and meets the same entry.
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
    """`fastgate.billing.dunning.dunning.Dunning`, as far as refunds of fees are concerned."""

    async def refundable(self, paid: Payment) -> int:
        """The most of a payment of an invoice that may go back, what came back of it not yet
        taken off."""

    async def returned(self, ident: str) -> bool:
        """Something of what was paid for an invoice has gone back."""

    async def taken_back(self, ident: str) -> Mapping[tuple[str, str], int]:
        """How much of the credits of an invoice is to be out of the wallet."""


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
        """Give back a payment, or what is left of it when `amount` is None.

        Raises ProviderRefused (no such payment; more than is left; refused there),
        ProviderUnavailable (ask again with the same key), InsufficientFundsError (it has been
        spent), ConflictError (the key was used for another refund, or one that was refused).
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
        """How much goes back. Raises ProviderRefused for more than is left."""
        if amount is not None and amount.currency != paid.currency:
            raise ProviderRefused(f"The payment was made in {paid.currency}.")
        left = paid.amount
        returns = await self._payments.returns(paid.provider, paid.reference)
        again = any(item.key == key for item in returns)
        if paid.purpose == Purpose.INVOICE and self._fees is not None and not again:
            left = await self._fees.refundable(paid)
        for item in returns:
            if item.key == key and amount is None:  # asked again
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
