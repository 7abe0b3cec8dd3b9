"""Events from payment providers as rows: each once, by the provider's event id.

```
(none) ──add──▶ waiting ──done──▶ done
                 │  ▲ └──give_up──▶ given_up ──revive──▶ waiting
             claim  again (next_at)
```

`claim` moves `next_at` forward by a lease: if a process dies while working on an event, another
takes it after the lease, and two processes never work on the same event. Done rows are kept for as
long as providers may repeat events, then pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.store.engine import Store
from fastgate.store.pages import Page, decode_cursor, page_of
from fastgate.store.payment_tables import payment_cursors, payment_events
from fastgate.store.payments import insert_new

CHUNK = 500
"""Maximum rows of one INSERT: SQLite limits a statement's parameters."""


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One notification and the state of its processing."""

    provider: str
    id: str
    type: str
    object: str
    hint: str = ""
    created: datetime
    received: datetime
    source: str
    state: str = "waiting"
    attempts: int = 0
    next_at: datetime | None = None
    error: str = ""
    done_at: datetime | None = None


class Backlog(msgspec.Struct, frozen=True):
    """The waiting events: how many, the time of the oldest, and how many were given up."""

    waiting: int
    oldest: datetime | None
    given_up: int


def _event(row: sa.Row[Any]) -> EventRow:
    return EventRow(**row._asdict())


def _is(provider: str, ident: str) -> sa.ColumnElement[bool]:
    return sa.and_(payment_events.c.provider == provider, payment_events.c.id == ident)


class EventTable:
    """The table as operations. All raise StoreError while the store is unavailable."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(self, events: Sequence[EventRow]) -> list[str]:
        """Store the new ones. Returns their ids."""
        fresh: list[str] = []
        async with self.store.write() as connection:
            for start in range(0, len(events), CHUNK):
                rows = [msgspec.structs.asdict(event) for event in events[start : start + CHUNK]]
                fresh += [str(key.id) for key in await insert_new(connection, payment_events, rows)]
        return fresh

    async def claim(self, now: datetime, lease: timedelta, limit: int) -> list[EventRow]:
        """Claim the due events, oldest first, for the time of the lease."""
        async with self.store.write() as connection:
            due = (
                sa.select(payment_events)
                .where(payment_events.c.next_at <= now)
                .order_by(payment_events.c.created, payment_events.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            found = [_event(row) for row in await connection.execute(due)]
            claimed = []
            for event in found:
                taken = msgspec.structs.replace(
                    event, attempts=event.attempts + 1, next_at=now + lease
                )
                await connection.execute(
                    sa.update(payment_events)
                    .where(_is(event.provider, event.id))
                    .values(attempts=taken.attempts, next_at=taken.next_at)
                )
                claimed.append(taken)
        return claimed

    async def done(self, event: EventRow, now: datetime) -> None:
        await self._set(event, state="done", next_at=None, done_at=now, error="")

    async def again(self, event: EventRow, at: datetime, error: str) -> None:
        await self._set(event, next_at=at, error=error[:500])

    async def give_up(self, event: EventRow, now: datetime, error: str) -> None:
        await self._set(event, state="given_up", next_at=None, done_at=now, error=error[:500])

    async def revive(self, provider: str, ident: str, now: datetime) -> bool:
        """Have it processed again, in any state; False if there is no such event."""
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.update(payment_events)
                .where(_is(provider, ident))
                .values(state="waiting", next_at=now, attempts=0, done_at=None)
            )
        return done.rowcount == 1

    async def _set(self, event: EventRow, **values: Any) -> None:
        async with self.store.write() as connection:
            await connection.execute(
                sa.update(payment_events).where(_is(event.provider, event.id)).values(**values)
            )

    async def get(self, provider: str, ident: str) -> EventRow | None:
        async with self.store.read() as connection:
            query = sa.select(payment_events).where(_is(provider, ident))
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _event(row)

    async def page(
        self, provider: str, *, state: str | None = None, cursor: str | None = None, limit: int
    ) -> Page[EventRow]:
        """A provider's events by id. Raises BadCursor."""
        query = (
            sa.select(payment_events)
            .where(payment_events.c.provider == provider)
            .order_by(payment_events.c.id)
            .limit(limit + 1)
        )
        if state is not None:
            query = query.where(payment_events.c.state == state)
        if cursor is not None:
            query = query.where(payment_events.c.id > decode_cursor(cursor, str))
        async with self.store.read() as connection:
            rows = [_event(row) for row in await connection.execute(query)]
        return page_of(rows, limit, lambda event: event.id)

    async def backlog(self) -> dict[str, Backlog]:
        """By provider."""
        waiting = payment_events.c.state == "waiting"
        query = (
            sa.select(
                payment_events.c.provider,
                sa.func.sum(sa.case((waiting, 1), else_=0)),
                sa.func.min(sa.case((waiting, payment_events.c.received))),
                sa.func.sum(sa.case((payment_events.c.state == "given_up", 1), else_=0)),
            )
            .where(payment_events.c.state != "done")
            .group_by(payment_events.c.provider)
        )
        async with self.store.read() as connection:
            return {
                provider: Backlog(int(count), oldest, int(lost))
                for provider, count, oldest, lost in await connection.execute(query)
            }

    async def prune(self, before: datetime) -> int:
        """Delete the events that were done before that time. Returns how many."""
        async with self.store.write() as connection:
            gone = await connection.execute(
                sa.delete(payment_events).where(
                    payment_events.c.state == "done", payment_events.c.received < before
                )
            )
        return gone.rowcount

    async def read_to(self, provider: str) -> datetime | None:
        """The time up to which the provider's own list has been read."""
        query = sa.select(payment_cursors.c.read_to).where(payment_cursors.c.provider == provider)
        async with self.store.read() as connection:
            found: datetime | None = await connection.scalar(query)
        return found

    async def set_read_to(self, provider: str, at: datetime, now: datetime) -> None:
        async with self.store.write() as connection:
            values = {"provider": provider, "read_to": at, "updated": now}
            if not await insert_new(connection, payment_cursors, [values]):
                await connection.execute(
                    sa.update(payment_cursors)
                    .where(payment_cursors.c.provider == provider)
                    .values(values)
                )
