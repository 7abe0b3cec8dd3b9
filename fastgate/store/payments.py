"""Payments as rows: customers of providers, attempted charges, payments, returns, and grace.

```
attempt   (none) ─open─▶ sent ─settle─▶ succeeded | failed | action_required
                          └──settle──▶ pending ─settle─▶ …          next_at: look again then
return    contested ─▶ returned (lost) | kept (won)          a refund is returned at once
grace     opening ─▶ open ─▶ closing ─▶ ended      a step is written before and after the wallet's
                                                   limit is changed, so a crash is seen and repaired
```

Rows in, structs out; `fastgate.billing.payments` interprets them. Amounts are whole micro-units,
times aware and UTC. All raise StoreError while the store is unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.store.connection import AsyncConnection, insert_into
from fastgate.store.engine import Store
from fastgate.store.payment_tables import (
    RETURNS_OF_PAYMENTS,
    payment_attempts,
    payment_customers,
    payment_grace,
    payment_returns,
    payments,
)

Clock = Callable[[], datetime]

_MOST = {"message": 500, "code": 100, "subject": 200, "cause": 200}
"""Maximum lengths of text from outside."""


async def insert_new(
    connection: AsyncConnection, table: sa.Table, rows: Sequence[dict[str, Any]]
) -> list[sa.Row[Any]]:
    """Insert the rows that do not exist yet. Returns the primary keys of the inserted rows."""
    if not rows:
        return []
    statement = insert_into(connection, table).values(list(rows)).on_conflict_do_nothing()
    found = await connection.execute(statement.returning(*table.primary_key.columns))
    return list(found)


# ---- customers --------------------------------------------------------------------------


class CustomerTable:
    """Maps customers of a provider to our accounts: one to one, permanently."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock

    async def customer_of(self, provider: str, account: str) -> str | None:
        """The provider's id for our account."""
        return await self._find("customer", provider=provider, account=account)

    async def account_of(self, provider: str, customer: str) -> str | None:
        """Our account behind the provider's id."""
        return await self._find("account", provider=provider, customer=customer)

    async def _find(self, what: str, **where: str) -> str | None:
        if not all(value.isprintable() for value in where.values()):
            return None
        query = sa.select(payment_customers.c[what]).filter_by(**where)
        async with self.store.read() as connection:
            value = await connection.scalar(query)
        return None if value is None else str(value)

    async def link(self, provider: str, account: str, customer: str) -> str:
        """Store the pair, unless the account already has a customer, which then stays.

        Raises ConflictError if the customer belongs to another account.
        """
        async with self.store.write() as connection:
            mine = sa.and_(
                payment_customers.c.provider == provider, payment_customers.c.account == account
            )
            known = await connection.scalar(sa.select(payment_customers.c.customer).where(mine))
            if known is not None:
                return str(known)
            await connection.execute(
                sa.insert(payment_customers).values(
                    provider=provider, account=account, customer=customer, created=self._clock()
                )
            )
        return customer


# ---- attempts ---------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One charge of a saved method, under one idempotency key, at one provider."""

    key: str
    account: str
    provider: str
    currency: str
    amount: int
    purpose: str
    subject: str = ""
    state: str = "sent"
    reference: str = ""
    decline: str = ""
    code: str = ""
    message: str = ""
    action_url: str = ""
    created: datetime
    updated: datetime
    next_at: datetime | None = None


class AttemptTable:
    """Attempted charges; a row is written before anything is sent."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def open(self, attempt: Attempt) -> tuple[Attempt, bool]:
        """Insert it, or find the existing row. Returns the row, and whether it is new."""
        async with self.store.write() as connection:
            fresh = await insert_new(connection, payment_attempts, [_row(attempt)])
            if fresh:
                return attempt, True
            query = sa.select(payment_attempts).where(payment_attempts.c.key == attempt.key)
            return _attempt((await connection.execute(query)).one()), False

    async def get(self, key: str) -> Attempt | None:
        if not key.isprintable():
            return None
        async with self.store.read() as connection:
            query = sa.select(payment_attempts).where(payment_attempts.c.key == key)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _attempt(row)

    async def move(self, attempt: Attempt, *, before: Attempt) -> bool:
        """Replace `before` by `attempt`; False if the row has changed in the meantime."""
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.update(payment_attempts)
                .where(
                    payment_attempts.c.key == before.key,
                    payment_attempts.c.state == before.state,
                    payment_attempts.c.provider == before.provider,
                    payment_attempts.c.updated == before.updated,
                )
                .values(_row(attempt))
            )
        return done.rowcount == 1

    async def due(self, now: datetime, limit: int = 100) -> list[Attempt]:
        """The attempts that are due to be looked up."""
        query = (
            sa.select(payment_attempts)
            .where(payment_attempts.c.next_at <= now)
            .order_by(payment_attempts.c.next_at)
            .limit(limit)
        )
        async with self.store.read() as connection:
            return [_attempt(row) for row in await connection.execute(query)]

    async def of_account(self, account: str, limit: int = 50) -> list[Attempt]:
        """An account's attempts, the newest first."""
        query = (
            sa.select(payment_attempts)
            .where(payment_attempts.c.account == account)
            .order_by(payment_attempts.c.created.desc(), payment_attempts.c.key)
            .limit(limit)
        )
        async with self.store.read() as connection:
            return [_attempt(row) for row in await connection.execute(query)]


def _row(struct: msgspec.Struct) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(struct)
    for name, most in _MOST.items():
        if name in values:
            values[name] = values[name][:most]
    return values


def _attempt(row: sa.Row[Any]) -> Attempt:
    return Attempt(**row._asdict())


# ---- payments and returns ------------------------------------------------------------------


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment."""

    provider: str
    reference: str
    account: str
    currency: str
    amount: int
    purpose: str
    subject: str = ""
    paid_at: datetime


class Return(msgspec.Struct, frozen=True, kw_only=True):
    """A refund or dispute of a payment. `state`: contested, returned, or kept after all."""

    provider: str
    reference: str
    payment: str
    key: str = ""
    kind: str
    currency: str
    amount: int
    state: str
    at: datetime
    updated: datetime


class PaymentTable:
    """Payments and returns, each once by the provider's id."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def put(self, payment: Payment) -> bool:
        """Store it. Returns whether it is new."""
        async with self.store.write() as connection:
            return bool(await insert_new(connection, payments, [_row(payment)]))

    async def get(self, provider: str, reference: str) -> Payment | None:
        if not (provider.isprintable() and reference.isprintable()):
            return None
        query = sa.select(payments).filter_by(provider=provider, reference=reference)
        async with self.store.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Payment(**row._asdict())

    async def of_account(self, account: str, limit: int = 50) -> list[Payment]:
        """An account's payments, the newest first."""
        query = (
            sa.select(payments)
            .where(payments.c.account == account)
            .order_by(payments.c.paid_at.desc(), payments.c.reference)
            .limit(limit)
        )
        async with self.store.read() as connection:
            return [Payment(**row._asdict()) for row in await connection.execute(query)]

    async def put_return(self, item: Return) -> None:
        """Store it, or update its state. A decided return never becomes contested again."""
        async with self.store.write() as connection:
            if await insert_new(connection, payment_returns, [_row(item)]):
                return
            if item.state != "contested":
                await connection.execute(
                    sa.update(payment_returns)
                    .where(
                        payment_returns.c.provider == item.provider,
                        payment_returns.c.reference == item.reference,
                    )
                    .values(state=item.state, updated=item.updated)
                )

    async def returned_invoices(self) -> list[tuple[str, str]]:
        """Accounts and invoices of all payments that have a return."""
        query = (
            sa.select(payments.c.account, payments.c.subject)
            .join(payment_returns, RETURNS_OF_PAYMENTS)
            .where(payments.c.purpose == "invoice")
            .distinct()
        )
        async with self.store.read() as connection:
            return [(row.account, row.subject) for row in await connection.execute(query)]

    async def returns(self, provider: str, payment: str) -> list[Return]:
        """The returns of a payment, the oldest first."""
        query = (
            sa.select(payment_returns)
            .filter_by(provider=provider, payment=payment)
            .order_by(payment_returns.c.at, payment_returns.c.reference)
        )
        async with self.store.read() as connection:
            return [Return(**row._asdict()) for row in await connection.execute(query)]


# ---- grace ------------------------------------------------------------------------------


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Credit given while no provider was available. `amount`: micro-units."""

    id: str
    account: str
    currency: str
    amount: int
    state: str
    cause: str
    granted: datetime
    expires: datetime
    ended: datetime | None
    ended_by: str


class GraceTable:
    """Grants of grace; rows are never deleted."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def open(self, grace: Grant, since: datetime, most: int) -> Grant | None:
        """Insert it, reduced so that the account gets at most `most` since `since`.

        Checked and written in one transaction. None: nothing is left of the maximum.
        """
        mine = sa.and_(
            payment_grace.c.account == grace.account,
            payment_grace.c.currency == grace.currency,
        )
        async with self.store.write() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers queue up in any case
                await connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"),
                    {"name": f"grace:{grace.account}:{grace.currency}"},
                )
            given = await connection.scalar(
                sa.select(sa.func.coalesce(sa.func.sum(payment_grace.c.amount), 0)).where(
                    mine, payment_grace.c.granted > since
                )
            )
            amount = min(grace.amount, most - int(given or 0))
            if amount <= 0:
                return None
            opened = msgspec.structs.replace(grace, amount=amount)
            await connection.execute(sa.insert(payment_grace).values(_row(opened)))
        return opened

    async def move(
        self, ident: str, before: str, after: str, *, now: datetime | None = None, by: str = ""
    ) -> bool:
        """Change it from one state to the next; False if it was not in the first."""
        values: dict[str, Any] = {"state": after}
        if by:
            values |= {"ended_by": by}
        if now is not None:
            values |= {"ended": now}
        async with self.store.write() as connection:
            done = await connection.execute(
                sa.update(payment_grace)
                .where(payment_grace.c.id == ident, payment_grace.c.state == before)
                .values(values)
            )
        return done.rowcount == 1

    async def unended(self) -> list[Grant]:
        """All grants that have not ended, the oldest first."""
        return await self._select(payment_grace.c.state != "ended", limit=None)

    async def of_account(self, account: str, limit: int = 50) -> list[Grant]:
        """An account's grace, the newest first."""
        return await self._select(payment_grace.c.account == account, limit=limit, newest=True)

    async def _select(
        self, where: sa.ColumnElement[bool], *, limit: int | None, newest: bool = False
    ) -> list[Grant]:
        age = (payment_grace.c.granted, payment_grace.c.id)
        order = [column.desc() for column in age] if newest else list(age)
        query = sa.select(payment_grace).where(where).order_by(*order).limit(limit)
        async with self.store.read() as connection:
            return [Grant(**row._asdict()) for row in await connection.execute(query)]
