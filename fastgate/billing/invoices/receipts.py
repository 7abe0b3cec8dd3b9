"""Receipts for money that was paid into a wallet.

A receipt is a document with its own series. It is issued and announced in one transaction, once for
each payment, however often the payment is reported. Fees have no separate receipt: their paid
invoice is the receipt.
"""

from __future__ import annotations

from fastgate.billing.amounts import show
from fastgate.billing.invoices.invoices import DocumentKind, Draft, Invoice, InvoiceLine, Invoices
from fastgate.billing.notices.notices import Message, Notices
from fastgate.errors import ConflictError
from fastgate.model.units import Money


class Receipts:
    """Issues receipts. Methods may raise StoreError."""

    def __init__(self, invoices: Invoices, notices: Notices) -> None:
        self.invoices = invoices
        self.notices = notices

    async def top_up(
        self, account: str, amount: Money, payment: str, *, method: str = ""
    ) -> Invoice:
        """The receipt of a payment; `payment` is its id, unique over all providers.

        `method`: how it was paid, as text.
        """
        line = InvoiceLine(f"Top-up by {method}" if method else "Top-up", amount.micros)
        draft = Draft(
            key=f"receipt:{payment}",
            kind=DocumentKind.RECEIPT,
            account=account,
            currency=amount.currency,
            lines=[line],
            paid=True,
            reference=payment[:200],
        )
        try:
            async with self.invoices.store.write() as connection:
                receipt = await self.invoices.issue_in(connection, draft)
                if self.notices.billing.notices.receipts:
                    shown = show(receipt.total, receipt.currency)
                    data = {
                        "amount": shown,
                        "number": receipt.number,
                        "lines": f"- {line.text}: {shown}",
                    }
                    await self.notices.put_in(
                        connection,
                        Message(
                            kind="payment.succeeded", account=account, key=draft.key, data=data
                        ),
                    )
        except ConflictError:  # another gateway was faster
            return await self.invoices.by_key(draft.key)
        return receipt
