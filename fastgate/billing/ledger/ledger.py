"""The ledger: every movement of money, once, in double entry; append-only.

An *entry* is one movement of one account in one currency. It has *postings* to books, which add up
to zero. A positive posting means that the book owes, or has earned, that much more.

```
kind        available  held  revenue  promotional  clearing  tax    what it is
credit         +A                                   -(A+T)   +T     paid in; T: tax on top of it
promo          +A                        -A                         given for free
promo_end      -A                        +A                         the rest of it expires
charge         -X             +(X-p)     +p                         usage; p: paid by promotion
refund         +A             -r         -(A-r)                     usage given back to the wallet
tax                           -A                              +A    tax contained in revenue
fee                           +(A-T)                  -A      +T    an invoice was paid; T: its tax
fee_aside               +A    -A                                    before a refund; contested
provider_fee                  -A                      +A            the fee of a payment provider
x402                          +A                      -A            payment for a request
x402                    +A                            -A            not served: owed to the payer
credit_note    +A             -A                                    a fee credited to the wallet
credit_back    -A             +A                                    its fee was returned; reversed
freeze         -A       +A                                          before a refund
dispute        -A       +A                                          a payment is contested
pay_out                 -A                            +A            refunded, or lost in dispute
release        +A       -A                                          not refunded after all; won
correction      …        …      …         …            …       …     by an operator
overdraft, cell                                                     no money: limits, repairs
```

- **Idempotent by id**: the same movement twice is one entry and the same answer; a different
  movement with a used id is refused.
- **Promotional credit is spent first**, so that paid-in money stays refundable. It is not revenue
  when it is used: minus the book `promotional_credit` is what is left of it. It is never paid out
  through a provider. A refund of usage returns revenue first, and promotional credit for the part
  of the usage that was paid with it.
- **Never overdrawn by choice**: a movement that would take `customer_available` below -overdraft is
  refused. Disputes, corrections and the credits of returned fees are facts and are always booked
  (the account then owes). So is usage, which the wallet's cell has already allowed.
- **A correction is a new entry**, and so is the reversal of another entry.

`captured + held ≤ credited` follows: captured is charges less refunds; credited is credits less
payouts; the difference is `customer_available`, which charges cannot take below zero because the
cell does not allow it.

Nothing here touches shared memory: `balances` applies a movement to the wallet's cell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
import sqlalchemy as sa

from fastgate.errors import ConflictError, FastGateError, NotFoundError
from fastgate.model.units import MONEY_MOST
from fastgate.store import ledger as table
from fastgate.store import usage as usage_table
from fastgate.store.engine import Store
from fastgate.store.ledger import Book, Entry, Key, Standings, TakenBack, Wallet
from fastgate.store.pages import Page
from fastgate.store.usage_blocks import Block

ID_MOST = 160
"""Characters of an entry's id."""
_CURRENCY = re.compile(r"[A-Z]{3}")

Clock = Callable[[], datetime]
Postings = Mapping[Book, int]
Rule = Callable[[Wallet], Postings]
"""The postings of a movement, if they depend on the wallet's books."""

Wanted = Callable[[], Awaitable[Mapping[tuple[str, str], int]]]
"""Micro-units by invoice and currency, at the time of the call."""


class EntryKind(StrEnum):
    """The kind of an entry."""

    CREDIT = "credit"
    PROMO = "promo"
    PROMO_END = "promo_end"
    CHARGE = "charge"
    REFUND = "refund"
    TAX = "tax"
    FEE = "fee"
    FEE_ASIDE = "fee_aside"
    PROVIDER_FEE = "provider_fee"
    X402 = "x402"
    CREDIT_NOTE = "credit_note"
    CREDIT_BACK = "credit_back"
    FREEZE = "freeze"
    DISPUTE = "dispute"
    PAY_OUT = "pay_out"
    RELEASE = "release"
    CORRECTION = "correction"
    OVERDRAFT = "overdraft"
    CELL = "cell"


ASIDE = (EntryKind.FREEZE, EntryKind.DISPUTE, EntryKind.FEE_ASIDE)
"""Entries that set something aside, which `pay_out` or `release` settles."""


class LedgerError(FastGateError):
    """The movement cannot be booked. Nothing was booked."""


class InsufficientFundsError(LedgerError):
    """The account has less than the movement takes. Micro-units."""

    def __init__(self, account: str, currency: str, *, balance: int, required: int) -> None:
        super().__init__(
            f"The account {account} has {balance} micro-units of {currency} available; "
            f"{required} are required."
        )
        self.balance = balance
        self.required = required


class Movement(msgspec.Struct, frozen=True):
    """A movement to book. `id` makes it idempotent; `amount`: micro-units above 0.

    `reference` is an external name for it (an invoice, a payment's id), up to 200 characters;
    `note` is for people, up to 500. Raises LedgerError if a field is not valid.
    """

    id: str
    account: str
    currency: str
    amount: int
    reference: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= ID_MOST or not self.id.isprintable():
            raise LedgerError(f"A movement's id has 1 to {ID_MOST} printable characters.")
        if not 0 < len(self.account) <= 64 or not self.account.isprintable():
            raise LedgerError("An account's id has 1 to 64 printable characters.")
        if not _CURRENCY.fullmatch(self.currency):
            raise LedgerError(f"A currency is three capital letters, not {self.currency!r}.")
        if type(self.amount) is not int or not 0 < self.amount <= MONEY_MOST:
            raise LedgerError(f"An amount is 1 to {MONEY_MOST} micro-units, not {self.amount!r}.")
        if len(self.reference) > 200 or len(self.note) > 500:
            raise LedgerError("A reference has up to 200 characters, a note up to 500.")


class Posted(msgspec.Struct, frozen=True):
    """The entry; `fresh` is False if it existed already. `wallets`: those of its account after the
    transaction."""

    entry: Entry
    fresh: bool
    wallets: Standings


class Charged(msgspec.Struct, frozen=True):
    """The result of charging a batch of usage: the number of new records, and the wallets of its
    accounts after the transaction."""

    records: int
    wallets: Standings


def cell_key(ident: str) -> str:
    """The key of an entry in shared memory: 16 octets in hexadecimal, from its id. The highest bit
    is 0: with it set, the key is for undoing a change that was not booked."""
    digest = hashlib.blake2b(ident.encode(), digest_size=16).digest()
    return (bytes([digest[0] & 0x7F]) + digest[1:]).hex()


def settled_id(ident: str) -> str:
    """The id of the entry that pays out or releases what the entry `ident` has set aside."""
    return f"{ident}:settled"


class Ledger:
    """The movements as operations; each is one transaction of the store.

    All raise LedgerError if the movement cannot be booked, ConflictError if the id belongs to
    another movement, StoreError if the store is unavailable (then it is unknown whether it was
    booked: repeat it with the same id).
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self._clock = clock

    # ---- movements ----------------------------------------------------------------------

    async def credit(self, movement: Movement, *, tax: int = 0) -> Posted:
        """Paid in: the wallet gets `amount`; the provider has received `amount` + `tax`."""
        if not 0 <= tax <= MONEY_MOST:
            raise LedgerError(f"A tax is 0 to {MONEY_MOST} micro-units, not {tax!r}.")
        amount = movement.amount
        postings = {Book.AVAILABLE: amount, Book.CLEARING: -amount - tax, Book.TAX: tax}
        return await self._post(EntryKind.CREDIT, movement, postings)

    async def promo(self, movement: Movement) -> Posted:
        """Given for free; spent before paid-in money."""
        amount = movement.amount
        postings = {Book.AVAILABLE: amount, Book.PROMOTIONAL: -amount}
        return await self._post(EntryKind.PROMO, movement, postings)

    async def end_promo(self, movement: Movement) -> Posted:
        """Promotional credit expires. At most what is left of it."""

        def rule(wallet: Wallet) -> Postings:
            left = min(wallet.promotional, wallet.customer_available)
            if movement.amount > left:
                raise _short(movement, max(0, left))
            return {Book.AVAILABLE: -movement.amount, Book.PROMOTIONAL: movement.amount}

        return await self._post(EntryKind.PROMO_END, movement, rule)

    async def refund(self, movement: Movement) -> Posted:
        """Refund usage to the wallet. At most what usage has cost so far."""

        def rule(wallet: Wallet) -> Postings:
            if movement.amount > wallet.captured:
                raise _short(movement, wallet.captured)
            revenue = min(movement.amount, wallet.captured - wallet.promo_spent)
            return {
                Book.AVAILABLE: movement.amount,
                Book.REVENUE: -revenue,
                Book.PROMOTIONAL: revenue - movement.amount,
            }

        return await self._post(EntryKind.REFUND, movement, rule)

    async def tax(self, movement: Movement) -> Posted:
        """Move the tax contained in charges from revenue to tax."""
        postings = {Book.REVENUE: -movement.amount, Book.TAX: movement.amount}
        return await self._post(EntryKind.TAX, movement, postings)

    async def fee(self, movement: Movement, *, tax: int = 0) -> Posted:
        """An invoice was paid through a provider, including `tax`: revenue, not wallet money."""
        if not 0 <= tax <= movement.amount:
            raise LedgerError(f"The tax in {movement.amount} is not {tax!r} micro-units.")
        amount = movement.amount
        postings = {Book.CLEARING: -amount, Book.REVENUE: amount - tax, Book.TAX: tax}
        return await self._post(EntryKind.FEE, movement, postings)

    async def fee_aside(self, movement: Movement) -> Posted:
        """A paid fee is contested, or will be refunded: it is no longer revenue."""
        postings = {Book.REVENUE: -movement.amount, Book.HELD: movement.amount}
        return await self._post(EntryKind.FEE_ASIDE, movement, postings)

    async def provider_fee(self, movement: Movement) -> Posted:
        """The provider's fee for a payment: the provider holds that much less for us, and revenue
        is lower by as much."""
        postings = {Book.REVENUE: -movement.amount, Book.CLEARING: movement.amount}
        return await self._post(EntryKind.PROVIDER_FEE, movement, postings)

    async def credit_note(self, movement: Movement) -> Posted:
        """Credit a part of a paid fee to the account's wallet."""
        postings = {Book.AVAILABLE: movement.amount, Book.REVENUE: -movement.amount}
        return await self._post(EntryKind.CREDIT_NOTE, movement, postings)

    async def credit_back(self, movement: Movement) -> Posted:
        """The fee that a credit note drew on was returned: take the credit back, even if the
        balance becomes negative."""
        postings = {Book.AVAILABLE: -movement.amount, Book.REVENUE: movement.amount}
        return await self._post(EntryKind.CREDIT_BACK, movement, postings)

    async def credit_again(self, movement: Movement) -> Posted:
        """Restore what `credit_back` took, since the fee was paid after all."""
        postings = {Book.AVAILABLE: movement.amount, Book.REVENUE: -movement.amount}
        return await self._post(EntryKind.CREDIT_BACK, movement, postings)

    async def freeze(self, movement: Movement) -> Posted:
        """Set aside the amount of a refund through a provider: no promotional credit."""

        def rule(wallet: Wallet) -> Postings:
            paid = wallet.customer_available - max(0, wallet.promotional)
            if movement.amount > paid:
                raise _short(movement, max(0, paid))
            return {Book.AVAILABLE: -movement.amount, Book.HELD: movement.amount}

        return await self._post(EntryKind.FREEZE, movement, rule)

    async def dispute(self, movement: Movement) -> Posted:
        """A payment is contested: set it aside, even if the balance becomes negative."""
        postings = {Book.AVAILABLE: -movement.amount, Book.HELD: movement.amount}
        return await self._post(EntryKind.DISPUTE, movement, postings)

    async def pay_out(self, ident: str, *, reference: str = "") -> Posted:
        """The amount that the entry `ident` set aside was paid out. Raises NotFoundError."""
        origin = await self.set_aside(ident)
        postings = {Book.HELD: -origin.amount, Book.CLEARING: origin.amount}
        return await self._post(EntryKind.PAY_OUT, self.settlement(origin, reference), postings)

    async def release(self, ident: str, *, reference: str = "") -> Posted:
        """The amount that the entry `ident` set aside belongs to the account again, or to revenue
        if it was a fee. Raises NotFoundError."""
        origin = await self.set_aside(ident)
        book = Book.REVENUE if origin.kind == EntryKind.FEE_ASIDE else Book.AVAILABLE
        postings = {Book.HELD: -origin.amount, book: origin.amount}
        return await self._post(EntryKind.RELEASE, self.settlement(origin, reference), postings)

    async def correct(self, movement: Movement, postings: Postings) -> Posted:
        """Book any postings, to correct something; `amount` is the sum of the positive ones.
        Raises LedgerError if they do not add up to zero."""
        added = sum(amount for amount in postings.values() if amount > 0)
        if sum(postings.values()) != 0 or added != movement.amount:
            raise LedgerError(
                "A correction's postings add up to zero, and its amount is the sum of those "
                "above zero."
            )
        return await self._post(EntryKind.CORRECTION, movement, postings)

    async def reversal(self, ident: str) -> tuple[Movement, Postings]:
        """The correction that undoes an entry, for `correct`.

        Raises NotFoundError; LedgerError for entries that are undone in another way (an amount set
        aside is released) or that move nothing.
        """
        entry = await self.entry(ident)
        held = Book.HELD in entry.postings and entry.kind != EntryKind.CORRECTION
        if not entry.postings or held:
            raise LedgerError(f"An entry of the kind {entry.kind!r} cannot be reversed.")
        postings = {book: -amount for book, amount in entry.postings.items()}
        added = sum(amount for amount in postings.values() if amount > 0)
        movement = Movement(
            id=f"{entry.id}:reversed",
            account=entry.account,
            currency=entry.currency,
            amount=added,
            reference=entry.id,
        )
        return movement, postings

    async def set_overdraft(self, movement: Movement, overdraft: int) -> Posted:
        """Set the wallet's overdraft: its balance may go down to minus `overdraft`. No money moves;
        the movement's amount is the larger of the new overdraft and 1."""
        if not 0 <= overdraft <= MONEY_MOST:
            raise LedgerError(f"An overdraft is 0 to {MONEY_MOST} micro-units, not {overdraft!r}.")
        return await self._post(EntryKind.OVERDRAFT, movement, {}, overdraft=overdraft)

    async def repair_cell(self, movement: Movement) -> Posted:
        """Record that a cell was corrected by this amount, up or down; no money moves."""
        return await self._post(EntryKind.CELL, movement, {})

    async def set_aside(self, ident: str) -> Entry:
        """The entry that set an amount aside. Raises NotFoundError."""
        entry = await self.entry(ident)
        if entry.kind not in ASIDE:
            raise NotFoundError(f"The entry {ident!r} did not set an amount aside.")
        return entry

    # ---- usage --------------------------------------------------------------------------

    async def charge(self, blocks: Sequence[Block], *, doubtful: bool = True) -> Charged:
        """Write usage and the entries that charge for it, in one transaction. `doubtful`: the store
        may already have some of the records: look for them and skip them."""
        now = self._clock()
        keys = {(block.account, block.currency) for block in blocks if block.amount}

        def work(connection: sa.Connection) -> Charged:
            number = table.take_numbers(connection, max(1, len(keys)))
            fresh = usage_table.unknown(connection, blocks) if doubtful else blocks
            first: dict[Key, str] = {}
            totals: dict[Key, int] = {}
            for block in fresh:
                if block.amount:
                    key = (block.account, block.currency)
                    first.setdefault(key, block.low)
                    totals[key] = totals.get(key, 0) + block.amount
            found = table.open_wallets(connection, totals, now)
            entries = {
                key: Entry(
                    number=number + at,
                    id=f"use:{first[key]}",
                    kind=EntryKind.CHARGE,
                    account=key[0],
                    currency=key[1],
                    amount=totals[key],
                    created=now,
                    postings=dict(charge_postings(found[key], totals[key])),
                )
                for at, key in enumerate(sorted(totals))
            }
            table.insert(connection, list(entries.values()))
            numbers = {key: entry.number for key, entry in entries.items()}
            usage_table.insert(connection, fresh, numbers, now)
            after = table.standings(connection, {account for account, _ in keys})
            return Charged(sum(block.records for block in fresh), after)

        return await self.store.run_write(work)

    # ---- reading ------------------------------------------------------------------------

    async def entry(self, ident: str) -> Entry:
        """Raises NotFoundError."""
        entry = await self.find(ident) if ident.isprintable() else None
        if entry is None:
            raise NotFoundError(f"The ledger has no entry {ident!r}.")
        return entry

    async def open_wallet(self, account: str, currency: str) -> Standings:
        """Create an empty wallet in the currency, unless the account has one. Returns the account's
        wallets. Raises LedgerError if it already has the maximum number."""
        now = self._clock()

        def work(connection: sa.Connection) -> Standings:
            table.take_numbers(connection, 0)
            self._open(connection, account, currency, now)
            return table.standings(connection, [account])

        return await self.store.run_write(work)

    @staticmethod
    def _open(connection: sa.Connection, account: str, currency: str, now: datetime) -> Wallet:
        key = (account, currency)
        try:
            return table.open_wallets(connection, [key], now)[key]
        except table.TooManyWallets as error:
            raise LedgerError(
                f"The account {account} already has wallets in {table.WALLETS_MAX} currencies, the "
                f"maximum, and none in {currency}. Use one of its currencies."
            ) from error

    # These two hold the ledger's lock while they read. So they wait for a transaction whose answer
    # was lost and which the database is still committing.

    async def has_key(self, key: str) -> bool:
        """Whether an entry with that `cell_key` was committed."""

        def work(connection: sa.Connection) -> bool:
            table.take_numbers(connection, 0)
            return table.find(connection, key=key) is not None

        return await self.store.run_write(work)

    async def standings(self, accounts: Collection[str] | None = None) -> Standings:
        """The wallets of these accounts, or of all."""

        def work(connection: sa.Connection) -> Standings:
            table.take_numbers(connection, 0)
            return table.standings(connection, accounts)

        return await self.store.run_write(work)

    async def taken_back(self, account: str) -> dict[tuple[str, str], TakenBack]:
        """The amounts that `credit_back` took from an account, by invoice and currency."""
        return await self.store.run_read(lambda connection: table.taken_back(connection, account))

    async def find(self, ident: str) -> Entry | None:
        """An entry by its id, if it was committed."""
        return await self.store.run_read(lambda connection: table.find(connection, id=ident))

    async def wallet(self, account: str, currency: str) -> Wallet | None:
        """The books of an account in a currency, if it has any."""
        for wallet in await self.wallets(account):
            if wallet.currency == currency:
                return wallet
        return None

    async def wallets(self, account: str) -> list[Wallet]:
        """The books of an account, by the position of their cell."""
        found = await self.store.run_read(
            lambda connection: table.of_accounts(connection, [account])
        )
        return sorted(found, key=lambda wallet: wallet.position)

    async def all_wallets(self) -> list[Wallet]:
        """Every account's books."""
        return await self.store.run_read(table.all_wallets)

    async def history(
        self, account: str, *, currency: str | None = None, cursor: str | None = None, limit: int
    ) -> Page[Entry]:
        """An account's entries, the newest first. Raises BadCursor."""
        return await self.store.run_read(
            lambda connection: table.page(connection, account, currency, cursor=cursor, limit=limit)
        )

    # ---- one entry ----------------------------------------------------------------------

    @staticmethod
    def settlement(origin: Entry, reference: str = "") -> Movement:
        """The movement that settles the amount that an entry set aside."""
        return Movement(
            id=settled_id(origin.id),
            account=origin.account,
            currency=origin.currency,
            amount=origin.amount,
            reference=reference or origin.id[:200],
        )

    async def _post(
        self,
        kind: EntryKind,
        movement: Movement,
        rule: Postings | Rule,
        *,
        overdraft: int | None = None,
    ) -> Posted:
        now = self._clock()

        def work(connection: sa.Connection) -> Posted:
            number = table.take_numbers(connection)
            known = table.find(connection, id=movement.id)
            if known is not None:
                _check_same(known, kind, movement, rule)
                after = table.standings(connection, [movement.account])
                return Posted(known, fresh=False, wallets=after)
            key = (movement.account, movement.currency)
            wallet = self._open(connection, *key, now)
            postings = rule(wallet) if callable(rule) else rule
            entry = Entry(
                number=number,
                id=movement.id,
                kind=kind,
                account=movement.account,
                currency=movement.currency,
                amount=movement.amount,
                created=now,
                reference=movement.reference,
                note=movement.note,
                key=cell_key(movement.id),
                postings={book: amount for book, amount in postings.items() if amount},
            )
            table.insert(connection, [entry])
            if overdraft is not None:
                table.set_overdraft(connection, key, overdraft)
            after = table.standings(connection, [movement.account])
            return Posted(entry, fresh=True, wallets=after)

        return await self.store.run_write(work)


def _check_same(known: Entry, kind: EntryKind, movement: Movement, rule: Postings | Rule) -> None:
    """Raise ConflictError if the entry is not the one that this movement makes."""
    same = (
        known.kind == kind
        and known.account == movement.account
        and known.currency == movement.currency
        and known.amount == movement.amount
        and (
            callable(rule)
            or known.postings == {book: amount for book, amount in rule.items() if amount}
        )
    )
    if not same:
        raise ConflictError(
            f"The ledger's entry {movement.id!r} is a different movement: {known.kind} of "
            f"{known.amount} micro-units of {known.currency} for {known.account}."
        )


def charge_postings(wallet: Wallet, amount: int) -> Postings:
    """Usage takes promotional credit first, up to what is left of it."""
    promotional = min(amount, max(0, wallet.promotional))
    return {
        Book.AVAILABLE: -amount,
        Book.REVENUE: amount - promotional,
        Book.PROMOTIONAL: promotional,
    }


def _short(movement: Movement, balance: int) -> InsufficientFundsError:
    return InsufficientFundsError(
        movement.account, movement.currency, balance=balance, required=movement.amount
    )
