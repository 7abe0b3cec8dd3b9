"""What the API and the public pages need of the money side of the control process.

`fastgate.runtime.office` composes it. Nothing is imported here: the control process makes one
before the API, and what the API is built with, are needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgate._core.money import Money as MoneyMap
    from fastgate.billing.audit import AuditReport
    from fastgate.billing.autorecharge import AutoRecharges
    from fastgate.billing.dunning import Dunning
    from fastgate.billing.invoices import Invoices
    from fastgate.billing.ledger import Ledger
    from fastgate.billing.notices import Notices
    from fastgate.billing.outbox import Outbox
    from fastgate.billing.payments.chain import Chain
    from fastgate.billing.payments.grace import GraceLedger
    from fastgate.billing.payments.refunds import Refunds
    from fastgate.billing.payments.webhooks_in import Inbox
    from fastgate.billing.pipeline import Pipeline
    from fastgate.billing.profiles import Profiles
    from fastgate.billing.subscriptions import Subscriptions
    from fastgate.billing.wallets import Wallets
    from fastgate.model.billing import Billing
    from fastgate.store.payments import PaymentTable


@dataclass(frozen=True)
class Desk:
    """The parts of money, as composed by the control process."""

    billing: Billing
    money: MoneyMap
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
    refunds: Refunds
    open_account: Callable[[str], Awaitable[None]]
    """Gives an account its row in shared memory."""
    audit: Callable[[], Awaitable[AuditReport]]
