"""The ledger's statements: inserts entries and postings, keeps balances, reads pages.

Rows in, structs out, in a transaction of `Store.run_read` or `run_write`.
`fastgate.billing.ledger.ledger` decides which postings a movement makes. Invariants, for any
caller:

- an entry's postings add up to zero; its number is from the counter of the topic "ledger", whose
  row stays locked until the commit. So writers take turns, numbers are in the order of commits, and
  a reader that continues after N misses nothing;
- `wallets` has the sum of the postings of each account, currency and book, updated in the
  transaction that inserts them;
- `credited = captured + held + available`: credited is incoming less outgoing money, captured is
  usage less refunds; both are updated with each entry;
- only those sums are ever updated, and nothing is deleted.

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
"""Maximum currencies of an account: the cells of its row in shared memory."""


class Book(StrEnum):
    """The books. A positive balance: the book owes the money, or has earned it."""

    AVAILABLE = "customer_available"  # what the account can spend
    HELD = "customer_held"  # the account's, set aside for a refund or dispute
    REVENUE = "revenue"  # revenue
    PROMOTIONAL = "promotional_credit"  # minus the promotional credit that is not used yet
    CLEARING = "provider_clearing"  # minus what payment providers have received for us
    TAX = "tax"  # tax that we owe


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of one account in one currency. `amount` is the amount of the movement."""

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
        """How much of the available balance is promotional credit."""
        return -self.promotional_credit

    @property
    def spendable(self) -> int:
        """The cell's balance when no requests or usage are pending."""
        return self.customer_available + self.overdraft


class Standing(NamedTuple):
    """The numbers from which a wallet's cell is derived. Micro-units."""

    spendable: int
    """The cell's balance when no requests or usage are pending: the balance plus the overdraft."""
    overdraft: int


CAPTURES = frozenset({"charge", "refund"})
"""The kinds of entries that change `captured`; the others change `credited`."""


class TooManyWallets(Exception):
    """The account already has the maximum number of currencies."""


Key = tuple[str, str]
"""An account's id and a currency."""

Standings = dict[Key, Standing]


# ---- writing ----------------------------------------------------------------------------


def take_numbers(connection: sa.Connection, count: int = 1) -> int:
    """Lock the ledger for this transaction and reserve `count` numbers. Returns the first."""
    last = connection.scalar(_TAKE, {"topic": LEDGER_TOPIC, "count": count})
    assert last is not None, "the migration made the topic"
    return int(last) - count + 1


def insert(connection: sa.Connection, entries: Sequence[Entry]) -> None:
    """Insert entries with their postings and update the wallets' sums.

    The wallets must exist. Raises ValueError, before anything is written, if the postings do not
    add up to zero.
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
        # In the same order everywhere, so that writers cannot deadlock.
        for (account, currency), sums in sorted(totals.items())
        if any(sums.values())
    ]
    if moved:
        connection.execute(_ADD, moved)


# Built once: building a statement takes longer than running it.
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
    """The amounts that an entry adds to the sums of its wallet."""
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
    """The wallets of these accounts and currencies; missing ones are created.

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
    """Set the overdraft of a wallet."""
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
    """The standings of these accounts, or all, including this transaction's own changes."""
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
    """An entry by its id, or by its key in shared memory."""
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
    """How much of the credits of an invoice was taken back."""

    amount: int
    """Micro-units that are out of the wallet."""
    entries: int
    """The number of entries that took back or restored."""


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
    """The credits that were taken back from an account, by invoice and currency. None: from all
    accounts."""
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
