"""The outbox: every notice is sent once through each of its channels.

```
            claim: next_at := now + lease           sent ──▶ sent
pending ───────────────────────────────▶ (sending) ─┤
   ▲                                                ├─ not accepted ─▶ pending, next_at := back-off
   └── the lease runs out: the sender died          └─ never / too often ──▶ failed
```

A row is claimed by moving its `next_at`, on condition that no other process has moved it, so two
gateways on one database never send the same row at once. If a process is killed after the mail
server accepted a message and before we recorded it, the message is sent again after the lease, with
the same id (`Message-ID`, `FastGate-Id`), by which receivers drop it.

Back-off: 30 s, doubled for each try, at most 6 h. `notices.retries` limits the tries; after the
last one the row is `failed` and shows operators the last error.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import msgspec
import sqlalchemy as sa

from fastgate.billing.payments.base import Clock
from fastgate.errors import FastGateError
from fastgate.model.billing import Billing
from fastgate.store.billing_tables import notices, outbox
from fastgate.store.engine import Store

LEASE = timedelta(minutes=2)
FIRST, MOST = timedelta(seconds=30), timedelta(hours=6)
BATCH = 50
COLUMNS: tuple[sa.Column[Any], ...] = (
    outbox.c.id,
    outbox.c.channel,
    outbox.c.target,
    notices.c.account,
    notices.c.kind,
    notices.c.title,
    notices.c.body,
    notices.c.data,
    notices.c.created,
    outbox.c.attempts,
)
"""Of an `Outgoing`."""

DELIVERY_DUE = sa.and_(outbox.c.state == "pending", outbox.c.next_at <= sa.bindparam("now"))
"""The rows to send."""


class DeliveryError(FastGateError):
    """A notice was not accepted. `permanent`: trying again would not help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class Outgoing(NamedTuple):
    """A notice on one of its channels."""

    id: str
    """The same for every try."""
    channel: str
    target: str
    """A mail address, or the name of a webhook."""
    account: str
    kind: str
    title: str
    body: str
    data: dict[str, str]
    created: datetime
    """When the notice was created."""
    attempts: int
    """The number of this try, from 1."""


class Sender(Protocol):
    """One channel."""

    async def send(self, outgoing: Outgoing) -> None:
        """Return once it was accepted. Raises DeliveryError."""


class Delivered(NamedTuple):
    """The result of one run of the outbox."""

    sent: int
    again: int
    failed: int


def backoff(attempts: int) -> timedelta:
    """The delay between try number `attempts`, from 1, and the next one."""
    return min(FIRST * (1 << min(attempts - 1, 20)), MOST)


class Outbox:
    """Sends the rows that are due. Methods may raise StoreError."""

    def __init__(
        self, store: Store, clock: Clock, billing: Billing, senders: Mapping[str, Sender]
    ) -> None:
        """`senders`: by channel, `mail` and `webhook`."""
        self.store = store
        self.clock = clock
        self.retries = billing.notices.retries
        self.senders = senders

    async def deliver(self, limit: int = BATCH) -> Delivered:
        """One try for each row that is due, the longest due first."""
        sent = again = failed = 0
        for outgoing in await self._claim(limit):
            try:
                await self._send(outgoing)
            except DeliveryError as error:
                if error.permanent or outgoing.attempts > self.retries:
                    await self._note(outgoing.id, "failed", None, str(error))
                    failed += 1
                else:
                    at = self.clock() + backoff(outgoing.attempts)
                    await self._note(outgoing.id, "pending", at, str(error))
                    again += 1
            else:
                await self._note(outgoing.id, "sent", None, "")
                sent += 1
        return Delivered(sent, again, failed)

    async def _send(self, outgoing: Outgoing) -> None:
        sender = self.senders.get(outgoing.channel)
        if sender is None:
            raise DeliveryError(f"Sending by {outgoing.channel} is not configured.")
        await sender.send(outgoing)

    async def _claim(self, limit: int) -> list[Outgoing]:
        now = self.clock()
        due = (
            sa.select(outbox.c.id)
            .where(DELIVERY_DUE)
            .order_by(outbox.c.next_at, outbox.c.id)
            .limit(limit)
        )
        if self.store.kind == "postgresql":
            due = due.with_for_update(skip_locked=True)
        async with self.store.write() as connection:
            ids = list((await connection.execute(due, {"now": now})).scalars())
            if not ids:
                return []
            await connection.execute(
                sa.update(outbox)
                .where(outbox.c.id.in_(ids))
                .values(next_at=now + LEASE, attempts=outbox.c.attempts + 1)
            )
            rows = await connection.execute(
                sa.select(*COLUMNS)
                .join(notices, notices.c.id == outbox.c.notice)
                .where(outbox.c.id.in_(ids))
                .order_by(outbox.c.id)
            )
            return [_outgoing(row) for row in rows]

    async def _note(self, ident: str, state: str, at: datetime | None, error: str) -> None:
        values: dict[str, Any] = {"state": state, "next_at": at, "error": error[:300]}
        if state != "pending":
            values["done_at"] = self.clock()
        async with self.store.write() as connection:
            await connection.execute(
                sa.update(outbox)
                .where(outbox.c.id == ident, outbox.c.state == "pending")
                .values(values)
            )

    async def counts(self) -> dict[str, int]:
        """The number of rows in each state."""
        query = sa.select(outbox.c.state, sa.func.count()).group_by(outbox.c.state)
        async with self.store.read() as connection:
            return {str(state): int(count) for state, count in await connection.execute(query)}

    async def retry(self, ident: str) -> bool:
        """Try a failed row again, now; False if there is no failed row with that id."""
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.update(outbox)
                .where(outbox.c.id == ident, outbox.c.state == "failed")
                .values(state="pending", attempts=0, next_at=self.clock(), done_at=None)
            )
        return bool(done.rowcount)


def _outgoing(row: sa.Row[Any]) -> Outgoing:
    values = row._asdict()
    values["data"] = msgspec.json.decode(values["data"], type=dict[str, str])
    return Outgoing(**values)
