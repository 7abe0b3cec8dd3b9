"""The books of x402: each payment for a request that was settled is booked, once.

```
worker: due ─▶ record: settling ─▶ settled, served ─┐          (fastgate.billing.x402.claims)
                        └▶ unknown, unsent, failed ─┤
control:                  every two seconds  ◀──────┘
            settled, served  one transaction: the payment's row, and its entry; then no longer due
            failed           no longer due
            else             looked at again, until its record has expired: a row that says so
```

A worker has no store, and a paid answer does not wait for one. The worker writes the claim's
record, which survives it. A payment is *due* from the time before it may have been settled until it
is booked. Booking is idempotent by the payment's nonce, so control may be killed at any step. If
the outcome of a settlement becomes known only after a week, it is booked then.

The payer has no account here. So the entries belong to one special account, without wallet or cell.
Their currency is the token, by its CAIP-19 name, since tokens of different networks, and national
currencies, cannot be mixed. Amounts are millionths of a token:

    provider_clearing  -A    what `pay_to` has received
    revenue            +A    what the requests cost
    customer_held      +A    instead of revenue: paid, and not served

A payment that was not served is owed to the payer until an operator reports (`decide`) that it was
refunded, or is kept. The same is true of a payment of unknown outcome that an operator has found on
the network.

    state     sum of the payment's entries
    settled   clearing -A, revenue +A          owed      clearing -A, held +A
    kept      clearing -A, revenue +A          refunded  zero
    unknown   no entry: outcome unknown        void      no entry: it was never paid
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.billing.ledger.ledger import Clock, EntryKind
from fastgate.billing.x402.claims import NOT_SERVED, ClaimRecord, Claims, Paid
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.store import ledger as table
from fastgate.store.engine import Store
from fastgate.store.ledger import Book, Entry
from fastgate.store.money_tables import x402_payments
from fastgate.store.pages import Page, decode_cursor, page_of

log = logging.getLogger("fastgate.x402")

X402_ACCOUNT = "x402"
"""The account of the entries. It belongs to no customer and has no wallet."""
BATCH = 200
EVERY_S = 2.0
SETTLED, UNKNOWN = "settled", "unknown"
OWED, KEPT, REFUNDED, VOID = "owed", "kept", "refunded", "void"
EARNED = (SETTLED, KEPT)
"""States of payments that are revenue."""
OUTCOMES: dict[tuple[str, str], str] = {
    (UNKNOWN, "paid"): OWED,
    (UNKNOWN, "unpaid"): VOID,
    (OWED, "kept"): KEPT,
    (OWED, "refunded"): REFUNDED,
}
"""The outcomes that an operator may report in each state, with the new state."""
_MONEY = ("settled", "served")


class X402Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment for a request. `state`: "settled"; "unknown" if its outcome was never found out;
    "owed" if it was paid and not served, later "kept" or "refunded"; "void" if it was never
    paid."""

    id: str
    state: str
    currency: str
    """The token: "eip155:8453/erc20:0x…"."""
    amount: int
    """Micro-units: millionths of a token."""
    asset_name: str
    pay_to: str
    payer: str
    route: str
    reference: str
    """The transaction, if it is known."""
    presumed: bool
    """The token shows the payment, but the facilitator never reported that it settled it."""
    paid_at: datetime
    booked_at: datetime


def entry_id(payment: str) -> str:
    """The entry of a payment."""
    return f"x402:{payment}"


class X402Books:
    """Books the payments that workers have settled. Used only by control."""

    def __init__(self, claims: Claims, store: Store, clock: Clock) -> None:
        self._claims = claims
        self._store = store
        self._clock = clock

    async def step(self) -> int:
        """Book all due payments. Returns how many were booked. Raises StoreError, OSError."""
        found = iter(await asyncio.to_thread(lambda: list(self._claims.due())))
        booked = 0
        while batch := list(islice(found, BATCH)):
            booked += await self._look(batch)
        return booked

    async def run(self) -> None:
        """Book due payments forever."""
        while True:
            try:
                if self._store.ready:
                    await self.step()
            except StoreError as error:
                log.info("Payments with x402 wait for the store: %s", error)
            except OSError as error:
                log.error("Payments with x402 cannot be booked: %s", error)
            await asyncio.sleep(EVERY_S)

    async def _look(self, batch: Sequence[tuple[str, ClaimRecord | None]]) -> int:
        rows: list[X402Payment] = []
        done: list[str] = []
        now = self._claims.clock()
        for name, record in batch:
            if record is None:  # swept by an older version, which had no books
                done.append(name)
            elif record.state in _MONEY:
                gone = record.state == "settled" and record.code == NOT_SERVED
                row = self._row(name, record, OWED if gone else SETTLED)
                if row is not None:
                    rows.append(row)
                    done.append(name)
            elif record.state == "failed":
                done.append(name)
            elif record.expires < now:
                done.append(name)
                row = self._row(name, record, UNKNOWN)
                if row is not None and record.state in ("settling", "unknown"):
                    log.warning(
                        "x402: route %s: it is unknown whether %s has paid; see `fastgate "
                        "ledger x402 --doubtful`",
                        row.route,
                        row.payer,
                    )
                    rows.append(row)
        fresh = 0
        if rows:
            fresh = await self._store.run_write(lambda it: _book(it, rows, self._clock()))
        await asyncio.to_thread(self._forget, done)
        return fresh

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self._claims.looked_at(name)

    def _row(self, name: str, record: ClaimRecord, state: str) -> X402Payment | None:
        """None if the amount is unknown; the payment then stays due."""
        try:
            if record.paid is None:
                raise ValueError("its record does not say what was paid")
            micros = record.paid.micros
        except ValueError as error:
            log.error("x402: the payment %s of %s is not booked: %s", name, record.payer, error)
            return None
        return _payment(name, record, record.paid, micros, state, self._clock())


def _payment(
    name: str, record: ClaimRecord, paid: Paid, micros: int, state: str, now: datetime
) -> X402Payment:
    return X402Payment(
        id=name,
        state=state,
        currency=paid.currency,
        amount=micros,
        asset_name=paid.asset_name,
        pay_to=paid.pay_to,
        payer=record.payer,
        route=record.route,
        reference=record.transaction,
        presumed=record.presumed,
        paid_at=datetime.fromtimestamp(record.created, UTC),
        booked_at=now,
    )


_NEWER: dict[str | None, tuple[str, ...]] = {
    None: (SETTLED, OWED, UNKNOWN),
    UNKNOWN: (SETTLED, OWED, VOID),
    VOID: (SETTLED, OWED),
    SETTLED: (OWED,),
    OWED: (KEPT, REFUNDED),
}
"""The states that may follow each state; any other change is outdated."""
_POSTINGS: dict[str, dict[Book, int]] = {
    SETTLED: {Book.CLEARING: -1, Book.REVENUE: 1},
    OWED: {Book.CLEARING: -1, Book.HELD: 1},
    KEPT: {Book.CLEARING: -1, Book.REVENUE: 1},
}
"""The sums of a payment's entries in each state, by its amount; zero in other states."""


def postings_of(state: str | None, amount: int) -> dict[Book, int]:
    """The sums of a payment's entries."""
    return {book: sign * amount for book, sign in _POSTINGS.get(state or "", {}).items()}


def _book(connection: sa.Connection, rows: Sequence[X402Payment], now: datetime) -> int:
    """Write rows and entries in one transaction. Returns how many entries were created."""
    number = table.take_numbers(connection, len(rows))
    query = sa.select(x402_payments.c.id, x402_payments.c.state).where(
        x402_payments.c.id.in_([row.id for row in rows])
    )
    known = {row.id: row.state for row in connection.execute(query)}
    entries: list[Entry] = []
    for row in rows:
        before = known.get(row.id)
        if row.state not in _NEWER.get(before, ()):
            continue
        values = msgspec.structs.asdict(row) | {"day": row.paid_at.date()}
        if before is None:
            connection.execute(sa.insert(x402_payments).values(**values))
        else:  # its outcome was found out later, or its answer is lost
            connection.execute(
                sa.update(x402_payments).where(x402_payments.c.id == row.id).values(**values)
            )
        postings = postings_of(row.state, row.amount)
        for book, amount in postings_of(before, row.amount).items():
            postings[book] = postings.get(book, 0) - amount
        postings = {book: amount for book, amount in postings.items() if amount}
        if postings:
            first = not postings_of(before, row.amount)
            entries.append(_entry(number + len(entries), row, first, postings, now))
    table.insert(connection, entries)
    return len(entries)


def _entry(
    number: int, row: X402Payment, first: bool, postings: dict[Book, int], now: datetime
) -> Entry:
    return Entry(
        number=number,
        id=entry_id(row.id) if first else f"{entry_id(row.id)}:{row.state}",
        kind=EntryKind.X402,
        account=X402_ACCOUNT,
        currency=row.currency,
        amount=row.amount,
        created=now,
        reference=row.reference,
        note=f"{row.route}, paid by {row.payer}",
        postings=postings,
    )


async def decide(
    store: Store, clock: Clock, ident: str, outcome: str, reference: str = ""
) -> X402Payment:
    """Record what an operator has found out about a payment of unknown outcome ("paid", "unpaid"),
    or decided about one that is owed to its payer ("kept", "refunded"). Repeating it does nothing.
    `reference`: the transaction. Raises StoreError, NotFoundError, and ConflictError if the
    outcome is not possible in the payment's state."""

    def work(connection: sa.Connection) -> X402Payment:
        query = sa.select(x402_payments).where(x402_payments.c.id == ident)
        row = connection.execute(query.with_for_update()).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no payment {ident!r} with x402.")
        found = _of(row)
        after = OUTCOMES.get((found.state, outcome))
        if after is None:
            if found.state in {one for (_, said), one in OUTCOMES.items() if said == outcome}:
                return found
            raise ConflictError(f"The payment is {found.state!r}: it cannot be {outcome!r}.")
        now = clock()
        transaction = reference or found.reference
        found = msgspec.structs.replace(found, state=after, reference=transaction, booked_at=now)
        _book(connection, [found], now)
        return found

    return await store.run_write(work)


def _of(row: sa.Row[Any]) -> X402Payment:
    return X402Payment(**{name: value for name, value in row._asdict().items() if name != "day"})


async def listed(
    store: Store, *, state: str | None = None, cursor: str | None = None, limit: int
) -> Page[X402Payment]:
    """Payments, by their id. Raises StoreError, BadCursor."""
    query = sa.select(x402_payments).order_by(x402_payments.c.id).limit(limit + 1)
    if state is not None:
        query = query.where(x402_payments.c.state == state)
    if cursor is not None:
        query = query.where(x402_payments.c.id > decode_cursor(cursor, str))
    async with store.read() as connection:
        rows = (await connection.execute(query)).all()
    return page_of([_of(row) for row in rows], limit, lambda one: one.id)
