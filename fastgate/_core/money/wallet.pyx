"""wallet: accounts in the shared segment: may they call, what is their balance, what have they subscribed to.

    account_row, 320 bytes, row number = the account's slot
    +----------+--------+---------------------------+--------------+------------------+--------+
    | identity | access | wallets: 4 × {avail, tag} | currencies 4 | subscriptions: 8 | limits | bill |
    +----------+--------+---------------------------+--------------+------------------+--------+

Control assigns slots, and an account keeps its slot for the life of the segment, since holds name the
account by it. A row appears with the store of `identity`, after the rest.

**One writer, no lock.** Everything but the wallets is written by control alone, each fact by one store:
`access` refuses or readmits the account with the next request of any worker; a subscription's
{service, plan} and {access, flags} are two words. A subscription keeps its place as long as its service
is subscribed, so a worker never misses it because another one was added.

**Wallets** are changed by workers (holds) and by control (credits), each time by one exchange of 16
bytes; the theory and the proof are in holds.pyx. Balances are micro-units (10^-6) of the
currency, signed: a negative balance is owed, and only control can cause one.

**A credit is exact, even if control is killed in the middle of it**:

    credit = accounts.prepare(...)      recorded in the money map, with the ledger entry's key
    (the ledger commits the entry)
    accounts.apply(credit)              now the wallet has it
    accounts.finish(credit)             forgotten

When control restarts, it calls `open_credits` for what was in progress, and asks the ledger whether it has
each key: yes → `apply` (which does nothing if the wallet already has it) and `finish`; no → only `finish`
if it was not applied, otherwise the entry has to be written first. `credit` does all three steps.

Ranges, in micro-units: a balance stays within ±2^62, one credit or hold within 2^60.
"""
from typing import NamedTuple

cimport cython

from libc.string cimport memcpy

from fastgate._core.platform.atomics cimport fg_store, fg_write_after
from fastgate._core.shared.consumer_row cimport cap_micros, cap_period
from fastgate._core.money.holds cimport MONEY_MOST, credit_applied, credit_apply, wallet_set
from fastgate._core.money.layout cimport (
    HOLD_FREE, HOLD_INTENT, money_record, next_sequence, number_record, area_view)
from fastgate._core.money.money_file cimport MoneyFile
from fastgate._core.shared.segment cimport Segment
from fastgate._core.snapshot.snapshot cimport PERIOD_MINUTE, PERIOD_YEAR
from fastgate._core.shared.layout cimport ACCOUNT_LIMITS, wallet

if sizeof(account_row) != 320 or sizeof(wallet) != 16 or sizeof(subscription) != 16 or sizeof(owed_bill) != 64:
    raise AssertionError("account rows do not have the size that the segment's layout needs")

cdef enum:
    STATE_BITS = 0xFF
    ACCESS_BITS = 0xFFFF
    BALANCE_MOST = 4611686018427387904      # 2^62

ANY = 0xFFFFFFFF


class Subscription(NamedTuple):
    """`service` and `plan` are slots; service ANY: every service without a subscription of its own.
    `access`: number of the Reason for refusing it, 0: none. `ended`: since when, in Unix seconds,
    0: not known."""

    service: int
    plan: int
    access: int = 0
    ended: int = 0


class Bill(NamedTuple):
    """The bill that an account owes first: an open invoice. `due`: Unix seconds."""

    number: str
    micros: int
    currency: str
    due: int


class SpendingLimit(NamedTuple):
    """At most `micros` micro-units may be spent per calendar `period` (Period)."""

    micros: int
    period: int


class Account(NamedTuple):
    """An account row. `wallets`: currency → balance in micro-units."""

    slot: int
    identity: int
    access: int
    wallets: dict[str, int]
    subscriptions: tuple[Subscription, ...]
    limits: tuple[SpendingLimit, ...]


class Credit(NamedTuple):
    """A credit in progress. `delta`: micro-units, negative: taken. `key`: of the ledger's entry.
    `applied`: whether the wallet had it when this object was created."""

    row: int
    sequence: int
    key: bytes
    account: int
    wallet: int
    delta: int
    applied: bool


cdef uint32_t _code(str currency) except 0:
    cdef bytes raw = currency.encode("ascii", "replace")
    cdef uint32_t code = 0
    if len(raw) != 3 or not currency.isalpha() or not currency.isupper() or not currency.isascii():
        raise ValueError(f"a currency is three capital letters, not {currency!r}")
    memcpy(&code, <const char *>raw, 3)
    return code


cdef str _letters(uint32_t code):
    return (<const char *>&code)[:3].decode("ascii", "replace")


@cython.final
cdef class Accounts:
    """The accounts of a segment. Control writes them; any process may read them.

    `slot` is checked everywhere (KeyError if no account has it); `wallet` is an index or a currency
    (KeyError likewise). Changing balances needs `money` (TypeError), bound to this segment.
    """

    cdef readonly Segment segment
    cdef readonly MoneyFile money

    def __init__(self, Segment segment not None, MoneyFile money=None):
        self.segment = segment
        self.money = money

    cdef account_row *_row(self, uint32_t slot) noexcept:
        return <account_row *>(self.segment.base + self.segment.header.accounts_off) + slot

    cdef account_row *_known(self, slot) except NULL:
        cdef account_row *row
        if not 0 <= slot < self.segment.header.accounts_count:
            raise KeyError(f"account slot {slot}: there are {self.segment.header.accounts_count}")
        row = self._row(slot)
        if fg_load(&row.identity) == 0:
            raise KeyError(f"no account has slot {slot}")
        return row

    cdef int _index(self, const account_row *row, which) except -1:
        cdef int i
        if isinstance(which, str):
            i = wallet_index(row, _code(which))
            if i < 0:
                raise KeyError(f"account slot {row.slot} has no wallet in {which}")
            return i
        if not 0 <= which < WALLETS or row.currencies[<int>which] == 0:
            raise KeyError(f"account slot {row.slot} has no wallet {which}")
        return which

    # ---- rows -----------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Number of account slots."""
        return self.segment.header.accounts_count

    def put(self, uint32_t slot, uint64_t identity, currencies=(), *, access=0) -> None:
        """Assign a slot to an account, with an empty wallet for each currency (three letters, at most 4).

        If the account already has the slot, missing wallets are added. Raises ValueError if the slot
        belongs to another account, IndexError if there is no such slot.
        """
        cdef account_row *row
        if slot >= self.segment.header.accounts_count:
            raise IndexError(f"account slot {slot}: there are {self.segment.header.accounts_count}")
        row = self._row(slot)
        if identity == 0:
            raise ValueError("an account's identity cannot be 0")
        if row.identity not in (0, identity):
            raise ValueError(f"account slot {slot} belongs to another account")
        codes = [_code(currency) for currency in currencies]
        wanted = {row.currencies[i] for i in range(WALLETS)} - {0} | set(codes)
        if len(wanted) > WALLETS:
            raise ValueError(f"an account has at most {WALLETS} wallets")
        row.slot = slot
        for code in codes:
            self._open_wallet(row, code)
        if fg_load(&row.identity) == 0:
            fg_store(&row.access, <uint64_t>access & <uint64_t>ACCESS_BITS)
            fg_store(&row.identity, identity)

    cdef int _open_wallet(self, account_row *row, uint32_t code) except -1:
        cdef int i = wallet_index(row, code)
        if i >= 0:
            return i
        for i in range(WALLETS):
            if row.currencies[i] == 0:
                row.currencies[i] = code
                return i
        raise ValueError(f"an account has at most {WALLETS} wallets")

    def open_wallet(self, slot, str currency) -> int:
        """The index of the account's wallet in a currency, created if missing (ValueError: it has 4)."""
        return self._open_wallet(self._known(slot), _code(currency))

    def wallet(self, slot, str currency) -> int:
        """The index of the account's wallet in a currency."""
        return self._index(self._known(slot), currency)

    def get(self, slot) -> Account:
        """The content of the row."""
        cdef account_row *row = self._known(slot)
        cdef int i
        wallets = {_letters(row.currencies[i]): row.wallets[i].available
                   for i in range(WALLETS) if row.currencies[i]}
        subscriptions = tuple([
            Subscription(row.subscriptions[i].service, row.subscriptions[i].plan,
                         row.subscriptions[i].access, row.subscriptions[i].ended)
            for i in range(SUBSCRIPTIONS) if row.subscriptions[i].flags & SUBSCRIPTION_USED])
        limits = tuple([SpendingLimit(cap_micros(row.limits[i]), cap_period(row.limits[i]))
                        for i in range(ACCOUNT_LIMITS) if row.limits[i]])
        return Account(slot, row.identity, fg_load(&row.access), wallets, subscriptions, limits)

    def __contains__(self, slot) -> bool:
        return 0 <= slot < self.segment.header.accounts_count and self._row(slot).identity != 0

    def slots(self) -> list[int]:
        """All slots that are assigned to accounts. Reads every row: not for the request path."""
        cdef uint64_t i
        return [i for i in range(self.segment.header.accounts_count) if self._row(i).identity]

    def set_access(self, slot, uint32_t reason) -> None:
        """Refuse all requests of the account with a Reason, at once; 0: readmit it."""
        if reason > ACCESS_BITS:
            raise ValueError(f"reason {reason} does not exist")
        fg_store(&self._known(slot).access, reason)

    def set_subscriptions(self, slot, subscriptions) -> None:
        """Replace the account's subscriptions (at most 8, one for a service; ValueError)."""
        cdef account_row *row = self._known(slot)
        cdef int i
        wanted = {entry[0]: Subscription(*entry) for entry in subscriptions}
        if len(wanted) != len(subscriptions) or len(wanted) > SUBSCRIPTIONS:
            raise ValueError(f"at most {SUBSCRIPTIONS} subscriptions, one for a service")
        for i in range(SUBSCRIPTIONS):
            entry = None
            if row.subscriptions[i].flags & SUBSCRIPTION_USED:
                entry = wanted.pop(row.subscriptions[i].service, None)
            self._subscribe(&row.subscriptions[i], entry)
        for i in range(SUBSCRIPTIONS):
            if wanted and not row.subscriptions[i].flags & SUBSCRIPTION_USED:
                self._subscribe(&row.subscriptions[i], wanted.pop(next(iter(wanted))))

    def subscription_for(self, slot, uint32_t service) -> Subscription | None:
        """The subscription by which the account may use a service, as a worker looks it up; None: it has none."""
        cdef const subscription *it = subscription_of(self._known(slot), service)
        return None if it == NULL else Subscription(it.service, it.plan, it.access, it.ended)

    cdef _subscribe(self, subscription *to, entry):
        """None: unused. The plan is stored before the access, whose word shows whether the entry is used."""
        cdef subscription it = to[0]
        cdef uint64_t words[2]
        if entry is None:
            fg_store(<uint64_t *>to + 1, 0)
            return
        it.service, it.plan, it.access, it.ended = entry
        it.flags = SUBSCRIPTION_USED
        memcpy(words, &it, sizeof(words))
        fg_store(<uint64_t *>to, words[0])
        fg_store(<uint64_t *>to + 1, words[1])

    def set_limits(self, slot, limits) -> None:
        """Replace the spending limits: up to two of (micro-units below 2^56, Period). 0: nothing may be spent."""
        cdef account_row *row = self._known(slot)
        cdef int i
        wanted = [SpendingLimit(*limit) for limit in limits]
        if len(wanted) > ACCOUNT_LIMITS:
            raise ValueError(f"at most {ACCOUNT_LIMITS} spending limits")
        for limit in wanted:
            if not 0 <= limit.micros < 1 << 56 or not PERIOD_MINUTE <= limit.period <= PERIOD_YEAR:
                raise ValueError(f"not a spending limit: {limit}")
        for i in range(ACCOUNT_LIMITS):
            micros, period = wanted[i] if i < len(wanted) else (0, 0)
            fg_store(&row.limits[i], <uint64_t>micros << 8 | <uint64_t>period)

    def set_bill(self, slot, entry) -> None:
        """Set the bill that the account owes first, for its refusals to show; None: nothing is open."""
        cdef account_row *row = self._known(slot)
        cdef owed_bill *to = &row.owed
        cdef bytes number = b""
        micros, currency, due = 0, 0, 0
        if entry is not None:
            text, micros, letters, due = entry
            number = text.encode("ascii", "replace")[:BILL_NUMBER]
            currency = _code(letters)
        fg_store(&to.version, to.version | 1)
        fg_write_after()
        to.micros = micros
        to.currency = currency
        to.due = max(0, min(due, 0xFFFFFFFF))
        to.number_len = <uint8_t>len(number)
        memcpy(to.number, <const char *>number, len(number))
        fg_store(&to.version, (to.version | 1) + 1)

    def bill(self, slot) -> Bill | None:
        """The bill that the account owes first, as its refusals show it."""
        cdef owed_bill found
        if not bill_read(self._known(slot), &found):
            return None
        return Bill(found.number[:found.number_len].decode("ascii"), found.micros, _letters(found.currency), found.due)

    # ---- balances -------------------------------------------------------------------------

    def balance(self, slot, wallet=0) -> int:
        """Micro-units available now: credited, less charged, less held."""
        cdef account_row *row = self._known(slot)
        return <int64_t>fg_load(<uint64_t *>&row.wallets[self._index(row, wallet)].available)

    cdef area_view *_view(self) except NULL:
        if self.money is None or self.money.segment is not self.segment:
            raise TypeError("balances change with a money map that is bound to this segment")
        return self.money.control_view()

    def set_balance(self, slot, wallet, int64_t micros) -> None:
        """Set a balance at the start, before any worker runs: it discards what is in progress."""
        cdef account_row *row = self._known(slot)
        cdef int index = self._index(row, wallet)
        cdef area_view *t = self._view()
        if not -<int64_t>BALANCE_MOST <= micros <= <int64_t>BALANCE_MOST:
            raise ValueError(f"a balance of {micros} micro-units is out of range")
        wallet_set(t.money, &row.wallets[index], micros)

    def prepare(self, slot, wallet, int64_t delta, bytes key not None) -> Credit:
        """Record a change of a balance that is about to be made; `key` (16 bytes): of the ledger's entry.

        Raises RuntimeError if all rows are in use: finish some.
        """
        cdef account_row *account = self._known(slot)
        cdef int index = self._index(account, wallet)
        cdef area_view *t = self._view()
        cdef money_record *r
        cdef uint64_t sequence
        cdef uint32_t i
        if len(key) != 16:
            raise ValueError(f"a key has 16 bytes, not {len(key)}")
        if not -<int64_t>MONEY_MOST <= delta <= <int64_t>MONEY_MOST:
            raise ValueError(f"a credit of {delta} micro-units is out of range")
        for i in range(t.rows):
            r = t.holds + i
            if (r.word & STATE_BITS) == HOLD_FREE:
                break
        else:
            raise RuntimeError(f"all {t.rows} rows for credits are in use")
        sequence = next_sequence(t)
        number_record(t, r, sequence)
        r.held = -delta
        r.amount = 0
        r.account = account.identity
        r.account_slot = account.slot
        r.wallet = <uint8_t>index
        r.currency = account.currencies[index]
        memcpy(r.request_id, <const char *>key, 16)
        fg_store(&r.word, sequence << 8 | HOLD_INTENT)
        return Credit(i, sequence, key, slot, index, delta, False)

    cdef money_record *_credit(self, credit) except NULL:
        cdef area_view *t = self._view()
        cdef money_record *r
        if not 0 <= credit.row < t.rows:
            raise ValueError(f"no such credit: {credit}")
        r = t.holds + <uint32_t>credit.row
        if r.word >> 8 != credit.sequence or (r.word & STATE_BITS) == HOLD_FREE:
            raise ValueError(f"already finished: {credit}")
        return r

    def apply(self, credit, *, floor=None) -> int | None:
        """Apply the credit to the wallet; returns the balance. It is applied once, however often this is called.

        `floor`: a negative change is made only if the balance does not fall below it; otherwise None is
        returned. Raises OverflowError beyond ±2^62, ValueError if it is already finished.
        """
        cdef money_record *r = self._credit(credit)
        cdef int64_t least = -<int64_t>BALANCE_MOST if floor is None else floor
        cdef int64_t balance = 0, now = self.balance(credit.account, credit.wallet)
        if now - r.held > <int64_t>BALANCE_MOST:
            raise OverflowError(f"a balance of {now} micro-units cannot grow by {credit.delta}")
        if credit_apply(self._view(), r, least, &balance):
            return balance
        if floor is None:
            raise OverflowError(f"a balance of {now} micro-units cannot fall by {-credit.delta}")
        return None

    def finish(self, credit) -> None:
        """Remove it, applied or not. Raises ValueError if that was done before."""
        fg_store(&self._credit(credit).word, <uint64_t>credit.sequence << 8 | HOLD_FREE)

    def credit(self, slot, int64_t delta, wallet=0, *, floor=None, bytes key=bytes(16)) -> int | None:
        """Prepare, apply and finish: for changes whose ledger entry is on disk. Returns as `apply`."""
        it = self.prepare(slot, wallet, delta, key)
        try:
            return self.apply(it, floor=floor)
        finally:
            self.finish(it)

    def open_credits(self) -> list[Credit]:
        """What was prepared and not finished, by this control process or one that was killed."""
        cdef area_view *t = self._view()
        cdef money_record *r
        cdef uint32_t i
        found = []
        for i in range(t.rows):
            r = t.holds + i
            if (r.word & STATE_BITS) != HOLD_FREE:
                found.append(Credit(i, r.word >> 8, (<const char *>r.request_id)[:16], r.account_slot,
                                    r.wallet, -r.held, credit_applied(t, r)))
        return found
