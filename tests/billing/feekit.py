"""What tests of fees are made with: subscriptions that a provider is paid for."""

from __future__ import annotations

from moneykit import World
from paykit import Scripted
from schedulekit import BillingParts

from fastgate.billing.audit.audit import audit_gateway
from fastgate.billing.invoices.invoices import Invoice
from fastgate.billing.ledger.ledger import Movement
from fastgate.billing.payments.base import (
    EventKind,
    ProviderEvent,
    Purpose,
)
from fastgate.billing.payments.chain import Chain
from fastgate.billing.payments.refunds import Refunds
from fastgate.billing.payments.webhooks_in import Applier
from fastgate.billing.subscriptions.lifecycle import State, access_of
from fastgate.model.units import Money
from fastgate.store.payments import AttemptTable, Payment, PaymentTable

USD = 1_000_000
BASIC, BIG = 29_580_000, 88_750_000  # from ten o'clock of the first day on


class FeeWorld:
    """Subscriptions on a real ledger, paid by a provider that does as told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts = BillingParts(world.store)
        clock = self.parts.clock
        self.provider = Scripted("one", clock)  # type: ignore[arg-type]
        self.payments = PaymentTable(world.store)
        self.chain = Chain([self.provider], AttemptTable(world.store), clock)
        self.applier = Applier(
            self.chain,
            world.wallets,
            self.payments,
            clock,
            subscriptions=self.parts.subscriptions,
            dunning=self.parts.dunning,
        )
        self.chain.on_success.append(self.applier.apply)
        self.parts.dunning.charger = self.chain
        self.parts.schedule.credit = self.credit
        self.refunds = Refunds(
            self.chain, self.payments, world.wallets, world.ledger, clock, fees=self.parts.dunning
        )
        self.disputes = 0

    async def credit(self, account: str, amount: Money, ident: str, reference: str) -> None:
        await self.world.wallets.credit_note(
            Movement(ident, account, amount.currency, amount.micros, reference)
        )

    async def begin(self, plan: str = "basic", name: str = "acme") -> str:
        """A paid subscription of a new account; its id."""
        self.account = await self.parts.account(name, has_method=True)
        made = await self.parts.subscriptions.create(self.account, plan)
        await self.parts.settle()
        return made.id

    async def change(self, ident: str, plan: str) -> Invoice | None:
        document = (await self.parts.subscriptions.change_plan(ident, plan)).document
        await self.parts.settle()
        return document

    async def paid(self) -> list[Payment]:
        return sorted(await self.payments.of_account(self.account), key=lambda one: one.reference)

    async def fact(
        self,
        kind: EventKind,
        payment: Payment,
        reference: str,
        attempt: str = "",
        amount: int | None = None,
    ) -> None:
        """`amount`: micro-units; None: all of the payment."""
        await self.applier.apply(
            ProviderEvent(
                kind=kind,
                provider="one",
                key=f"{reference}:{kind}",
                at=self.parts.clock(),
                account=payment.account,
                amount=Money(payment.amount if amount is None else amount, payment.currency),
                reference=reference,
                payment=payment.reference,
                purpose=Purpose(payment.purpose),
                subject=payment.subject,
                attempt=attempt,
            )
        )

    async def deliver(self, payment: Payment) -> None:
        """The payment's own event, once more, as providers send it with those about it."""
        await self.fact(EventKind.PAYMENT_SUCCEEDED, payment, payment.reference)

    async def books(self, currency: str = "USD") -> tuple[int, int, int, int]:
        """Available, held, revenue, and what the provider has of ours."""
        wallet = await self.world.ledger.wallet(self.account, currency)
        assert wallet is not None
        assert wallet.spendable == wallet.customer_available
        await self.world.agrees(self.account, currency)
        return (
            wallet.customer_available,
            wallet.customer_held,
            wallet.revenue,
            -wallet.provider_clearing,
        )

    async def state(self, ident: str) -> tuple[State, str | None]:
        found = await self.parts.subscriptions.advance(ident)
        reason = access_of(found, self.parts.clock())
        return found.state, reason.code if reason is not None else None

    async def audited(self) -> None:
        report = await audit_gateway(self.world.pipeline)
        assert report.passed, report
