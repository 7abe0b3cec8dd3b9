"""The ledger's statements: entries and postings in, balances kept beside them, pages out.

Rows in, structs out, in a transaction of `Store.run_read` or `run_write`; which postings a movement
makes is `fastgate.billing.ledger.ledger`'s business.
Invariants, whatever the caller does:

- an entry's postings add up to zero, per entry; its number comes from the counter of the topic
  "ledger", whose row stays locked until the commit: writers take turns, numbers are in the
  order of commits, and a reader who asks again after N misses nothing;
- `wallets` has the sum of the postings of each account, currency and book, changed in the
  transaction that inserts them;
- `credited = captured + held + available`: what came in less what left, what usage has taken
  less what was given back; kept beside the books, entry by entry;
- nothing is ever updated or deleted but those sums.

Amounts are whole micro-units; a posting above zero is a credit of its book.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from fastgate.store.money_tables import LEDGER_TOPIC, ledger_entries, ledger_postings, wallets
from fastgate.store.pages import Page, decode_cursor, page_of

WALLETS_MAX = 4
"""Currencies an account can have: the cells of its row in shared memory."""


class Book(StrEnum):
    """Where money stands. Above zero: the book owes it, or has earned it."""

    AVAILABLE = "customer_available"  # what the account can spend
    HELD = "customer_held"  # the account's, set aside until something is decided
    REVENUE = "revenue"  # earned
    PROMOTIONAL = "promotional_credit"  # minus what was given away and is not yet used
    CLEARING = "provider_clearing"  # minus what payment providers have taken in for us
    TAX = "tax"  # owed to the state


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of one account in one currency. `amount` is what was asked for."""

    number: int
    id: str
    kind: str
    account: str
    currency: str
    amount: int
    created: datetime
    reference: str = ""
    note: str = ""
    key: str | None = None
    postings: dict[Book, int] = {}


class Wallet(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one account in one currency. `position`: which of its cells, 0 to 3."""

    account: str
    currency: str
    position: int
    customer_available: int = 0
    customer_held: int = 0
    revenue: int = 0
    promotional_credit: int = 0
    provider_clearing: int = 0
    tax: int = 0
    credited: int = 0
    captured: int = 0
    promo_spent: int = 0
    overdraft: int = 0
    updated: datetime

    @property
    def promotional(self) -> int:
        """How much of what is available was given away."""
        return -self.promotional_credit

    @property
    def spendable(self) -> int:
        """What its cell holds when nothing is under way."""
        return self.customer_available + self.overdraft


class Standing(NamedTuple):
    """What the cell of a wallet is derived from. Micro-units."""

    spendable: int
    """What the cell holds when nothing is under way: the balance and the overdraft."""
    overdraft: int


CAPTURES = frozenset({"charge", "refund"})
"""The kinds of entries that change what was captured; the others change what was credited."""


class TooManyWallets(Exception):
    """The account has as many currencies as its row in shared memory has cells."""


Key = tuple[str, str]
"""An account's id and a currency."""

Standings = dict[Key, Standing]


# ---- writing ----------------------------------------------------------------------------


def take_numbers(connection: sa.Connection, count: int = 1) -> int:
    """Lock the ledger for this transaction; the first of `count` numbers that are now taken."""
    last = connection.scalar(_TAKE, {"topic": LEDGER_TOPIC, "count": count})
    assert last is not None, "the migration made the topic"
    return int(last) - count + 1


def insert(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Insert entries with their postings and change the wallets' sums.

    The wallets must exist. Raises ValueError, before anything is written, for postings that
    do not add up to zero.
    """
    totals: dict[Key, dict[str, int]] = {}
    lines: list[dict[str, Any]] = []
    for entry in entries:
        if sum(entry.postings.values()) != 0:
            raise ValueError(f"the postings of {entry.id!r} do not add up to zero")
        sums = totals.setdefault((entry.account, entry.currency), dict.fromkeys(_SUMS, 0))
        for book, amount in entry.postings.items():
            if amount:
                lines.append({"entry": entry.number, "book": book.value, "amount": amount})
        for name, amount in _changes(entry).items():
            sums[name] += amount
    if not entries:
        return
    connection.execute(
        _ENTRIES,
        [
            {
                name: value
                for name, value in msgspec.structs.asdict(entry).items()
                if name != "postings"
            }
            for entry in entries
        ],
    )
    if lines:
        connection.execute(_POSTINGS, lines)
    moved = [
        {
            "of_account": account,
            "in_currency": currency,
            "at": entries[-1].created,
            **{f"by_{name}": amount for name, amount in sums.items()},
        }
        # In one order everywhere, so that writers cannot deadlock.
        for (account, currency), sums in sorted(totals.items())
        if any(sums.values())
    ]
    if moved:
        connection.execute(_ADD, moved)


# Made once: making a statement takes SQLAlchemy longer than running it takes the database.
_TAKE = sa.text("UPDATE changes SET value = value + :count WHERE topic = :topic RETURNING value")
_ENTRIES = sa.insert(ledger_entries)
_POSTINGS = sa.insert(ledger_postings)
_OF_ACCOUNTS = sa.select(wallets).where(
    wallets.c.account.in_(sa.bindparam("accounts", expanding=True))
)
_STANDINGS = sa.select(
    wallets.c.account,
    wallets.c.currency,
    wallets.c.customer_available + wallets.c.overdraft,
    wallets.c.overdraft,
)
_STANDINGS_OF = _STANDINGS.where(wallets.c.account.in_(sa.bindparam("accounts", expanding=True)))
_SUMS = (*(book.value for book in Book), "credited", "captured", "promo_spent")


def _changes(entry: Entry) -> dict[str, int]:
    """What an entry adds to the sums of its wallet."""
    changes = {book.value: amount for book, amount in entry.postings.items()}
    available = entry.postings.get(Book.AVAILABLE, 0)
    if entry.kind in CAPTURES:
        changes["captured"] = -available
        changes["promo_spent"] = entry.postings.get(Book.PROMOTIONAL, 0)
    else:
        changes["credited"] = available + entry.postings.get(Book.HELD, 0)
    return changes


_ADD = (
    sa.update(wallets)
    .where(
        wallets.c.account == sa.bindparam("of_account"),
        wallets.c.currency == sa.bindparam("in_currency"),
    )
    .values(
        {
            "updated": sa.bindparam("at"),
            **{name: wallets.c[name] + sa.bindparam(f"by_{name}") for name in _SUMS},
        }
    )
)


def open_wallets(
    connection: sa.Connection, keys: Iterable[Key], now: datetime
) -> dict[Key, Wallet]:
    """The wallets of these accounts and currencies, made where they are missing.

    The caller holds the ledger's lock. Raises TooManyWallets.
    """
    wanted = set(keys)
    found: dict[Key, Wallet] = {}
    taken: dict[str, int] = {}
    for wallet in of_accounts(connection, sorted({account for account, _ in wanted})):
        found[wallet.account, wallet.currency] = wallet
        taken[wallet.account] = max(taken.get(wallet.account, 0), wallet.position + 1)
    fresh: list[Wallet] = []
    for account, currency in sorted(wanted - set(found)):
        position = taken.get(account, 0)
        if position >= WALLETS_MAX:
            raise TooManyWallets(account)
        taken[account] = position + 1
        fresh.append(Wallet(account=account, currency=currency, position=position, updated=now))
    if fresh:
        connection.execute(sa.insert(wallets), [msgspec.structs.asdict(wallet) for wallet in fresh])
    found.update({(wallet.account, wallet.currency): wallet for wallet in fresh})
    return {key: found[key] for key in wanted}


def set_overdraft(connection: sa.Connection, key: Key, overdraft: int) -> None:
    """Change how far below zero a wallet may go."""
    connection.execute(
        sa.update(wallets)
        .where(wallets.c.account == key[0], wallets.c.currency == key[1])
        .values(overdraft=overdraft)
    )


# ---- reading ----------------------------------------------------------------------------


def of_accounts(connection: sa.Connection, accounts: Sequence[str]) -> list[Wallet]:
    """The wallets of these accounts, in no particular order."""
    found: list[Wallet] = []
    for start in range(0, len(accounts), 1000):
        rows = connection.execute(_OF_ACCOUNTS, {"accounts": accounts[start : start + 1000]})
        found += [Wallet(**row._asdict()) for row in rows]
    return found


def standings(connection: sa.Connection, accounts: Iterable[str] | None = None) -> Standings:
    """The wallets of these accounts, or all, with what this transaction has written so far."""
    if accounts is None:
        return _by_key(connection.execute(_STANDINGS))
    wanted = sorted(accounts)
    found: Standings = {}
    for start in range(0, len(wanted), 1000):
        some = {"accounts": wanted[start : start + 1000]}
        found.update(_by_key(connection.execute(_STANDINGS_OF, some)))
    return found


def _by_key(rows: Iterable[Any]) -> Standings:
    return {
        (account, currency): Standing(int(spendable), int(overdraft))
        for account, currency, spendable, overdraft in rows
    }


def all_wallets(connection: sa.Connection) -> list[Wallet]:
    """Every wallet, by account and currency."""
    rows = connection.execute(sa.select(wallets).order_by(wallets.c.account, wallets.c.currency))
    return [Wallet(**row._asdict()) for row in rows]


def find(
    connection: sa.Connection, *, id: str | None = None, key: str | None = None
) -> Entry | None:
    """An entry by its id, or by the key that names it in shared memory."""
    where = ledger_entries.c.id == id if id is not None else ledger_entries.c.key == key
    rows = connection.execute(sa.select(ledger_entries).where(where))
    row = rows.one_or_none()
    if row is None:
        return None
    (entry,) = _with_postings(connection, [row])
    return entry


def page(
    connection: sa.Connection,
    account: str,
    currency: str | None,
    *,
    cursor: str | None,
    limit: int,
) -> Page[Entry]:
    """An account's entries, the newest first. Raises BadCursor."""
    query = (
        sa.select(ledger_entries)
        .where(ledger_entries.c.account == account)
        .order_by(ledger_entries.c.number.desc())
        .limit(limit + 1)
    )
    if currency is not None:
        query = query.where(ledger_entries.c.currency == currency)
    if cursor is not None:
        query = query.where(ledger_entries.c.number < decode_cursor(cursor, int))
    rows = (connection.execute(query)).all()
    entries = _with_postings(connection, rows)
    return page_of(entries, limit, lambda entry: entry.number)


class TakenBack(NamedTuple):
    """Of the credits of an invoice."""

    amount: int
    """Micro-units that are out of the wallet."""
    entries: int
    """Which took or gave again."""


_TAKEN_BACK = (
    sa.select(
        ledger_entries.c.reference,
        ledger_entries.c.currency,
        -sa.func.sum(ledger_postings.c.amount),
        sa.func.count(),
    )
    .join(ledger_postings, ledger_postings.c.entry == ledger_entries.c.number)
    .where(
        ledger_entries.c.kind == "credit_back",
        ledger_postings.c.book == Book.AVAILABLE.value,
    )
    .group_by(ledger_entries.c.reference, ledger_entries.c.currency)
)


def taken_back(
    connection: sa.Connection, account: str | None = None
) -> dict[tuple[str, str], TakenBack]:
    """What was taken of an account's credits since fees went back, by invoice and currency. None:
    of all accounts."""
    of_account = [] if account is None else [ledger_entries.c.account == account]
    rows = connection.execute(_TAKEN_BACK.where(*of_account))
    return {
        (invoice, currency): TakenBack(int(amount), int(entries))
        for invoice, currency, amount, entries in rows
    }


def _with_postings(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[Entry]:
    postings: dict[int, dict[Book, int]] = {row.number: {} for row in rows}
    if postings:
        found = connection.execute(
            sa.select(ledger_postings).where(ledger_postings.c.entry.in_(list(postings)))
        )
        for line in found:
            postings[line.entry][Book(line.book)] = line.amount
    return [Entry(**row._asdict(), postings=postings[row.number]) for row in rows]
