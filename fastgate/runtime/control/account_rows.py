"""Account rows: the workers' data about accounts, except balances.

    subscriptions, spending limits (store, configuration) ─┬─▶ <state>/accounts.rows
                                                           └─▶ rows in the segment

Plans and services have names here, and become slots when they are written. All rows are written
again before a configuration is served, and when an account gets its row.

**No account is served without its rules.** Requests of a new row in shared memory are refused with
`account_not_loaded` until the account's rights are known, from the file or from the store. The file
is for starts without the store: so an outage of the database does not give access to an account
whose payment failed. It is written before the segment, so an acknowledged change survives a kill.

The file consists of frames, one for each change; the last frame of an account applies.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from fastgate._core.money.wallet import ANY, Accounts, Bill, SpendingLimit, Subscription
from fastgate._core.reason import Reason
from fastgate._core.shared.callers import NO_PLAN
from fastgate.billing.ledger.frames import MAGIC_SIZE, FrameFile, pack
from fastgate.config.rules import PERIODS
from fastgate.config.slots import SlotBook

log = logging.getLogger("fastgate.billing")

FILE = "accounts.rows"
MAGIC = b"FGROWS01"
SLACK = 4096  # frames beyond the live ones before the file is rewritten
SUBSCRIPTIONS = 8  # maximum of a row


class RowSubscription(NamedTuple):
    """A subscription: service ("": all services without their own), plan, the number of the reason
    for refusals (0: it gives access), and since when (Unix seconds, 0: unknown)."""

    service: str
    plan: str
    reason: int
    ended: int = 0


class AccountRow(msgspec.Struct, array_like=True, frozen=True):
    """The workers' data about one account. Limits: micro-units and a period's name."""

    subscriptions: list[RowSubscription] = []
    limits: list[tuple[int, str]] = []
    bill: Bill | None = None
    """The invoice to pay first, for its refusals."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[str, AccountRow]] = msgspec.msgpack.Decoder(
    tuple[str, AccountRow]
)


class AccountRows:
    """The rows of all accounts; the only writer of them."""

    def __init__(
        self,
        cells: Accounts,
        slots_of: Callable[[], Mapping[str, int]],
        book: Callable[[], SlotBook],
        path: Path,
        complete: Callable[[], bool] = lambda: True,
    ) -> None:
        """slots_of: the rows of accounts; book: the slots of plans and services; path: of the file;
        complete: whether the other rules, the limits of consumers and keys, are known."""
        self._cells = cells
        self._slots_of = slots_of
        self._book = book
        self._complete = complete
        self._file = FrameFile(path, MAGIC)
        self._usable = False
        self._frames = 0
        self._rows: dict[str, AccountRow] = {}

    # ---- the file -----------------------------------------------------------------------

    def load(self) -> None:
        """Load the rows from the file."""
        try:
            self._file.open()
            for payload, _ in self._file.read(MAGIC_SIZE):
                account, row = _decoder.decode(payload)
                self._rows[account] = row
                self._frames += 1
            if self._file.damaged:
                raise OSError(errno.EIO, "some of it cannot be read")
        except (OSError, msgspec.DecodeError) as error:
            self._rows = {}
            self._give_up(error)
        else:
            self._usable = True

    def _save(self, account: str, row: AccountRow) -> None:
        if not self._usable:
            self._save_all()  # it may succeed now
            return
        try:
            if self._frames > 2 * len(self._rows) + SLACK:
                self._save_all()
            else:
                self._file.append(pack(_encoder.encode((account, row))), sync=False)
                self._frames += 1
        except OSError as error:
            self._give_up(error)

    def _save_all(self) -> None:
        try:
            self._file.replace(_encoder.encode(item) for item in self._rows.items())
        except OSError as error:
            self._give_up(error)
        else:
            self._usable = True
            self._frames = len(self._rows)

    def _give_up(self, error: Exception) -> None:
        """Remove a stale file: with it, a start without the store would serve refused accounts."""
        if self._usable or not self._rows:
            log.error("%s cannot be used and is removed: %s", self._file.path, error)
        self._usable = False
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._file.path.unlink()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # ---- rows ---------------------------------------------------------------------------

    def __contains__(self, account: str) -> bool:
        """Whether the account's rights are known."""
        return account in self._rows

    def get(self, account: str) -> AccountRow:
        """The row of an account."""
        return self._rows.get(account, AccountRow())

    def plan_of(self, account: str) -> str | None:
        """The plan of its subscription for all services, for services without their own."""
        return next((one.plan for one in self.get(account).subscriptions if not one.service), None)

    def put(self, account: str, row: AccountRow) -> None:
        """Change an account's row, also for the next start."""
        if self._rows.get(account) != row:
            self._rows[account] = row
            self._save(account, row)
        self._write(account, row)

    def rewrite(self) -> None:
        """Write all rows again, because slots of plans or accounts have changed."""
        for account, row in self._rows.items():
            self._write(account, row)

    def relimit(self, limits: Callable[[str], list[tuple[int, str]]]) -> None:
        """The spending limits of all accounts, as `limits` has them."""
        for account, row in list(self._rows.items()):
            self.put(account, AccountRow(subscriptions=row.subscriptions, limits=limits(account)))

    def _write(self, account: str, row: AccountRow) -> None:
        slot = self._slots_of().get(account)
        if slot is None or slot not in self._cells:
            return  # written once it has one
        book = self._book()
        found: dict[int, Subscription] = {}
        for subscription in row.subscriptions:
            service = book.services.get(subscription.service, -1) if subscription.service else ANY
            plan = book.plans.get(subscription.plan, NO_PLAN)
            reason = subscription.reason
            if plan == NO_PLAN and reason == 0:
                reason = int(Reason.NOT_SUBSCRIBED)  # without its plan it would have no limits
            # A service that is not configured cannot be called.
            if service >= 0 and service not in found:
                found[service] = Subscription(service, plan, reason, subscription.ended)
        if len(found) > SUBSCRIPTIONS:
            log.error(
                "The account %s has %d subscriptions; %d apply.",
                account,
                len(found),
                SUBSCRIPTIONS,
            )
        self._cells.set_subscriptions(slot, list(found.values())[:SUBSCRIPTIONS])
        self._cells.set_bill(slot, row.bill)
        self._cells.set_limits(
            slot, [SpendingLimit(micros, PERIODS[period]) for micros, period in row.limits]
        )
        if self._complete():
            self._cells.set_access(slot, 0)
