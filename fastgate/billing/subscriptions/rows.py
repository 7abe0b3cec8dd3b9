"""The tables of subscriptions as rows in and structs out; what holds for them is elsewhere.

`subscriptions` (the rules) builds on this. Writing here takes the caller's transaction, and a row
that is to be changed is read under lock first.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from fastgate.billing.payments.base import Clock
from fastgate.billing.subscriptions.lifecycle import Event, State, Subscription, settled
from fastgate.billing.subscriptions.reminders import next_look
from fastgate.errors import ConflictError, NotFoundError
from fastgate.model.billing import Billing
from fastgate.store.billing_tables import subscription_events, subscriptions
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of

SUBSCRIPTION_DUE = subscriptions.c.next_at <= sa.bindparam("now")
"""The states that can change with time."""


class HistoryEvent(NamedTuple):
    """One step in a subscription's life."""

    at: datetime
    event: str
    before: str
    after: str
    note: str


def change_note(before: str, after: str) -> str:
    """The note of a change of plan, as `plans_of` reads it."""
    return f"{before}{_TO}{after}"


def plans_of(note: str) -> list[str]:
    """The plans that the note of an event names: of a change, the one before and the one after."""
    return note.split(_TO)


_TO = " to "


class SubscriptionRows:
    """The two tables. Methods may raise StoreError."""

    def __init__(self, store: Store, clock: Clock, billing: Billing) -> None:
        self.store = store
        self.clock = clock
        self.billing = billing

    async def get(self, ident: str) -> Subscription:
        """Raises NotFoundError."""
        async with self.store.read() as connection:
            return await self.get_in(connection, ident)

    async def of_account(self, account: str) -> list[Subscription]:
        """All of an account, the oldest first."""
        query = (
            sa.select(subscriptions)
            .where(subscriptions.c.account == account)
            .order_by(subscriptions.c.id)
        )
        async with self.store.read() as connection:
            return [subscription_of(row) for row in await connection.execute(query)]

    async def page(self, *, cursor: str | None, limit: int) -> Page[Subscription]:
        """All there are, the oldest first."""
        query = sa.select(subscriptions)
        if cursor is not None:
            query = query.where(subscriptions.c.id > decode_cursor(cursor, str))
        query = query.order_by(subscriptions.c.id).limit(limit + 1)
        async with self.store.read() as connection:
            rows = (await connection.execute(query)).all()
        return page_of([subscription_of(row) for row in rows], limit, lambda one: one.id)

    async def history(self, ident: str) -> list[HistoryEvent]:
        """Every step of its life, the first first."""
        query = (
            sa.select(subscription_events)
            .where(subscription_events.c.subscription == ident)
            .order_by(subscription_events.c.id)
        )
        async with self.store.read() as connection:
            return [
                HistoryEvent(row.at, row.event, row.before, row.after, row.note)
                for row in await connection.execute(query)
            ]

    async def due(self, limit: int = 100) -> list[str]:
        """Ids of the subscriptions that are due now."""
        query = (
            sa.select(subscriptions.c.id)
            .where(SUBSCRIPTION_DUE)
            .order_by(subscriptions.c.next_at, subscriptions.c.id)
            .limit(limit)
        )
        async with self.store.read() as connection:
            return list((await connection.execute(query, {"now": self.clock()})).scalars())

    def scheduled(self, found: Subscription, now: datetime) -> Subscription:
        """The same, with the moment at which to look again."""
        days = self.billing.notices.renewal_days
        return msgspec.structs.replace(found, next_at=next_look(found, days, now))

    async def get_in(
        self, connection: AsyncConnection, ident: str, *, lock: bool = False
    ) -> Subscription:
        """The same in the caller's transaction; `lock`: until its end."""
        query = sa.select(subscriptions).where(subscriptions.c.id == ident)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no subscription {ident!r}.")
        return subscription_of(row)

    async def was_on(self, connection: AsyncConnection, account: str, plan: str) -> bool:
        """Whether the account has ever had a subscription to the plan, ended ones included."""
        rows = await connection.execute(
            sa.select(subscriptions.c.plan, subscription_events.c.event, subscription_events.c.note)
            .outerjoin(
                subscription_events,
                sa.and_(
                    subscription_events.c.subscription == subscriptions.c.id,
                    subscription_events.c.event.in_(["created", Event.PLAN_CHANGED.value]),
                ),
            )
            .where(subscriptions.c.account == account)
        )
        # What it was made for, and both plans of each change.
        return any(plan == now or (note and plan in plans_of(note)) for now, _, note in rows)

    async def refuse_second(
        self,
        connection: AsyncConnection,
        account: str,
        service: str | None,
        but: str = "",
    ) -> None:
        """Raise ConflictError when another subscription (not `but`) continues for the service."""
        query = sa.select(subscriptions).where(
            subscriptions.c.account == account,
            subscriptions.c.id != but,
            subscriptions.c.service.is_(None)
            if service is None
            else subscriptions.c.service == service,
            subscriptions.c.state.not_in([State.EXPIRED.value, State.CANCELED.value]),
        )
        for row in await connection.execute(query):
            other = settled(subscription_of(row), self.clock())
            if other.state not in (State.EXPIRED, State.CANCELED):
                what = "all services" if service is None else f"the service {service!r}"
                raise ConflictError(
                    f"The account has a subscription for {what} already, to the plan "
                    f"{other.plan!r} ({other.id}). Change its plan, or cancel it first."
                )

    async def save(self, connection: AsyncConnection, changed: Subscription) -> Subscription:
        """Write a row that was read under lock."""
        saved = msgspec.structs.replace(changed, version=changed.version + 1)
        await connection.execute(
            sa.update(subscriptions).where(subscriptions.c.id == saved.id).values(values_of(saved))
        )
        return saved

    async def record(
        self,
        connection: AsyncConnection,
        changed: Subscription,
        event: str,
        before: str,
        at: datetime,
        note: str,
    ) -> None:
        """Write a step into its history."""
        await connection.execute(
            sa.insert(subscription_events).values(
                id=new_id("sev"),
                subscription=changed.id,
                at=at,
                event=event,
                before=before,
                after=changed.state.value,
                note=note[:500],
            )
        )


def values_of(subscription: Subscription) -> dict[str, Any]:
    return msgspec.structs.asdict(subscription) | {"state": subscription.state.value}


def subscription_of(row: sa.Row[Any]) -> Subscription:
    values = row._asdict()
    values["state"] = State(values["state"])
    return Subscription(**values)
