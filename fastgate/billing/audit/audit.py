"""The audit: proves that the ledger is complete and agrees with usage and with the cells.

Everything is recounted from the entries, postings and usage records; totals that are stored beside
them are checked, not trusted. It uses one transaction with a consistent snapshot of the store, so
it may run under traffic. `Pipeline.live` gives shared memory at that snapshot; `audit_gateway` does
both.

```
entries    the postings of each entry add up to zero
books      the books of all entries together add up to zero
wallets    each wallet's totals are the sums of its postings
overdrawn  no wallet is below minus the largest overdraft that it ever had, except by the amounts
           of disputes, corrections and returned fees
credited   captured + held <= credited, for each wallet, with the same exceptions
held       what is held is what was set aside and not yet settled, plus corrections
usage      each block's totals are the sums of its records, and no record is in two blocks
charges    each charge is the sum of its usage; each priced block has its charge. Charges from
           before usage was pruned: all together, with the totals of the pruned usage
days       the daily totals are the sums of the blocks and of the pruned usage
accounts   every charge is to a known account
payments   each payment, and each return of one, is booked once; nothing else is (`money`)
invoices   each paid invoice has its payment, each credit note its credit (`money`)
x402       each payment for a request is booked once; nothing else is (`money`)
credits    returned payments are not credited as well (`money`)
cells      each cell is ledger + overdraft - usage not yet in the ledger - holds of requests
```
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import sqlalchemy as sa

from fastgate._core.money.usage_block import numbers, sums
from fastgate.billing.audit.money import (
    credits_check,
    invoices_check,
    payments_check,
    x402_check,
)
from fastgate.billing.audit.report import FINDINGS_MAX as FINDINGS_MAX
from fastgate.billing.audit.report import AuditReport, Check, check
from fastgate.billing.ledger.ledger import ASIDE, EntryKind, settled_id
from fastgate.billing.ledger.names import UNKNOWN
from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.billing.x402.books import X402_ACCOUNT
from fastgate.store import ledger as table
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store
from fastgate.store.ledger import CAPTURES, Book, Key, Wallet
from fastgate.store.money_tables import (
    ledger_entries,
    ledger_postings,
    usage_blocks,
    usage_daily,
    usage_pruned,
)

ATTEMPTS = 5
"""The maximum number of looks at shared memory while wallets change."""


async def audit(
    store: Store,
    cells: Mapping[Key, int] | None = None,
    holds: Mapping[Key, int] | None = None,
    spool: Mapping[Key, int] | None = None,
    moving: Set[Key] = frozenset(),
) -> AuditReport:
    """Check the store; with `cells`, also shared memory. Raises StoreError.

    Micro-units by account and currency: `cells`: their balances; `holds`: what requests hold;
    `spool`: usage that cells have paid and that is not in the ledger yet (in the spool and the
    rings). `moving`: wallets whose numbers may be inconsistent; they are counted, not compared.
    """
    async with store.read() as connection:
        if store.kind == "postgresql":  # SQLite's transactions always see one snapshot
            await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        wallets = {(w.account, w.currency): w for w in await connection.run_sync(table.all_wallets)}
        sums = await _sums(connection)
        least = await _least(connection, sums)
        checks = [
            await _entries(connection),
            _books(sums),
            _wallets(wallets, sums),
            _overdrawn(sums, least),
            _credited(sums, least),
            await _held(connection, sums),
            await _usage(connection),
            await _charges(connection),
            await _days(connection),
            await _accounts(connection),
            await payments_check(connection),
            await invoices_check(connection),
            await x402_check(connection),
            await credits_check(connection),
        ]
    if cells is not None:
        checks.append(_cells(wallets, cells, holds or {}, spool or {}, moving))
    return AuditReport(checks)


async def audit_gateway(pipeline: Pipeline) -> AuditReport:
    """The audit of a running gateway. Raises StoreError. Until it ends, usage stays in shared
    memory; balances are not blocked, so requests continue.

    Memory that other processes change cannot be read at one instant. A wallet that changed during
    the reading, or does not agree, is read again, up to five times: an error of one reading
    disappears in another, while a real difference stays.
    """
    async with pipeline.lock, pipeline.wallets.lock:
        ledger = pipeline.wallets.ledger
        wallets = await ledger.all_wallets()
        cells, held, waiting = dict[Key, int](), dict[Key, int](), dict[Key, int]()
        moving: set[Key] = set()
        left = {(wallet.account, wallet.currency): wallet.spendable for wallet in wallets}
        for _ in range(ATTEMPTS):
            live = pipeline.live()
            for key, spendable in list(left.items()):
                if key in live.cells:
                    cells[key] = live.cells[key]
                held[key], waiting[key] = live.held.get(key, 0), live.waiting.get(key, 0)
                agrees = live.cells.get(key) == spendable - held[key] - waiting[key]
                if agrees and key not in live.moving:
                    del left[key]
            moving = live.moving & set(left)
            if not left:
                break
        return await audit(ledger.store, cells, held, waiting, moving)


# ---- what is counted --------------------------------------------------------------------

Sums = dict[Key, dict[tuple[str, str], int]]
"""By wallet: (kind, book) → micro-units."""


async def _sums(connection: AsyncConnection) -> Sums:
    rows = await connection.execute(
        sa.select(
            ledger_entries.c.account,
            ledger_entries.c.currency,
            ledger_entries.c.kind,
            ledger_postings.c.book,
            sa.func.sum(ledger_postings.c.amount),
        )
        .join(ledger_postings, ledger_postings.c.entry == ledger_entries.c.number)
        .group_by(
            ledger_entries.c.account,
            ledger_entries.c.currency,
            ledger_entries.c.kind,
            ledger_postings.c.book,
        )
    )
    found: Sums = {}
    for account, currency, kind, book, amount in rows:
        found.setdefault((account, currency), {})[kind, book] = int(amount)
    return found


def _book(sums: Mapping[tuple[str, str], int], book: Book) -> int:
    return sum(amount for (_, each), amount in sums.items() if each == book)


async def _least(connection: AsyncConnection, sums: Sums) -> dict[Key, int]:
    """The minimum balance of each wallet. Facts (disputes, corrections, returned fees) may have
    taken it below its overdraft, and so may a later reduction of the overdraft."""
    rows = await connection.execute(
        sa.select(
            ledger_entries.c.account,
            ledger_entries.c.currency,
            sa.func.max(ledger_entries.c.amount),
        )
        .where(ledger_entries.c.kind == EntryKind.OVERDRAFT)
        .group_by(ledger_entries.c.account, ledger_entries.c.currency)
    )
    overdrafts = {(account, currency): int(amount) for account, currency, amount in rows}
    return {
        key: -overdrafts.get(key, 0)
        + sum(
            min(0, parts.get((kind, Book.AVAILABLE), 0))
            for kind in (EntryKind.DISPUTE, EntryKind.CORRECTION, EntryKind.CREDIT_BACK)
        )
        for key, parts in sums.items()
    }


# ---- the checks -------------------------------------------------------------------------


async def _entries(connection: AsyncConnection) -> Check:
    total = sa.func.sum(ledger_postings.c.amount)
    rows = await connection.execute(
        sa.select(ledger_postings.c.entry, total)
        .group_by(ledger_postings.c.entry)
        .having(total != 0)
    )
    findings = [f"entry {number}: off by {int(amount)}" for number, amount in rows]
    count = await connection.scalar(sa.select(sa.func.count()).select_from(ledger_entries))
    return check("entries", findings, entries=int(count or 0))


def _books(sums: Sums) -> Check:
    totals: dict[str, dict[str, int]] = {}
    for (_, currency), parts in sums.items():
        books = totals.setdefault(currency, {})
        for (_, book), amount in parts.items():
            books[book] = books.get(book, 0) + amount
    findings = [
        f"{currency}: off by {sum(books.values())}"
        for currency, books in sorted(totals.items())
        if sum(books.values()) != 0
    ]
    numbers = {
        f"{currency}.{book}": amount
        for currency, books in sorted(totals.items())
        for book, amount in sorted(books.items())
    }
    return check("books", findings, **numbers)


def _wallets(wallets: Mapping[Key, Wallet], sums: Sums) -> Check:
    findings = [
        f"{key[0]} {key[1]}: entries without a wallet"
        for key in sums
        if key not in wallets and key[0] != X402_ACCOUNT
    ]
    for key, wallet in wallets.items():
        parts = sums.get(key, {})
        captured, credited, promo = 0, 0, 0
        for (kind, book), amount in parts.items():
            if kind in CAPTURES:
                captured -= amount if book == Book.AVAILABLE else 0
                promo += amount if book == Book.PROMOTIONAL else 0
            elif book in (Book.AVAILABLE, Book.HELD):
                credited += amount
        real = {book.value: _book(parts, book) for book in Book}
        real |= {"captured": captured, "credited": credited, "promo_spent": promo}
        for name, amount in real.items():
            kept = getattr(wallet, name)
            if kept != amount:
                findings.append(f"{key[0]} {key[1]}: {name} is {kept}, its entries say {amount}")
    return check("wallets", findings, wallets=len(wallets))


def _overdrawn(sums: Sums, least: Mapping[Key, int]) -> Check:
    findings: list[str] = []
    owing = 0
    for key, parts in sums.items():
        available = _book(parts, Book.AVAILABLE)
        owing += available < 0
        if available < least[key]:
            findings.append(f"{key[0]} {key[1]}: {available}, may go to {least[key]}")
    return check("overdrawn", findings, owing=owing)


def _credited(sums: Sums, least: Mapping[Key, int]) -> Check:
    findings: list[str] = []
    numbers: dict[str, int] = {}
    for key, parts in sums.items():
        held = _book(parts, Book.HELD)
        captured = -sum(parts.get((kind, Book.AVAILABLE), 0) for kind in CAPTURES)
        credited = sum(
            amount
            for (kind, book), amount in parts.items()
            if kind not in CAPTURES and book in (Book.AVAILABLE, Book.HELD)
        )
        for name, amount in (("captured", captured), ("held", held), ("credited", credited)):
            if key[0] == X402_ACCOUNT and not amount:
                continue  # correct: it belongs to no wallet
            name = f"{key[1]}.{name}"
            numbers[name] = numbers.get(name, 0) + amount
        if captured + held > credited - least[key]:
            findings.append(
                f"{key[0]} {key[1]}: captured {captured} + held {held} > credited {credited}"
            )
    return check("credited", findings, **numbers)


async def _held(connection: AsyncConnection, sums: Sums) -> Check:
    settled = sa.select(ledger_entries.c.id).where(
        ledger_entries.c.kind.in_([EntryKind.PAY_OUT, EntryKind.RELEASE])
    )
    rows = await connection.execute(
        sa.select(
            ledger_entries.c.account,
            ledger_entries.c.currency,
            sa.func.sum(ledger_entries.c.amount),
        )
        .where(ledger_entries.c.kind.in_(ASIDE))
        .where((ledger_entries.c.id + settled_id("")).not_in(settled))
        .group_by(ledger_entries.c.account, ledger_entries.c.currency)
    )
    aside = {(account, currency): int(amount) for account, currency, amount in rows}
    findings: list[str] = []
    for key in sorted(set(aside) | set(sums)):
        parts = sums.get(key, {})
        held = _book(parts, Book.HELD)
        wanted = aside.get(key, 0) + parts.get((EntryKind.CORRECTION, Book.HELD), 0)
        wanted += parts.get((EntryKind.X402, Book.HELD), 0)  # owed to payers: see the check `x402`
        if held != wanted:
            findings.append(f"{key[0]} {key[1]}: {held} held, {wanted} set aside")
    held_in: dict[str, int] = {}
    for (_, currency), amount in aside.items():
        held_in[f"{currency}.held"] = held_in.get(f"{currency}.held", 0) + amount
    return check("held", findings, **held_in)


async def _usage(connection: AsyncConnection) -> Check:
    """Recount a block's records, in C: there may be millions."""
    findings: list[str] = []
    blocks = total = 0
    area, near = "", set[int]()  # a worker's next block may have these numbers too
    columns = usage_blocks.c
    query = (
        sa.select(
            columns.low,
            columns.meter,
            columns.records,
            columns.failed,
            columns.units,
            columns.amount,
            columns.lines,
        )
        .order_by(columns.low)
        .execution_options(yield_per=8)
    )
    async with connection.stream(query) as rows:
        async for low, meter, *kept, lines in rows:
            blocks += 1
            try:
                real, found = sums(lines, meter=bool(meter)), numbers(lines)
            except ValueError as error:
                findings.append(f"block {low}: {error}")
                continue
            total += real[0]
            if real != tuple(kept):
                findings.append(f"block {low}: its sums are {tuple(kept)}, its records' {real}")
            first = int(low[16:], 16)
            near = {number for number in near if number >= first} if low[:18] == area else set()
            area = low[:18]
            known = len(near)
            near.update(found)
            if len(near) != known + len(found):
                findings.append(f"block {low}: has a record twice, or one that is in another block")
    return check("usage", findings, blocks=blocks, records=total)


async def _charges(connection: AsyncConnection) -> Check:
    used = (
        sa.select(usage_blocks.c.entry, sa.func.sum(usage_blocks.c.amount).label("amount"))
        .where(usage_blocks.c.entry.is_not(None))
        .group_by(usage_blocks.c.entry)
        .subquery()
    )
    charge = ledger_entries.c.kind == EntryKind.CHARGE
    pruned = sa.and_(
        usage_pruned.c.account == ledger_entries.c.account,
        usage_pruned.c.currency == ledger_entries.c.currency,
    )
    whole = sa.or_(usage_pruned.c.upto.is_(None), ledger_entries.c.created >= usage_pruned.c.upto)
    rows = await connection.execute(
        sa.select(ledger_entries.c.number, ledger_entries.c.amount, used.c.amount)
        .outerjoin(used, used.c.entry == ledger_entries.c.number)
        .outerjoin(usage_pruned, pruned)
        .where(charge, whole)
        .where(sa.func.coalesce(used.c.amount, 0) != ledger_entries.c.amount)
    )
    findings = [
        f"entry {number}: charged {amount}, used {int(of or 0)}" for number, amount, of in rows
    ]
    sums = await connection.execute(
        sa.select(
            usage_pruned.c.account,
            usage_pruned.c.currency,
            usage_pruned.c.amount,
            sa.func.coalesce(sa.func.sum(ledger_entries.c.amount), 0),
            sa.func.coalesce(sa.func.sum(used.c.amount), 0),
        )
        .outerjoin(
            ledger_entries, sa.and_(charge, pruned, ledger_entries.c.created < usage_pruned.c.upto)
        )
        .outerjoin(used, used.c.entry == ledger_entries.c.number)
        .group_by(usage_pruned.c.account, usage_pruned.c.currency, usage_pruned.c.amount)
    )
    gone = 0
    for account, currency, amount, charged, left in sums:
        gone += amount
        if charged != amount + left:
            findings.append(
                f"{account} {currency}: charged {int(charged)} before records were pruned, used "
                f"{int(amount + left)}"
            )
    taken = (
        sa.select(ledger_postings.c.entry, ledger_postings.c.amount)
        .where(ledger_postings.c.book == Book.AVAILABLE)
        .subquery()
    )
    rows = await connection.execute(
        sa.select(ledger_entries.c.number)
        .outerjoin(taken, taken.c.entry == ledger_entries.c.number)
        .where(charge)
        .where(sa.func.coalesce(-taken.c.amount, 0) != ledger_entries.c.amount)
    )
    findings += [f"entry {row.number}: its amount is not what it took" for row in rows]
    known = sa.select(ledger_entries.c.number).where(charge)
    rows = await connection.execute(
        sa.select(usage_blocks.c.low).where(
            sa.or_(
                sa.and_(usage_blocks.c.amount != 0, usage_blocks.c.entry.is_(None)),
                sa.and_(usage_blocks.c.entry.is_not(None), usage_blocks.c.entry.not_in(known)),
            )
        )
    )
    findings += [f"block {row.low}: no charge for it" for row in rows]
    totals = (
        await connection.execute(
            sa.select(
                sa.func.coalesce(sa.func.sum(usage_blocks.c.records), 0),
                sa.func.coalesce(sa.func.sum(usage_blocks.c.amount), 0),
            )
        )
    ).one()
    charged = await connection.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(ledger_entries.c.amount), 0)).where(charge)
    )
    return check(
        "charges",
        findings,
        records=int(totals[0]),
        used=int(totals[1]),
        pruned=gone,
        charged=int(charged or 0),
    )


async def _days(connection: AsyncConnection) -> Check:
    async def by_wallet(kept: sa.Table, count: sa.ColumnElement[Any]) -> dict[Key, tuple[int, ...]]:
        rows = await connection.execute(
            sa.select(
                kept.c.account,
                kept.c.currency,
                count,
                sa.func.sum(kept.c.units),
                sa.func.sum(kept.c.amount),
            ).group_by(kept.c.account, kept.c.currency)
        )
        return {(row[0], row[1]): tuple(int(number) for number in row[2:]) for row in rows}

    requests = sa.func.sum(sa.case((usage_blocks.c.meter == "", usage_blocks.c.records), else_=0))
    real = await by_wallet(usage_blocks, requests)
    for key, gone in (await by_wallet(usage_pruned, sa.func.sum(usage_pruned.c.requests))).items():
        real[key] = tuple(a + b for a, b in zip(real.get(key, (0, 0, 0)), gone, strict=True))
    days = await by_wallet(usage_daily, sa.func.sum(usage_daily.c.requests))
    findings = [
        f"{key[0]} {key[1]}: days have {days.get(key)}, usage {real.get(key)}"
        for key in sorted(set(real) | set(days))
        if real.get(key) != days.get(key)
    ]
    return check("days", findings, requests=sum(row[0] for row in days.values()))


async def _accounts(connection: AsyncConnection) -> Check:
    rows = await connection.execute(
        sa.select(ledger_entries.c.account)
        .where(ledger_entries.c.account.startswith(UNKNOWN, autoescape=True))
        .distinct()
    )
    return check("accounts", [f"account {row.account} is not known" for row in rows])


def _cells(
    wallets: Mapping[Key, Wallet],
    cells: Mapping[Key, int],
    holds: Mapping[Key, int],
    spool: Mapping[Key, int],
    moving: Set[Key],
) -> Check:
    findings = [
        f"{key[0]} {key[1]}: a cell without a wallet has {balance}"
        for key, balance in cells.items()
        if key not in wallets and balance
    ]
    compared = drift = 0
    for key, wallet in wallets.items():
        if key in moving:
            continue
        compared += 1
        cell = cells.get(key)
        wanted = wallet.spendable - spool.get(key, 0) - holds.get(key, 0)
        if cell is None:
            findings.append(f"{key[0]} {key[1]}: no cell")
        elif cell != wanted:
            drift += abs(cell - wanted)
            findings.append(f"{key[0]} {key[1]}: the cell has {cell} and should have {wanted}")
    return check(
        "cells",
        findings,
        compared=compared,
        moving=len(moving),
        drift=drift,
        held=sum(holds.values()),
        waiting=sum(spool.values()),
    )
