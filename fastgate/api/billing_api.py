"""What the API and the public pages need from the billing part of the control process.

`fastgate.runtime.control.billing_services` composes it. Nothing is imported here: the control
process composes it before the API and its packages are imported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from fastgate._core.money.money_map import MoneyMap
    from fastgate.billing.audit.report import AuditReport
    from fastgate.billing.auto_recharge import AutoRecharges
    from fastgate.billing.diagnosis.evidence import SpendingFacts
    from fastgate.billing.dunning.dunning import Dunning
    from fastgate.billing.invoices.invoices import Invoices
    from fastgate.billing.ledger.ledger import Ledger
    from fastgate.billing.ledger.pipeline import Pipeline
    from fastgate.billing.ledger.wallets import Wallets
    from fastgate.billing.notices.notices import Notices
    from fastgate.billing.notices.outbox import Outbox
    from fastgate.billing.payments.chain import Chain
    from fastgate.billing.payments.grace import GraceLedger
    from fastgate.billing.payments.refunds import Refunds
    from fastgate.billing.payments.webhooks_in import Inbox
    from fastgate.billing.profiles import Profiles
    from fastgate.billing.subscriptions.subscriptions import Subscriptions
    from fastgate.model.billing import Billing
    from fastgate.store.payments import AttemptTable, GraceTable, PaymentTable


LimitSubject = Literal["account", "consumer", "credential"]
"""What can have a spending limit."""
SPENDING_LIMIT_MOST = (1 << 56) - 1
"""Micro-units; the maximum that workers can count."""


class SpendingLimits(Protocol):
    """Spending limits (`fastgate.runtime.control.caps`). Kinds: account, consumer, credential."""

    def own(self, kind: LimitSubject, subject: str) -> tuple[int, str] | None:
        """Its own limit: micro-units (0: no limit, even if one is configured) and period."""

    def spent(self, kind: LimitSubject, subject: str) -> SpendingFacts | None:
        """The effective limit and what has been spent of it; None: no limit."""

    async def put(self, kind: LimitSubject, subject: str, micros: int, period: str) -> None:
        """Give it a limit of its own, at once. Raises StoreError."""

    async def drop(self, kind: LimitSubject, subject: str) -> None:
        """Back to the configured limit, at once. Raises StoreError."""


@dataclass(frozen=True)
class BillingApi:
    """The services of billing, as composed by the control process."""

    config: Billing
    """The `billing` section they were composed for."""
    money_map: MoneyMap
    ledger: Ledger
    wallets: Wallets
    pipeline: Pipeline
    profiles: Profiles
    subscriptions: Subscriptions
    invoices: Invoices
    notices: Notices
    outbox: Outbox
    dunning: Dunning
    recharges: AutoRecharges
    providers: Chain
    inbox: Inbox
    grace: GraceLedger
    payments: PaymentTable
    attempts: AttemptTable
    grants: GraceTable
    refunds: Refunds
    spending: SpendingLimits
    open_account: Callable[[str], Awaitable[None]]
    """Gives an account its row in shared memory."""
    look_again: Callable[[str], None]
    """Check an account's balances now, although they have not changed."""
    audit: Callable[[bool], Awaitable[AuditReport]]
