"""Simulates dunning: the real code on a simulated clock, without outside services.

All of billing (subscriptions, invoices, cases, reminders, notices, outbox) runs on an empty SQLite
file in a temporary folder; only the clock, the payment provider and the mail are simulated. The
clock jumps from one due time to the next, so a year takes a second or two.

```
Scenario(plan, billing, begins, days, outcomes)   outcomes: how each charge ends, in order;
        │                                         the last one for all that follow
        ▼
     simulate ──▶ Timeline: what happened and when, as rows
```
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from fastgate.billing.dunning.dunning import Dunning
from fastgate.billing.invoices.invoices import Invoices
from fastgate.billing.notices.notices import Notices
from fastgate.billing.notices.outbox import Outbox, Outgoing
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    Decline,
    ProviderUnavailable,
    Purpose,
)
from fastgate.billing.schedule import Schedule
from fastgate.billing.subscriptions.lifecycle import Event, access_of
from fastgate.billing.subscriptions.subscriptions import Subscriptions
from fastgate.model.billing import Billing, Smtp
from fastgate.model.party import Plan
from fastgate.model.units import Money
from fastgate.store.engine import Store
from fastgate.store.parties import Parties

Outcome = Literal["ok", "later", "new_method", "never", "action", "pending", "down"]
"""How a charge ends: paid, declined by class, needs confirmation, pending, unreachable."""

ADDRESS = "customer@example.com"
INSTANTLY = 20
"""The limit of ticks at one moment. Each must find less to do, so more means a fault."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An action of a person."""

    after: timedelta
    """The time since the beginning."""
    what: Literal[
        "attach_method", "detach_method", "cancel", "cancel_at_end", "keep", "change_plan"
    ]
    plan: str = ""
    """For change_plan."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate."""

    plans: Sequence[Plan]
    """The subscription starts with the first."""
    begins: datetime
    billing: Billing = Billing()
    days: int = 60
    outcomes: Sequence[Outcome] = ("ok",)
    has_method: bool = True
    """Whether the customer has a payment method from the beginning."""
    actions: Sequence[Action] = ()


class ScenarioEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a timeline."""

    at: datetime
    kind: Literal["subscription", "access", "charge", "notice", "credit", "action"]
    what: str
    """The event, the reason code ("": access), the outcome, or the kind of notice."""
    detail: str = ""


class _Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class _ScriptedCharger:
    """Payment provider and mail server of a simulation."""

    def __init__(self, clock: _Clock, outcomes: Sequence[Outcome]) -> None:
        self.clock = clock
        self.outcomes = list(outcomes)
        self.timeline: list[ScenarioEvent] = []
        self.done: dict[str, ChargeResult] = {}

    def add(
        self,
        kind: Literal["subscription", "access", "charge", "notice", "credit", "action"],
        what: str,
        detail: str = "",
    ) -> None:
        self.timeline.append(ScenarioEvent(at=self.clock(), kind=kind, what=what, detail=detail))

    def _next(self) -> Outcome:
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        outcome = self._next()
        self.add("charge", outcome, str(amount))
        if outcome == "down":
            raise ProviderUnavailable("The payment provider does not answer.", sent=False)
        statuses = {
            "ok": ChargeStatus.SUCCEEDED,
            "action": ChargeStatus.ACTION_REQUIRED,
            "pending": ChargeStatus.PENDING,
        }
        status = statuses.get(outcome, ChargeStatus.FAILED)
        result = ChargeResult(
            status=status,
            provider="simulation",
            amount=amount,
            reference=f"pay_{len(self.done) + 1}",
            decline=Decline(outcome) if status is ChargeStatus.FAILED else None,
            message="The card was declined." if status is ChargeStatus.FAILED else "",
            action_url="https://pay.example/confirm" if outcome == "action" else "",
        )
        self.done[idempotency_key] = result
        return result

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        """Pending charges get the next outcome."""
        found = self.done.get(idempotency_key)
        if found is None or found.status is not ChargeStatus.PENDING:
            return found
        return await self.charge_saved(account, found.amount, idempotency_key)

    async def send(self, outgoing: Outgoing) -> None:
        self.add("notice", outgoing.kind, outgoing.title)

    async def credit(self, account: str, amount: Money, key: str, note: str) -> None:
        self.add("credit", str(amount), note)


async def simulate(scenario: Scenario) -> list[ScenarioEvent]:
    """The timeline of a scenario, in chronological order.

    Raises ConfigurationError, NotFoundError and IllegalTransition as the real code does.
    """
    with tempfile.TemporaryDirectory(prefix="fastgate-simulation-") as folder:
        store = Store(f"sqlite:///{Path(folder) / 'simulation.db'}")
        await store.connect()
        try:
            return await _Simulation(scenario, store).run()
        finally:
            await store.stop()


class _Simulation:
    def __init__(self, scenario: Scenario, store: Store) -> None:
        self.scenario = scenario
        self.store = store
        self.clock = _Clock(scenario.begins)
        self.player = _ScriptedCharger(self.clock, scenario.outcomes)
        smtp = Smtp(host="mail.example", sender="billing@seller.example")
        billing = msgspec.structs.replace(scenario.billing, smtp=smtp, webhooks=[])
        plans = {plan.name: plan for plan in scenario.plans}
        notices = Notices(store, self.clock, billing)
        invoices = Invoices(store, self.clock, billing.seller)
        self.subscriptions = Subscriptions(store, billing, plans.get, invoices, notices)
        self.dunning = Dunning(self.subscriptions, self.player, billing.dunning)
        self.schedule = Schedule(
            self.subscriptions,
            self.dunning,
            Outbox(store, self.clock, billing, {"mail": self.player}),
            self.player.credit,
        )
        self.ident = ""
        self.seen = 0
        self.access: str | None = None

    async def run(self) -> list[ScenarioEvent]:
        account = (await Parties(self.store).create_account("simulated")).id
        await self.subscriptions.notices.profiles.update(
            account, emails=[ADDRESS], has_method=self.scenario.has_method
        )
        made = await self.subscriptions.create(account, self.scenario.plans[0].name)
        self.ident = made.id
        ends = self.scenario.begins + timedelta(days=self.scenario.days)
        actions = sorted(self.scenario.actions, key=lambda action: action.after)
        while True:
            await self._settle()
            due = await self.schedule.next_at()
            action_at = self.scenario.begins + actions[0].after if actions else None
            moments = [moment for moment in (due, action_at) if moment is not None]
            if not moments or min(moments) > ends:
                break
            self.clock.now = max(min(moments), self.clock.now)
            if action_at is not None and action_at <= self.clock.now:
                await self._act(account, actions.pop(0))
        return sorted(self.player.timeline, key=_order)

    async def _settle(self) -> None:
        """Tick until nothing is due at this moment, then record what has changed."""
        for _ in range(INSTANTLY):
            idle = (await self.schedule.tick()).idle
            await self._look()
            if idle:
                return
        raise RuntimeError(f"the simulation never finishes its work at {self.clock.now}")

    async def _look(self) -> None:
        history = await self.subscriptions.history(self.ident)
        for record in history[self.seen :]:
            detail = f"{record.before or '-'} to {record.after}"
            self.player.timeline.append(
                ScenarioEvent(at=record.at, kind="subscription", what=record.event, detail=detail)
            )
        self.seen = len(history)
        reason = access_of(await self.subscriptions.get(self.ident), self.clock())
        code = reason.code if reason is not None else ""
        if code != self.access:
            self.access = code
            self.player.add("access", code, f"{reason.status}" if reason is not None else "given")

    async def _act(self, account: str, action: Action) -> None:
        self.player.add("action", action.what, action.plan)
        subscriptions = self.subscriptions
        match action.what:
            case "attach_method":
                await subscriptions.method_changed(account, True)
                await self.dunning.method_attached(account)
            case "detach_method":
                await subscriptions.method_changed(account, False)
            case "cancel":
                await subscriptions.cancel(self.ident, at_period_end=False)
            case "cancel_at_end":
                await subscriptions.cancel(self.ident)
            case "keep":
                await subscriptions.apply(self.ident, Event.KEEP)
            case "change_plan":
                await subscriptions.change_plan(self.ident, action.plan)


def _order(happening: ScenarioEvent) -> tuple[datetime, int]:
    """Sorts by time; events of one moment keep the order in which they happened."""
    ranks = {"action": 0, "subscription": 1, "charge": 2, "credit": 4, "notice": 4, "access": 5}
    paid = happening.kind == "subscription" and happening.what in (
        Event.PAYMENT_SUCCEEDED,
        Event.PAYMENT_FAILED,
        Event.RETRIES_EXHAUSTED,
    )
    return happening.at, 3 if paid else ranks[happening.kind]
