"""Subscriptions in the store: made, changed, billed, ended, with a record of every step.

```
caller ──▶ apply(id, event) ─┐
clock  ──▶ advance(id) ──────┴▶ one transaction: lock the row, let time catch up (`lifecycle`),
                                take the step, issue what is owed, notify, write the record
                                      └▶ after the commit: `on_change(account)`
```

- Events that are due by time are applied before anything else, one after the other, each at the
  moment at which it was due: a gateway that was down for a month renews and bills in order.
- **Billing**: whenever a step leaves a subscription that gives service and whose fee is paid only
  up to some moment of its period, the rest of the fee is invoiced and a case opened for it
  (`cases`), in the same transaction, unless an open invoice asks for it. A fee of nothing counts
  as paid (`owed`).
- `on_change` is called after each commit; the owner of the account rows in shared memory
  reads `access` again, so that a change takes effect at once.
- Commit and listeners are one change (`Serial`), which a cancellation does not split.
- A subscription that a payment provider manages (`provider`) is never billed here: `adopt` copies
  the provider's state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa

from fastgate.billing.amounts import coin
from fastgate.billing.invoices.cases import open_case
from fastgate.billing.invoices.invoices import DocumentKind, Draft, Invoice, InvoiceLine, Invoices
from fastgate.billing.notices.notices import Message, Notices
from fastgate.billing.payments.base import ProviderSubscription
from fastgate.billing.subscriptions import fees, plan_change, proration
from fastgate.billing.subscriptions.access import Entry, refusal_of
from fastgate.billing.subscriptions.lifecycle import (
    TRANSITIONS,
    Event,
    State,
    Subscription,
    access_ended,
    due_event,
    step,
)
from fastgate.billing.subscriptions.owed import Plans, SubscriptionFees, fee_due, seconds
from fastgate.billing.subscriptions.periods import period_of
from fastgate.billing.subscriptions.pricing import Flat
from fastgate.billing.subscriptions.reminders import next_look
from fastgate.billing.subscriptions.rows import change_note, subscription_of, values_of
from fastgate.model.billing import Billing
from fastgate.serial import Serial, serialized
from fastgate.store.billing_tables import subscriptions
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.ids import new_id

Listener = Callable[[str], Awaitable[None]]


class Changed(NamedTuple):
    """The result of a change of plan."""

    subscription: Subscription
    document: Invoice | None
    """An invoice to be paid, or a credit note to be credited; None: nothing is owed."""


class Subscriptions(SubscriptionFees):
    """The table and its rules. Methods may raise StoreError."""

    def __init__(
        self, store: Store, billing: Billing, plans: Plans, invoices: Invoices, notices: Notices
    ) -> None:
        super().__init__(store, billing, plans, invoices, notices)
        self.on_change: list[Listener] = []
        self.changes = Serial()

    # ---- reading ------------------------------------------------------------------------

    async def entries(self, account: str) -> list[Entry]:
        """What the account's subscriptions give now; those that give access first."""
        now = self.clock()
        days = self.billing.notices.renewal_days
        found = [
            Entry(
                one.id,
                one.plan,
                one.service,
                await refusal_of(self.store, one, now),
                next_look(one, days, now),
                access_ended(one, now),
            )
            for one in await self.of_account(account)
        ]
        return sorted(found, key=lambda entry: entry.reason is not None)

    # ---- making -------------------------------------------------------------------------

    @serialized
    async def create(
        self, account: str, plan: str, service: str | None = None, *, trial: bool = True
    ) -> Subscription:
        """Subscribe an account to a plan, from now.

        With a trial (if the plan has one, and the account has never been on it): trialing; with
        a fee: incomplete until it is paid; otherwise active. Raises NotFoundError for an unknown
        plan, ConflictError for an unknown account, or if it already has an active subscription for
        that service, on any plan: only one would apply, but both would be billed.
        """
        now = self.clock()
        price = self._price(plan)
        async with self.store.write() as connection:
            profile = await self.notices.profiles.get_in(connection, account)
            await self.refuse_second(connection, account, service)
            period = period_of(now, price.period, ZoneInfo(profile.zone))
            length = self._plan(plan).price
            trial_for = length.trial if trial and length is not None else None
            if trial_for is not None and await self.was_on(connection, account, plan):
                trial_for = None
            fee = bool(fee_due(price, period, now))
            state = State.INCOMPLETE if fee else State.ACTIVE
            paid, ends, expires = (now if fee else period.end), None, None
            if trial_for is not None:
                state = State.TRIALING
                paid = ends = now + seconds(trial_for)
            elif fee:
                expires = now + seconds(self.billing.grace.incomplete)
            made = Subscription(
                id=new_id("sub"),
                account=account,
                plan=plan,
                service=service,
                state=state,
                zone=profile.zone,
                period=price.period,
                period_start=period.start,
                period_end=period.end,
                trial_ends=ends,
                paid_through=paid,
                expires=expires,
                has_method=profile.has_method or not price.micros,
                created=now,
                updated=now,
            )
            made = self.scheduled(made, now)
            await connection.execute(sa.insert(subscriptions).values(values_of(made)))
            await self.record(connection, made, "created", "", now, plan)
            if state is State.INCOMPLETE:
                await self._bill(connection, made, price, now)
        await self.changed(account)
        return made

    # ---- changing -----------------------------------------------------------------------

    @serialized
    async def apply(self, ident: str, event: Event, note: str = "") -> Subscription:
        """Apply an event now. Raises NotFoundError, IllegalTransition."""
        async with self.store.write() as connection:
            changed = await self.apply_in(connection, ident, event, note=note)
        await self.changed(changed.account)
        return changed

    async def apply_in(
        self,
        connection: AsyncConnection,
        ident: str,
        event: Event,
        *,
        note: str = "",
        paid_through: datetime | None = None,
        grace_ends: datetime | None = None,
    ) -> Subscription:
        """The same in the caller's transaction; the caller tells the listeners afterwards."""
        now = self.clock()
        found = await self.get_in(connection, ident, lock=True)
        found = await self._catch_up(connection, found, now)
        if event is Event.RESUME and found.state is State.CANCELED:
            await self.refuse_second(connection, found.account, found.service, found.id)
        if grace_ends is None:
            grace_ends = now + self.grace_of(found.plan)
        return await self._step(
            connection, found, event, now, note, paid_through=paid_through, grace_ends=grace_ends
        )

    @serialized
    async def advance(self, ident: str) -> Subscription:
        """Apply everything that is due by time. Raises NotFoundError."""
        async with self.store.write() as connection:
            found = await self.get_in(connection, ident, lock=True)
            now = self.clock()
            changed = await self._catch_up(connection, found, now)
            changed = await self.save(connection, self.scheduled(changed, now))
        await self.changed(changed.account)
        return changed

    @serialized
    async def cancel(self, ident: str, *, at_period_end: bool = True) -> Subscription:
        """End it with its period, or at once (access lasts until the end of the paid time)."""
        event = Event.CANCEL_AT_PERIOD_END if at_period_end else Event.CANCEL
        async with self.store.write() as connection:
            changed = await self.apply_in(connection, ident, event)
            if event is Event.CANCEL:
                await self._give_up_invoices(connection, changed, self.clock())
        await self.changed(changed.account)
        return changed

    @serialized
    async def change_plan(self, ident: str, plan: str) -> Changed:
        """Change to another plan now; the unused part of what was paid is deducted.

        In effect at once, before anything is paid. Raises NotFoundError for the plan,
        IllegalTransition when the subscription is over.
        """
        now = self.clock()
        new = self._price(plan)
        async with self.store.write() as connection:
            found = await self.get_in(connection, ident, lock=True)
            found = await self._catch_up(connection, found, now)
            step(found, Event.PLAN_CHANGED, now)
            if found.plan == plan:
                return Changed(found, None)
            if found.state is State.TRIALING:
                free = (
                    not new.micros
                    or (await self.notices.profiles.get_in(connection, found.account)).has_method
                )
                changed = msgspec.structs.replace(
                    found, plan=plan, period=new.period, has_method=free
                )
                document = None
            else:
                changed, document = await self._exchange(connection, found, plan, new, now)
            note = change_note(found.plan, plan)
            changed = await self._step(connection, changed, Event.PLAN_CHANGED, now, note)
            if document is None and found.state in (State.PAST_DUE, State.GRACE):
                changed = await self._step(connection, changed, Event.PAYMENT_SUCCEEDED, now, "")
        await self.changed(changed.account)
        return Changed(changed, document)

    async def paid_by(self, connection: AsyncConnection, invoice: Invoice) -> Subscription | None:
        """The subscription of an invoice, if it is paid up to a moment of the invoice's time."""
        start, end = invoice.period_start, invoice.period_end
        if invoice.subscription is None or start is None or end is None:
            return None
        found = await self.get_in(connection, invoice.subscription, lock=True)
        found = await self._catch_up(connection, found, self.clock())
        return found if start < found.paid_through <= end else None

    async def unpaid_in(
        self, connection: AsyncConnection, found: Subscription, invoice: Invoice
    ) -> None:
        """The fee of the invoice that pays for it was returned: its time is not paid for."""
        through = invoice.period_start or found.paid_through
        await self.save(connection, msgspec.structs.replace(found, paid_through=through))

    async def end_in(
        self, connection: AsyncConnection, found: Subscription, invoice: Invoice
    ) -> None:
        """The fee of the invoice that pays for it was refunded and still counts as paid: it ends
        now, unless it has ended."""
        if self._price_or_none(found.plan) is not None:
            now = self.clock()
            stands = await plan_change.standing(connection, found, self._price_or_none, now)
            await plan_change.give_back_rest(connection, self.invoices, found, stands, invoice)
        await self.unpaid_in(connection, found, invoice)
        if (found.state, Event.CANCEL) in TRANSITIONS:
            found = await self.apply_in(connection, found.id, Event.CANCEL, note=invoice.number)
            await self._give_up_invoices(connection, found, self.clock())

    async def _exchange(
        self,
        connection: AsyncConnection,
        found: Subscription,
        plan: str,
        new: Flat,
        now: datetime,
    ) -> tuple[Subscription, Invoice | None]:
        """Settle up for the old plan; invoice or credit the difference."""
        await self._void_invoices(connection, found, now)
        old = self._price(found.plan)
        stands = await plan_change.standing(connection, found, self._price_or_none, now)
        plan_change.refuse_currency(found, stands, old, new)
        runs = (
            new.period == found.period and now < found.period_end
        )  # a subscription that owes is not renewed
        kept = found.current if runs else None
        ahead = kept or period_of(now, new.period, ZoneInfo(found.zone))
        charge = proration.unused(new.micros, ahead, now)
        lines = plan_change.lines_of(found, plan, stands, charge)
        net = sum(line.micros for line in lines)
        if abs(net) < coin(new.currency):
            net = 0  # less than a coin is neither invoiced nor credited
        changed = msgspec.structs.replace(
            found,
            plan=plan,
            period=new.period,
            period_start=ahead.start,
            period_end=ahead.end,
            paid_through=now if net > 0 else ahead.end,
        )
        await plan_change.forget_carried(connection, plan_change.of_subscription(found.id))
        if not net:
            await plan_change.settled(connection, found.id, stands.paid_with)
            return changed, None
        kind = DocumentKind.INVOICE if net > 0 else DocumentKind.CREDIT
        if net < 0:
            lines = [InvoiceLine(line.text, -line.micros) for line in lines]
        draft = Draft(
            key=f"change:{found.id}:{found.version}",
            kind=kind,
            account=found.account,
            subscription=found.id,
            currency=new.currency,
            lines=lines,
            period_start=now,
            period_end=ahead.end,
        )
        document = await self.invoices.issue_in(connection, draft)
        carries = stands.unused + stands.carried - stands.owed
        drawn = document.total if net < 0 else carries
        await fees.draw(connection, document.id, drawn, stands.paid_with)
        await plan_change.settled(connection, found.id, stands.paid_with)
        if kind is DocumentKind.INVOICE:
            grace = found.grace_ends or now + self.grace_of(plan)
            await open_case(connection, document, grace, now)
        return changed, document

    @serialized
    async def method_changed(self, account: str, present: bool) -> None:
        """A payment method was attached, or the last one detached."""
        event = Event.METHOD_ATTACHED if present else Event.METHOD_DETACHED
        await self.notices.profiles.update(account, has_method=present)
        for one in await self.of_account(account):
            async with self.store.write() as connection:
                if not present and self.fee_currency(one.plan) is None:
                    continue
                changed = await self.apply_in(connection, one.id, event)
                if present and changed.wants_method:
                    await self._restart(connection, changed)
        await self.changed(account)

    async def _restart(self, connection: AsyncConnection, paused: Subscription) -> None:
        """A trial ended with nothing to pay with, and now there is: invoice from now."""
        now = self.clock()
        await self._void_invoices(connection, paused, now)  # of an earlier method, which failed
        price = self._price(paused.plan)
        period = period_of(now, price.period, ZoneInfo(paused.zone))
        again = msgspec.structs.replace(
            paused, period_start=period.start, period_end=period.end, paid_through=now
        )
        again = await self.save(connection, again)
        if not await self._bill(connection, again, price, now):
            await self._step(connection, again, Event.PAYMENT_SUCCEEDED, now, "")

    @serialized
    async def adopt(self, provider: str, theirs: ProviderSubscription) -> Subscription | None:
        """Copy a subscription's state from a payment provider. None if its account or plan is
        unknown here. The provider decides; the table of transitions is not used.
        """
        if not theirs.account or self.plans(theirs.plan) is None:
            return None
        now = self.clock()
        async with self.store.write() as connection:
            rows = await connection.execute(
                sa.select(subscriptions)
                .where(subscriptions.c.reference == theirs.reference)
                .with_for_update()
            )
            row = rows.one_or_none()
            before = subscription_of(row) if row is not None else None
            adopted = await self._theirs(connection, provider, theirs, before, now)
            if before is None:
                await connection.execute(sa.insert(subscriptions).values(values_of(adopted)))
            else:
                adopted = await self.save(connection, adopted)
            was = before.state.value if before is not None else ""
            if was != adopted.state.value:
                await self.record(connection, adopted, "adopted", was, now, theirs.status)
        await self.changed(adopted.account)
        return adopted

    async def _theirs(
        self,
        connection: AsyncConnection,
        provider: str,
        theirs: ProviderSubscription,
        before: Subscription | None,
        now: datetime,
    ) -> Subscription:
        state = State(theirs.state.value)
        if state is State.PAST_DUE and not theirs.grace:
            state = State.GRACE
        grace = before.grace_ends if before is not None else None
        if state is State.PAST_DUE:
            grace = grace or now + self.grace_of(theirs.plan)
        elif state is State.GRACE:
            grace = min(grace or now, now)
        else:
            grace = None
        profile = await self.notices.profiles.get_in(connection, theirs.account)
        kind = self._price(theirs.plan).period
        period = period_of(now, kind, ZoneInfo(profile.zone))
        end = theirs.paid_through if theirs.paid_through and theirs.paid_through > now else None
        adopted = Subscription(
            id=before.id if before is not None else new_id("sub"),
            account=theirs.account,
            plan=theirs.plan,
            service=theirs.service or None,
            state=state,
            zone=profile.zone,
            period=kind,
            period_start=period.start,
            period_end=end or period.end,
            trial_ends=theirs.trial_ends,
            paid_through=theirs.paid_through or now,
            grace_ends=grace,
            cancel_at_period_end=theirs.cancel_at is not None,
            has_method=True,
            provider=provider,
            reference=theirs.reference,
            created=before.created if before is not None else now,
            updated=now,
            version=before.version if before is not None else 1,
        )
        return self.scheduled(adopted, now)

    # ---- steps --------------------------------------------------------------------------

    async def _catch_up(
        self, connection: AsyncConnection, found: Subscription, now: datetime
    ) -> Subscription:
        while (due := due_event(found, now)) is not None:
            event, at = due
            found = await self._step(connection, found, event, at, "")
            if event in (Event.RENEWED, Event.TRIAL_ENDED):
                found = await self._owe(connection, found, at)
            elif event is not Event.TRIAL_ENDED_UNPAID and found.state is State.EXPIRED:
                await self._give_up_invoices(connection, found, now)
        return found

    async def _step(
        self,
        connection: AsyncConnection,
        found: Subscription,
        event: Event,
        at: datetime,
        note: str,
        **moments: datetime | None,
    ) -> Subscription:
        grace = moments.get("grace_ends")
        expires = grace + seconds(self.billing.grace.unpaid) if grace is not None else None
        changed = step(
            found,
            event,
            at,
            grace_ends=grace,
            expires=expires,
            paid_through=moments.get("paid_through"),
        )
        if event is Event.RESUME:
            changed = await self._resumed(connection, changed, at)
        elif event is Event.PAYMENT_SUCCEEDED and changed.state is State.ACTIVE:
            changed = await self._owe(connection, changed, changed.period_start)
        changed = await self.save(connection, self.scheduled(changed, self.clock()))
        await self.record(connection, changed, event.value, found.state.value, at, note)
        if changed.state is not found.state:
            await self._announce(connection, changed, at)
        return changed

    async def _announce(
        self, connection: AsyncConnection, changed: Subscription, at: datetime
    ) -> None:
        kinds = {State.PAUSED: "subscription.paused", State.EXPIRED: "subscription.expired"}
        kind = kinds.get(changed.state)
        if kind is None or (changed.state is State.PAUSED and not changed.wants_method):
            return
        data = {"subject": changed.plan, "date": self.day(at, changed.zone)}
        await self.notices.put_in(
            connection,
            Message(
                kind=kind,
                account=changed.account,
                key=f"{changed.state.value}:{changed.id}:{at.isoformat()}",
                data=data,
            ),
        )

    # ---- listeners ----------------------------------------------------------------------

    async def changed(self, account: str) -> None:
        """Notify the listeners that an account's subscriptions have changed."""
        for listener in self.on_change:
            await listener(account)
