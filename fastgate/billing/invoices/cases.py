"""Cases: one for each invoice that is to be charged, until it is paid or given up.

A case is opened in the transaction that issues the invoice, so every invoice is charged. `next_at`
is when the next step is due; `attempt` counts the charges that failed.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.billing.invoices.invoices import Invoice
from fastgate.store.billing_tables import dunning_cases
from fastgate.store.connection import AsyncConnection
from fastgate.store.ids import new_id


class CaseState(StrEnum):
    """The state of an invoice's collection."""

    DUE = "due"  # to be charged at next_at
    PENDING = "pending"  # charged; the provider does not know the outcome yet
    CONFIRMING = "confirming"  # the customer has to confirm
    WAITING = "waiting"  # waits for another payment method
    EXHAUSTED = "exhausted"  # no more automatic attempts
    DONE = "done"  # paid
    CLOSED = "closed"  # the invoice was given up


OPEN = (
    CaseState.DUE,
    CaseState.PENDING,
    CaseState.CONFIRMING,
    CaseState.WAITING,
    CaseState.EXHAUSTED,
)


CASE_DUE = dunning_cases.c.next_at <= sa.bindparam("now")
"""The states in which something is due."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """The collection of one invoice."""

    id: str
    account: str
    subscription: str | None
    invoice: str
    state: CaseState
    decline: str = ""
    """The class of the last decline; empty: none."""
    attempt: int = 0
    grace_ends: datetime
    """When access ends if it is not paid."""
    next_at: datetime | None
    created: datetime
    updated: datetime
    version: int = 1

    @property
    def charge_key(self) -> str:
        """The idempotency key of the next charge: repeating it after a crash charges once."""
        return f"{self.invoice}:{self.attempt}"


async def open_case(
    connection: AsyncConnection, invoice: Invoice, grace_ends: datetime, now: datetime
) -> Case:
    """A new case, due at once."""
    case = Case(
        id=new_id("dun"),
        account=invoice.account,
        subscription=invoice.subscription,
        invoice=invoice.id,
        state=CaseState.DUE,
        grace_ends=grace_ends,
        next_at=now,
        created=now,
        updated=now,
    )
    values = msgspec.structs.asdict(case) | {"state": str(case.state)}
    await connection.execute(sa.insert(dunning_cases).values(values))
    return case


async def case_of(connection: AsyncConnection, invoice: str, *, lock: bool = False) -> Case | None:
    """The case of an invoice; `lock`: lock it for the rest of the transaction."""
    query = sa.select(dunning_cases).where(dunning_cases.c.invoice == invoice)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return _case(row) if row is not None else None


async def was_declined(connection: AsyncConnection, subscription: str) -> bool:
    """Whether the last charge for a subscription was declined and is not in progress again."""
    tried = (CaseState.DUE, CaseState.WAITING, CaseState.EXHAUSTED)
    query = sa.select(sa.literal(1)).where(
        dunning_cases.c.subscription == subscription,
        dunning_cases.c.state.in_([str(state) for state in tried]),
        dunning_cases.c.decline != "",
    )
    return await connection.scalar(query.limit(1)) is not None


async def change_case(connection: AsyncConnection, case: Case, **changes: Any) -> Case:
    """Write changes of a case that was read under lock."""
    changed = msgspec.structs.replace(case, **changes, version=case.version + 1)
    values = msgspec.structs.asdict(changed) | {"state": str(changed.state)}
    await connection.execute(
        sa.update(dunning_cases).where(dunning_cases.c.id == case.id).values(values)
    )
    return changed


async def close_cases(connection: AsyncConnection, subscription: str, now: datetime) -> list[str]:
    """Close the open cases of a subscription. Returns the ids of their invoices."""
    rows = await connection.execute(
        sa.update(dunning_cases)
        .where(
            dunning_cases.c.subscription == subscription,
            dunning_cases.c.state.in_([str(state) for state in OPEN]),
        )
        .values(
            state=CaseState.CLOSED.value,
            next_at=None,
            updated=now,
            version=dunning_cases.c.version + 1,
        )
        .returning(dunning_cases.c.invoice)
    )
    return list(rows.scalars())


async def due_cases(connection: AsyncConnection, now: datetime, limit: int) -> list[Case]:
    """Cases that are due, the longest first."""
    rows = await connection.execute(
        sa.select(dunning_cases)
        .where(CASE_DUE)
        .order_by(dunning_cases.c.next_at, dunning_cases.c.id)
        .limit(limit),
        {"now": now},
    )
    return [_case(row) for row in rows]


async def cases_of(connection: AsyncConnection, account: str, limit: int = 100) -> list[Case]:
    """An account's cases, the newest first."""
    rows = await connection.execute(
        sa.select(dunning_cases)
        .where(dunning_cases.c.account == account)
        .order_by(dunning_cases.c.id.desc())
        .limit(limit)
    )
    return [_case(row) for row in rows]


async def wake_cases(connection: AsyncConnection, account: str, now: datetime) -> int:
    """Another payment method was attached: an account's cases are due at once. How many."""
    done = await connection.execute(_due_again(now).where(dunning_cases.c.account == account))
    return int(done.rowcount)


async def wake_cases_of(
    connection: AsyncConnection, subscription: str, grace_ends: datetime, now: datetime
) -> None:
    """A subscription continues: make its cases due at once, with new grace."""
    await connection.execute(
        _due_again(now)
        .where(dunning_cases.c.subscription == subscription)
        .values(grace_ends=grace_ends)
    )


def _due_again(now: datetime) -> sa.Update:
    waiting = [CaseState.DUE.value, CaseState.WAITING.value, CaseState.EXHAUSTED.value]
    return (
        sa.update(dunning_cases)
        .where(dunning_cases.c.state.in_(waiting))
        .values(
            state=CaseState.DUE.value,
            next_at=now,
            updated=now,
            version=dunning_cases.c.version + 1,
        )
    )


def _case(row: sa.Row[Any]) -> Case:
    values = row._asdict()
    values["state"] = CaseState(values["state"])
    return Case(**values)
