"""Account rows: what workers are told of accounts besides their balance.

    subscriptions, spending limits (store, configuration) ──▶ Rows ──▶ rows in the segment
                                                               └──▶ <state>/accounts.rows

Plans and services stand here by name, and become slots when they are written: after a reload, or
when an account gets its row, everything is written again. The file is for starts without the
store: an account whose payment failed is not served because the database is away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from fastgate._core.snapshot import Period
from fastgate._core.wallet import ANY, Accounts, SpendingLimit, Subscription
from fastgate.runtime.persist import StateDirectory, StateError
from fastgate.slots import SlotBook

log = logging.getLogger("fastgate.billing")

FILE = "accounts.rows"
SUBSCRIPTIONS = 8  # that a row has room for
NO_PLAN = 0xFFFFFFFF

PERIODS = {
    "day": int(Period.PERIOD_DAY),
    "week": int(Period.PERIOD_WEEK),
    "month": int(Period.PERIOD_MONTH),
    "year": int(Period.PERIOD_YEAR),
}


class Claim(NamedTuple):
    """A subscription: service ("": whichever has none of its own), plan, and the number of the
    reason with which it is refused (0: it is not)."""

    service: str
    plan: str
    reason: int


class Row(msgspec.Struct, array_like=True, frozen=True):
    """What is told of one account. Limits: micro-units and a period's name."""

    claims: list[Claim] = []
    limits: list[tuple[int, str]] = []


class Rows:
    """What is told of every account, and the one writer of it."""

    def __init__(
        self,
        cells: Accounts,
        slots_of: Callable[[], Mapping[str, int]],
        book: Callable[[], SlotBook],
        state: StateDirectory,
    ) -> None:
        """slots_of: the rows that accounts have; book: the slots of plans and services."""
        self._cells = cells
        self._slots_of = slots_of
        self._book = book
        self._state = state
        self._rows: dict[str, Row] = {}
        self._unsaved = False
        self._failing = False

    def load(self) -> None:
        """Learn what was known when the file was written."""
        try:
            content = self._state.read(FILE)
            if content is not None:
                self._rows = msgspec.msgpack.decode(content, type=dict[str, Row])
        except StateError as error:
            log.error("%s; subscriptions are not known before the store is there", error)
        except msgspec.DecodeError as error:
            kept = self._state.set_aside(FILE)
            log.error("%s cannot be used (%s; kept as %s)", FILE, error, kept)

    @property
    def unsaved(self) -> bool:
        """Whether there is something to `save`."""
        return self._unsaved

    def save(self) -> None:
        """Write the file, if anything has changed. Blocks on the disk."""
        if not self._unsaved:
            return
        self._unsaved = False
        try:
            self._state.write(FILE, msgspec.msgpack.encode(self._rows))
            self._failing = False
        except StateError as error:
            self._unsaved = True
            if not self._failing:
                log.error("%s; a start without the store would not know of it", error)
            self._failing = True

    def get(self, account: str) -> Row:
        """What is told of an account."""
        return self._rows.get(account, Row())

    def put(self, account: str, row: Row) -> None:
        """Tell something else of an account, from now on."""
        if self._rows.get(account) != row:
            self._rows[account] = row
            self._unsaved = True
        self._write(account, row)

    def keep_only(self, accounts: set[str]) -> None:
        """Forget accounts that are no more."""
        for account in self._rows.keys() - accounts:
            self.put(account, Row())
            del self._rows[account]

    def rewrite(self) -> None:
        """Write all rows again: slots of plans or accounts are others now."""
        for account, row in self._rows.items():
            self._write(account, row)

    def _write(self, account: str, row: Row) -> None:
        slot = self._slots_of().get(account)
        if slot is None or slot not in self._cells:
            return  # written when it has one
        book = self._book()
        found: dict[int, Subscription] = {}
        for claim in row.claims:
            service = book.services.get(claim.service, -1) if claim.service else ANY
            plan = book.plans.get(claim.plan, NO_PLAN)
            # What the configuration does not have, nobody calls.
            if service >= 0 and service not in found:
                found[service] = Subscription(service, plan, claim.reason)
        if len(found) > SUBSCRIPTIONS:
            log.error(
                "The account %s has %d subscriptions; %d count.", account, len(found), SUBSCRIPTIONS
            )
        self._cells.set_subscriptions(slot, list(found.values())[:SUBSCRIPTIONS])
        self._cells.set_limits(
            slot, [SpendingLimit(micros, PERIODS[period]) for micros, period in row.limits]
        )
