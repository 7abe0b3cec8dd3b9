"""Notices to customers, each sent once.

```
put(message) ─┬─▶ notices   one row: read in the API, marked as read
              └─▶ outbox    a row for each address and each webhook that wants the kind
```

A message has a **key**, such as `reminder:<subscription>:<end>:7`; a unique constraint drops a
second message with the same key. So a caller may report something as often as it is noticed, also
after a crash. `put_in` works in the caller's transaction: an event and its notice are committed
together or not at all.

The text is filled in when the notice is created, and stored with it: the API shows the text that
was mailed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from fastgate.billing.payments.base import Clock
from fastgate.billing.profiles import Profiles
from fastgate.billing.templates import fill, holes
from fastgate.errors import NotFoundError
from fastgate.model.billing import Billing
from fastgate.refusal.remedies import PREFIX
from fastgate.store.billing_tables import notices, outbox
from fastgate.store.connection import AsyncConnection, insert_into
from fastgate.store.engine import Store
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of


class NoticeKind(NamedTuple):
    """A kind of notice; its text is the template with its name."""

    name: str
    manage: str = ""
    """The page, below the public address, where the customer can act on it."""

    @property
    def template(self) -> str:
        return f"{self.name}.txt"


ACCOUNT = f"{PREFIX}/account"

KINDS: dict[str, NoticeKind] = {
    kind.name: kind
    for kind in (
        NoticeKind("payment.succeeded"),
        NoticeKind("payment.failed", f"{ACCOUNT}/pay"),
        NoticeKind("payment.method_needed", f"{ACCOUNT}/payment-method"),
        NoticeKind("payment.action_required", f"{ACCOUNT}/pay"),
        NoticeKind("payment.recovered"),
        NoticeKind("subscription.grace", f"{ACCOUNT}/pay"),
        NoticeKind("subscription.suspended", f"{ACCOUNT}/pay"),
        NoticeKind("subscription.renewing", ACCOUNT),
        NoticeKind("subscription.ending", ACCOUNT),
        NoticeKind("subscription.trial_ending", f"{ACCOUNT}/payment-method"),
        NoticeKind("subscription.paused", f"{ACCOUNT}/payment-method"),
        NoticeKind("subscription.expired", f"{ACCOUNT}/renew"),
        NoticeKind("balance.low", f"{ACCOUNT}/top-up"),
        NoticeKind("balance.burning", f"{ACCOUNT}/top-up"),
        NoticeKind("usage.quota", f"{ACCOUNT}/plan"),
        NoticeKind("usage.spending", ACCOUNT),
        NoticeKind("recharge.failed", f"{ACCOUNT}/payment-method"),
        NoticeKind("recharge.stopped", f"{ACCOUNT}/payment-method"),
        NoticeKind("recharge.capped", f"{ACCOUNT}/top-up"),
    )
}
"""All kinds of notices."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A notice to send."""

    kind: str
    account: str
    key: str
    data: Mapping[str, str] = {}
    """The values of the template; sent to webhooks unchanged."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that was sent."""

    id: str
    key: str
    account: str
    kind: str
    title: str
    body: str
    data: dict[str, str]
    created: datetime
    read_at: datetime | None


def render(message: Message) -> tuple[str, str]:
    """Title and body. Raises KeyError for a kind or a value that is missing."""
    text = fill(KINDS[message.kind].template, **message.data)
    title, _, body = text.partition("\n")
    return " ".join(title.split())[:300], body.strip()


def needs(kind: str) -> frozenset[str]:
    """The values that a message of this kind must have."""
    return holes(KINDS[kind].template)


def wants(events: list[str], kind: str) -> bool:
    """Whether a webhook that lists these events receives the kind."""
    return not events or any(
        event == kind or (event.endswith(".*") and kind.startswith(event[:-1])) for event in events
    )


class Notices:
    """The notices in the store. Every method may raise StoreError."""

    def __init__(self, store: Store, clock: Clock, billing: Billing) -> None:
        self.store = store
        self.clock = clock
        self.billing = billing
        self.profiles = Profiles(store, clock, billing)

    async def put(self, message: Message) -> Notice | None:
        """Store it; None if it was stored before."""
        async with self.store.write() as connection:
            return await self.put_in(connection, message)

    async def put_in(self, connection: AsyncConnection, message: Message) -> Notice | None:
        """The same, within the transaction of the event."""
        now = self.clock()
        title, body = render(message)
        notice = Notice(
            id=new_id("ntc"),
            key=message.key[:200],
            account=message.account,
            kind=message.kind,
            title=title,
            body=body,
            data=dict(message.data),
            created=now,
            read_at=None,
        )
        values = msgspec.structs.asdict(notice)
        values["data"] = msgspec.json.encode(notice.data).decode()
        insert = insert_into(connection, notices).values(values).on_conflict_do_nothing()
        if (await connection.execute(insert)).rowcount == 0:
            return None
        rows = [
            {
                "id": new_id("out"),
                "notice": notice.id,
                "channel": channel,
                "target": target,
                "state": "pending",
                "attempts": 0,
                "next_at": now,
                "error": "",
                "created": now,
            }
            for channel, target in await self._ways(connection, notice)
        ]
        if rows:
            await connection.execute(sa.insert(outbox), rows)
        return notice

    async def _ways(self, connection: AsyncConnection, notice: Notice) -> list[tuple[str, str]]:
        ways = [
            ("webhook", webhook.name)
            for webhook in self.billing.webhooks
            if wants(webhook.events, notice.kind)
        ]
        if self.billing.smtp is not None:
            profile = await self.profiles.get_in(connection, notice.account)
            ways += [("mail", address) for address in dict.fromkeys(profile.emails)]
        return ways

    # ---- in-app -------------------------------------------------------------------------

    async def page(
        self, account: str, *, cursor: str | None, limit: int, unread: bool = False
    ) -> Page[Notice]:
        """An account's notices, the newest first."""
        query = sa.select(notices).where(notices.c.account == account)
        if unread:
            query = query.where(notices.c.read_at.is_(None))
        if cursor is not None:
            query = query.where(notices.c.id < decode_cursor(cursor, str))
        query = query.order_by(notices.c.id.desc()).limit(limit + 1)
        async with self.store.read() as connection:
            rows = (await connection.execute(query)).all()
        return page_of([_notice(row) for row in rows], limit, lambda one: one.id)

    async def unread(self, account: str) -> int:
        """The number of notices that the account has not read."""
        query = (
            sa.select(sa.func.count())
            .select_from(notices)
            .where(notices.c.account == account, notices.c.read_at.is_(None))
        )
        async with self.store.read() as connection:
            return int(await connection.scalar(query) or 0)

    async def mark_read(self, account: str, ident: str) -> Notice:
        """Mark it as read; only the first time is recorded. Raises NotFoundError."""
        mine = sa.and_(notices.c.id == ident, notices.c.account == account)
        async with self.store.write() as connection:
            await connection.execute(
                sa.update(notices)
                .where(mine, notices.c.read_at.is_(None))
                .values(read_at=self.clock())
            )
            row = (await connection.execute(sa.select(notices).where(mine))).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no notice {ident!r}.")
        return _notice(row)

    async def prune(self) -> int:
        """Delete notices that are older than configured and no longer being sent. Returns how
        many."""
        before = self.clock() - timedelta(microseconds=self.billing.notices.keep.ns // 1000)
        under_way = sa.select(outbox.c.notice).where(outbox.c.state == "pending")
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.delete(notices).where(notices.c.created < before, notices.c.id.not_in(under_way))
            )
        return int(done.rowcount)


def _notice(row: sa.Row[Any]) -> Notice:
    values = row._asdict()
    values["data"] = msgspec.json.decode(values["data"], type=dict[str, str])
    return Notice(**values)
