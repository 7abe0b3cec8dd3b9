"""The manual provider: payments that an operator has received and enters with a reference.

For bank transfers, cash, invoices paid elsewhere. It needs no other service and is never down. It
makes the same facts of these payments as any other provider, so receipts, limits and audits treat
them alike. A reference is booked once: entering the same transfer twice credits it once, and the
ledger refuses the same reference with another amount or account.
"""

from __future__ import annotations

import hashlib

from fastgate.billing.payments.base import (
    AmountError,
    Capability,
    ChargeStatus,
    Checkout,
    Clock,
    EventKind,
    PaymentProvider,
    ProviderEvent,
    ProviderRefused,
    Purpose,
    RefundResult,
    Wanted,
)
from fastgate.model.units import Money
from fastgate.store.payments import PaymentTable

NAME = "manual"
REFERENCE_MOST = 120


class ManualProvider(PaymentProvider):
    """Credits by hand. `instructions`: a page that tells customers how to pay, if there is one."""

    name = NAME

    def __init__(self, payments: PaymentTable, clock: Clock, *, instructions: str = "") -> None:
        self._payments = payments
        self._clock = clock
        self._instructions = instructions
        self.capabilities = frozenset(
            {Capability.REFUNDS, *([Capability.TOP_UP] if instructions else [])}
        )

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        """The page with instructions; the transfer's reference is the account."""
        if not self._instructions:
            raise self._cannot("take top-ups: no page with instructions is set up")
        return Checkout(url=self._instructions, reference=account)

    def received(
        self,
        account: str,
        amount: Money,
        reference: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ProviderEvent:
        """The fact that an amount has arrived, to be applied by `webhooks_in.Applier`.

        `reference`: the transfer's own, 1 to 120 printable characters. Raises ProviderRefused,
        AmountError.
        """
        if not 0 < len(reference) <= REFERENCE_MOST or not reference.isprintable():
            raise ProviderRefused(
                f"A credit needs a reference of 1 to {REFERENCE_MOST} printable characters, such "
                "as the bank's for the transfer."
            )
        if amount.micros <= 0:
            raise AmountError("A credit must be greater than zero.")
        return ProviderEvent(
            kind=EventKind.PAYMENT_SUCCEEDED,
            provider=self.name,
            key=f"manual:payment:{reference}:succeeded",
            at=self._clock(),
            account=account,
            amount=amount,
            reference=reference,
            payment=reference,
            purpose=purpose,
            subject=subject,
        )

    async def refund(
        self, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        """Record a refund by an operator. `Refunds` has checked the amount.

        The refund's reference follows from the key: the same key is the same refund.
        """
        paid = await self._payments.get(self.name, payment)
        if paid is None:
            raise ProviderRefused(f"No payment {payment!r} was recorded.")
        mark = hashlib.blake2b(idempotency_key.encode(), digest_size=12).hexdigest()
        reference = f"refund-{mark}"
        return RefundResult(
            status=ChargeStatus.SUCCEEDED,
            provider=self.name,
            amount=amount or Money(paid.amount, paid.currency),
            reference=reference,
        )


def create(wanted: Wanted) -> ManualProvider:
    """The entry point."""
    return ManualProvider(PaymentTable(wanted.store), wanted.clock)
