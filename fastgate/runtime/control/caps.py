"""Spending limits of accounts, consumers and keys: configured or individual ones.

    configuration: billing.spending ─┐
    store: spending_limits ──────────┴▶ Caps ─▶ account rows, credential index ─▶ workers
                                          └──▶ <state>/spending.limits   (starts without the store)

The workers count spending, in cells of shared memory; here it is only read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec

from fastgate._core.exchange.charging import spending_key
from fastgate._core.shared.clock import held_seconds
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.api.billing_api import SPENDING_LIMIT_MOST, LimitSubject
from fastgate.billing.diagnosis.evidence import SpendingFacts
from fastgate.config.rules import PERIODS
from fastgate.model.billing import Spending, SpendingLimit
from fastgate.runtime.persist import StateDirectory, StateError
from fastgate.serial import Serial, serialized
from fastgate.store.engine import Store
from fastgate.store.spending import NO_LIMIT, LimitRow, all_limits, drop_limit, put_limit

log = logging.getLogger("fastgate.billing")

FILE = "spending.limits"

Limit = tuple[int, str]
"""Micro-units and a period's name."""


class Caps:
    """All spending limits. `changed` is called with kind and id after each change."""

    def __init__(
        self,
        segment: Segment,
        store: Store,
        state: StateDirectory,
        clock: Callable[[], datetime],
        changed: Callable[[LimitSubject, str], None],
    ) -> None:
        self._segment = segment
        self._quotas = QuotaTable(segment)
        self._store = store
        self._state = state
        self._clock = clock
        self._changed = changed
        self._defaults = Spending()
        self._own: dict[tuple[str, str], Limit] = {}
        self.changes = Serial()
        self._known = False

    # ---- starting -----------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether individual limits are known, from the file or from the store."""
        return self._known

    def load_file(self) -> None:
        """Load the limits from the file."""
        try:
            content = self._state.read(FILE)
        except StateError as error:
            log.error("%s; accounts are refused until the store is available", error)
            return
        if content is None:
            return
        try:
            rows = msgspec.msgpack.decode(content, type=list[LimitRow])
        except msgspec.DecodeError as error:
            kept = self._state.set_aside(FILE)
            log.error("%s cannot be used (%s; kept as %s)", FILE, error, kept)
            return
        self._own = {(row.kind, row.subject): (row.amount, row.period) for row in rows}
        self._known = True

    async def load(self) -> None:
        """Load the limits from the store. Raises StoreError."""
        async with self._store.read() as connection:
            rows = await all_limits(connection)
        before = self._own
        self._own = {(row.kind, row.subject): (row.amount, row.period) for row in rows}
        self._known = True
        for kind, subject in before.keys() | self._own.keys():
            if before.get((kind, subject)) != self._own.get((kind, subject)):
                self._changed(kind, subject)  # type: ignore[arg-type]
        self._save()

    def configure(self, defaults: Spending) -> bool:
        """Set the configured limits. Returns whether they have changed."""
        before, self._defaults = self._defaults, defaults
        return before != defaults

    # ---- reading ------------------------------------------------------------------------

    def own(self, kind: LimitSubject, subject: str) -> Limit | None:
        """The individual limit, if there is one."""
        return self._own.get((kind, subject))

    def of(self, kind: LimitSubject, subject: str) -> Limit | None:
        """The limit in force; None: no limit."""
        found = self._own.get((kind, subject))
        if found is None:
            configured: SpendingLimit | None = getattr(self._defaults, kind)
            found = (configured.amount.micros, configured.period) if configured else None
        if found is None or found[0] == NO_LIMIT:
            return None
        return min(found[0], SPENDING_LIMIT_MOST), found[1]

    def cap(self, kind: LimitSubject, subject: str) -> tuple[int, int]:
        """The same in the form of the credential index: (0, 0) for none."""
        found = self.of(kind, subject)
        return (0, 0) if found is None else (found[0], PERIODS[found[1]])

    def spent(self, kind: LimitSubject, subject: str) -> SpendingFacts | None:
        """The limit in force, and the amount spent of it; None: no limit."""
        found = self.of(kind, subject)
        if found is None:
            return None
        micros, period = found
        use = self._quotas.peek(
            spending_key(kind, stable_hash(subject)),
            PERIODS[period],
            int(self._clock().timestamp()) - held_seconds(self._segment),
            micros,
        )
        return SpendingFacts(
            of="key" if kind == "credential" else kind,
            limit=micros,
            used=use.used,
            resets_at=use.resets_at,
        )

    # ---- changing -----------------------------------------------------------------------

    @serialized
    async def put(self, kind: LimitSubject, subject: str, micros: int, period: str) -> None:
        """Set an individual limit (0: nothing may be spent; NO_LIMIT: no limit, even if one is
        configured). Raises StoreError."""
        row = LimitRow(kind, subject, micros, period)
        async with self._store.write() as connection:
            await put_limit(connection, row, self._clock())
        self._own[kind, subject] = (micros, period)
        self._changed(kind, subject)
        self._save()

    @serialized
    async def drop(self, kind: LimitSubject, subject: str) -> None:
        """Return to the configured limit. Raises StoreError."""
        async with self._store.write() as connection:
            await drop_limit(connection, kind, subject)
        self._own.pop((kind, subject), None)
        self._changed(kind, subject)
        self._save()

    def _save(self) -> None:
        if not self._known:
            return  # a file with only some of them would look complete
        rows = [LimitRow(kind, subject, *limit) for (kind, subject), limit in self._own.items()]
        try:
            self._state.write(FILE, msgspec.msgpack.encode(rows))
        except StateError as error:
            log.error("%s; a start without the store would not know the change", error)
