"""Billing services: all objects that are built from the configuration's `billing` section.

    subscriptions ─ invoices ─ dunning ─ notices ─ outbox      Schedule, every second
    providers ─ webhooks ─ open charges ─ grace                 ProviderPoller, every ten seconds
                                                               or when a webhook arrives
    balances ─ alerts ─ auto-recharge                           BalanceMonitor

They are composed again when that section changes; wallets, ledger and pipeline stay. All state is
in the store, so nothing is lost when a new composition replaces the old one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from fastgate.api.billing_api import BillingApi
from fastgate.billing.amounts import show
from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.audit.money import audit_providers
from fastgate.billing.audit.provider_balance import audit_balances
from fastgate.billing.audit.report import AuditReport
from fastgate.billing.auto_recharge import AutoRecharges
from fastgate.billing.dunning.dunning import Dunning, lines_text
from fastgate.billing.invoices.invoices import DocumentKind, Draft, InvoiceLine, Invoices
from fastgate.billing.ledger.ledger import Movement
from fastgate.billing.ledger.retention import prune_usage
from fastgate.billing.notices.alerts import Alerts
from fastgate.billing.notices.mail import Mailer
from fastgate.billing.notices.notices import Message, Notices
from fastgate.billing.notices.outbox import Outbox, Sender
from fastgate.billing.notices.webhooks import Webhooks
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    EventKind,
    PaymentProvider,
    ProviderEvent,
    Purpose,
    Wanted,
    make_providers,
)
from fastgate.billing.payments.books import payment_id
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.grace import GraceLedger, GraceTerms
from fastgate.billing.payments.provider_poller import ProviderPoller
from fastgate.billing.payments.reconcile import Reconciler
from fastgate.billing.payments.refunds import Refunds
from fastgate.billing.payments.usage_export import UsageExport
from fastgate.billing.payments.webhooks_in import Applier, Inbox
from fastgate.billing.schedule import Schedule
from fastgate.billing.subscriptions.owed import seconds
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.errors import StoreError
from fastgate.model.billing import Billing
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.runtime.control.billing_deps import BillingDeps
from fastgate.store.payment_events import EventTable
from fastgate.store.payments import AttemptTable, CustomerTable, GraceTable, PaymentTable
from fastgate.ticks import next_tick

log = logging.getLogger("fastgate.billing")

TICK_S = 1.0
AFTER_TROUBLE_S = 5.0
PRUNE_S = 3600.0
AUDITED = timedelta(days=30)
"""How far back providers' payments are audited."""
REMEMBER_ALERTS = timedelta(days=400)
RECHARGES = "recharge:"  # prefix of the idempotency keys of automatic recharges


class BillingServices:
    """One composition, for one `billing` section."""

    def __init__(
        self, deps: BillingDeps, billing: Billing, providers: Sequence[PaymentProvider]
    ) -> None:
        self.billing = billing
        self._deps = deps
        store, clock = deps.store, deps.clock
        notices = Notices(store, clock, billing)
        invoices = Invoices(store, clock, billing.seller)
        self.look_again: Callable[[str], None] = lambda account: None
        """Set by the balance monitor."""
        self.subscriptions = Subscriptions(store, billing, self._plan, invoices, notices)
        self.subscriptions.on_change.append(self._changed)
        self.payments = PaymentTable(store)
        self.chain = Chain(providers, AttemptTable(store), clock)
        self.dunning = Dunning(self.subscriptions, self.chain, billing.dunning)
        self.recharges = AutoRecharges(store, notices, self.chain, self._recharged)
        self.applier = Applier(
            self.chain,
            deps.wallets,
            self.payments,
            clock,
            subscriptions=self.subscriptions,
            dunning=self.dunning,
        )
        self.applier.on_event.append(self._on_event)
        self.chain.on_success.append(self.applier.apply)
        self.inbox = Inbox(self.chain, EventTable(store), self.applier, clock)
        self.grace = GraceLedger(
            self.chain,
            GraceTable(store),
            deps.wallets,
            clock,
            GraceTerms(amount=billing.grace.provider_amount, lasts=seconds(billing.grace.provider)),
        )
        events = {} if billing.stripe is None else {"stripe": billing.stripe.usage}
        self.poller = ProviderPoller(
            self.chain,
            self.inbox,
            Reconciler(self.chain, self.inbox, clock),
            self.grace,
            clock,
            UsageExport(store, self.chain, clock, events),
        )
        self.webhooks = Webhooks(billing.webhooks, clock)
        self.outbox = Outbox(store, clock, billing, self._senders())
        self.alerts = Alerts(store, notices)
        self.schedule = Schedule(
            self.subscriptions, self.dunning, self.outbox, self._credit, self.recharges
        )
        self.api = BillingApi(
            config=billing,
            money_map=deps.money_map,
            ledger=deps.ledger,
            wallets=deps.wallets,
            pipeline=deps.pipeline,
            profiles=notices.profiles,
            subscriptions=self.subscriptions,
            invoices=invoices,
            notices=notices,
            outbox=self.outbox,
            dunning=self.dunning,
            recharges=self.recharges,
            providers=self.chain,
            inbox=self.inbox,
            grace=self.grace,
            payments=self.payments,
            attempts=AttemptTable(store),
            grants=GraceTable(store),
            refunds=Refunds(
                self.chain,
                self.payments,
                deps.wallets,
                deps.ledger,
                clock,
                fees=self.dunning,
            ),
            spending=deps.caps,
            open_account=deps.open_account,
            look_again=lambda account: self.look_again(account),
            audit=self._audit,
        )

    async def _audit(self, providers: bool) -> AuditReport:
        report = await audit_gateway(self._deps.pipeline)
        if not providers:
            return report
        since = self._deps.clock() - AUDITED
        said = await audit_providers(self._deps.store, self.chain.providers, since)
        balances = await audit_balances(self._deps.store, self.chain.providers)
        return AuditReport([*report.checks, *said, *balances])

    def _plan(self, name: str) -> Plan | None:
        return next((plan for plan in self._deps.gateway().plans if plan.name == name), None)

    def _senders(self) -> dict[str, Sender]:
        senders: dict[str, Sender] = {"webhook": self.webhooks}
        if self.billing.smtp is not None:
            url = self.billing.public_url
            senders["mail"] = Mailer(self.billing.smtp, str(url) if url is not None else None)
        return senders

    # ---- life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tick(), name="billing")
                group.create_task(self.poller.run(), name="payment providers")
                group.create_task(self._prune(), name="pruning")
        finally:
            await self.webhooks.close()
            await self.chain.close()

    async def _tick(self) -> None:
        while True:
            wait = TICK_S
            try:
                if self._deps.store.ready:
                    tick = await self.schedule.tick()
                    wait = TICK_S if tick.idle else 0.0
            except StoreError as error:
                log.info("Billing waits for the store: %s", error)
            except Exception:
                log.exception("Billing could not do what was due.")
                wait = AFTER_TROUBLE_S
            await next_tick(wait)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_S)
            try:
                await self.api.notices.prune()
                await self.alerts.prune(self._deps.clock() - REMEMBER_ALERTS)
                await self._prune_usage()
            except StoreError as error:
                log.info("Old data could not be deleted now: %s", error)

    async def _prune_usage(self) -> None:
        keep = self.billing.usage.keep
        if keep is not None:
            gone = await prune_usage(self._deps.pipeline, self._deps.clock(), seconds(keep))
            if gone:
                log.info("Deleted %d usage records older than %s.", gone, keep)

    # ---- callbacks between the parts ------------------------------------------------------

    async def _changed(self, account: str) -> None:
        await self._deps.entries_changed(self.subscriptions, account)

    async def _credit(self, account: str, amount: Money, ident: str, reference: str) -> None:
        """Credit a credit note, which returns a payment for a subscription, to the wallet."""
        await self._deps.open_account(account)
        if await self._deps.ledger.find(ident) is not None:
            return  # credited before a kill, or booked as a payment
        movement = Movement(
            id=ident,
            account=account,
            currency=amount.currency,
            amount=amount.micros,
            reference=reference,
            note="credit note",
        )
        await self._deps.wallets.credit_note(movement)

    async def _recharged(self, account: str, result: ChargeResult, key: str) -> None:
        """Book the same entry as the provider's own event of the payment."""
        movement = Movement(
            id=payment_id(result.provider, result.reference),
            account=account,
            currency=result.amount.currency,
            amount=result.amount.micros,
            reference=result.reference,
            note="automatic recharge",
        )
        await self._deps.wallets.credit(movement)

    async def _on_event(self, event: ProviderEvent) -> None:
        """After a payment: a receipt, and the end of an automatic recharge."""
        if event.kind is EventKind.PAYMENT_SUCCEEDED and event.purpose is Purpose.TOP_UP:
            await self._receipt(event)
        if not event.attempt.startswith(RECHARGES) or event.amount is None:
            return
        status = {
            EventKind.PAYMENT_SUCCEEDED: ChargeStatus.SUCCEEDED,
            EventKind.PAYMENT_FAILED: ChargeStatus.FAILED,
        }.get(event.kind)
        if status is not None:
            result = ChargeResult(
                status=status,
                provider=event.provider,
                amount=event.amount,
                reference=event.payment,
                decline=event.decline,
                code=event.code,
                message=event.message,
            )
            await self.recharges.settle(event.account, result, event.attempt)

    async def _receipt(self, event: ProviderEvent) -> None:
        """Issue and send the receipt once, however often the payment is reported."""
        if not event.account or event.amount is None:
            return
        amount = event.amount
        lines = [InvoiceLine("Top-up of the wallet", amount.micros)]
        document = await self.api.invoices.issue(
            Draft(
                key=f"receipt:{event.provider}:{event.payment}"[:200],
                kind=DocumentKind.RECEIPT,
                account=event.account,
                currency=amount.currency,
                lines=lines,
                paid=True,
                reference=event.payment[:200],
            )
        )
        if self.billing.notices.receipts:
            data = {
                "amount": show(amount.micros, amount.currency),
                "number": document.number,
                "lines": lines_text(lines, amount.currency),
            }
            await self.api.notices.put(
                Message(
                    kind="payment.succeeded",
                    account=event.account,
                    key=f"receipt:{document.id}",
                    data=data,
                )
            )


def providers_of(deps: BillingDeps, billing: Billing) -> list[PaymentProvider]:
    """The payment providers that are configured. Raises ConfigurationError."""
    customers = CustomerTable(deps.store, deps.clock)
    return make_providers(Wanted(billing, deps.store, customers, deps.clock))
