"""Fakes for tests of billing: a clock set by hand, scripted charges and senders, all of billing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastgate.billing.auto_recharge import AutoRecharges
from fastgate.billing.dunning.dunning import Dunning
from fastgate.billing.invoices.invoices import Invoices
from fastgate.billing.notices.alerts import Alerts
from fastgate.billing.notices.notices import Notices
from fastgate.billing.notices.outbox import DeliveryError, Outbox, Outgoing
from fastgate.billing.payments.base import ChargeResult, ChargeStatus, Decline, Purpose
from fastgate.billing.schedule import Schedule
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.model.billing import Billing
from fastgate.model.codec import decode
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.parties import Parties

BEGIN = datetime(2026, 11, 1, 10, tzinfo=UTC)


class ManualClock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime = BEGIN) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> datetime:
        self.now += timedelta(**time)
        return self.now


class ScriptedCharger:
    """Charges end as told, one after the other; then they succeed. A key charges once."""

    def __init__(self, *outcomes: ChargeStatus | Decline | Exception) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[str, int, str]] = []
        self.charged: dict[str, ChargeResult] = {}
        self.found: dict[str, ChargeResult] = {}

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        self.calls.append((idempotency_key, amount.micros, str(purpose)))
        if idempotency_key in self.charged:
            return self.charged[idempotency_key]
        outcome = self.outcomes.pop(0) if self.outcomes else ChargeStatus.SUCCEEDED
        if isinstance(outcome, Exception):
            raise outcome
        result = result_of(outcome, amount, f"pay_{len(self.calls)}")
        self.charged[idempotency_key] = result
        return result

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        return self.found.get(idempotency_key)

    @property
    def taken(self) -> int:
        """Micro-units that really were charged."""
        done = [r for r in self.charged.values() if r.status is ChargeStatus.SUCCEEDED]
        return sum(result.amount.micros for result in done)


def result_of(
    outcome: ChargeStatus | Decline, amount: Money, reference: str = "pay"
) -> ChargeResult:
    declined = isinstance(outcome, Decline)
    return ChargeResult(
        status=ChargeStatus.FAILED if declined else outcome,  # type: ignore[arg-type]
        provider="play",
        amount=amount,
        reference=reference,
        decline=outcome if declined else None,  # type: ignore[arg-type]
        message="Your card was declined." if declined else "",
        action_url="https://pay.example/a" if outcome is ChargeStatus.ACTION_REQUIRED else "",
    )


class ScriptedSender:
    """Takes notices, or refuses as told."""

    def __init__(self, *refusals: DeliveryError | None) -> None:
        self.refusals = list(refusals)
        self.taken: list[Outgoing] = []
        self.tries = 0

    async def send(self, outgoing: Outgoing) -> None:
        self.tries += 1
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.taken.append(outgoing)


PLANS = {
    "free": {},
    "usage": {"price": "0.01 USD"},
    "allowance": {"price": {"included": 5, "overage": "1 USD"}},
    "basic": {"price": {"flat": "30 USD"}},
    "big": {"price": {"flat": "90 USD"}},
    "trial": {"price": {"flat": "30 USD", "trial": "7d", "grace": "2d"}},
    "yearly": {"price": {"flat": "365 USD", "period": "year"}},
}


class BillingParts:
    """Everything of billing, on one store, one clock and one play provider."""

    def __init__(self, store: Store, billing: dict[str, Any] | None = None) -> None:
        self.store = store
        self.clock = ManualClock()
        self.charger = ScriptedCharger()
        self.sender = ScriptedSender()
        self.billing = decode(billing or {}, Billing)
        plans = {name: decode({"name": name, **more}, Plan) for name, more in PLANS.items()}
        self.plan_of: Callable[[str], Plan | None] = plans.get
        self.notices = Notices(store, self.clock, self.billing)
        self.invoices = Invoices(store, self.clock, self.billing.seller)
        self.subscriptions = Subscriptions(
            store, self.billing, self.plan_of, self.invoices, self.notices
        )
        self.dunning = Dunning(self.subscriptions, self.charger, self.billing.dunning)
        self.outbox = Outbox(
            store, self.clock, self.billing, {"mail": self.sender, "webhook": self.sender}
        )
        self.alerts = Alerts(store, self.notices)
        self.credited: dict[str, int] = {}
        self.recharges = AutoRecharges(store, self.notices, self.charger, self.top_up)
        self.schedule = Schedule(
            self.subscriptions, self.dunning, self.outbox, self.credit, self.recharges
        )

    async def credit(self, account: str, amount: Money, key: str, note: str) -> None:
        self.credited[key] = amount.micros

    async def top_up(self, account: str, result: ChargeResult, key: str) -> None:
        self.credited[key] = result.amount.micros

    async def account(self, name: str = "acme", **profile: Any) -> str:
        made = await Parties(self.store).create_account(name)
        if profile:
            await self.notices.profiles.update(made.id, **profile)
        return made.id

    async def settle(self) -> None:
        """Tick until nothing is due at this moment."""
        for _ in range(20):
            if (await self.schedule.tick()).idle:
                return
        raise AssertionError("it does not come to rest")

    async def until(self, moment: datetime) -> None:
        """Live through everything that is due up to a moment."""
        while True:
            await self.settle()
            due = await self.schedule.next_at()
            if due is None or due > moment:
                break
            self.clock.now = max(due, self.clock.now)
        self.clock.now = moment
        await self.settle()

    async def kinds(self, account: str) -> list[str]:
        """The kinds of all notices, the oldest first."""
        page = await self.notices.page(account, cursor=None, limit=500)
        return [notice.kind for notice in reversed(page.items)]
