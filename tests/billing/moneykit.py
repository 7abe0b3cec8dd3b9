"""A gateway's money without the gateway: a segment, a money map, a store, and control's side of
it; `World.restart` is a control that comes back, `World.reboot` the whole gateway."""

from __future__ import annotations

import fcntl
import inspect
import math
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.usage_block import unpack_lines
from fastgate._core.money.wallet import Accounts
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.billing.ledger.ledger import Ledger, Movement
from fastgate.billing.ledger.names import Names
from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.billing.ledger.spool import Spool
from fastgate.billing.ledger.wallets import Wallets
from fastgate.store.engine import Store
from fastgate.store.money_tables import usage_blocks
from fastgate.store.usage_blocks import BOOT, DAY_US, Block, Usage, block_of

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 1_000_000_000
WORKERS = 2


def move(ident: str, amount: int, account: str = "acc_a", currency: str = "EUR") -> Movement:
    return Movement(ident, account, currency, amount)


def used(
    number: int, amount: int, account: str = "acc_a", currency: str = "EUR", **more: object
) -> Usage:
    """A usage record as the pipeline makes them."""
    given: dict[str, object] = {
        "id": f"{number:032x}",
        "time_us": NOW_NS // 1000 + number,
        "account": account,
        "consumer": "con_1",
        "credential": "crd_1",
        "route": "images",
        "service": "pictures",
        "plan": "pro",
        "currency": currency,
        "amount": amount,
        "units": 3,
        "status": 200,
        "request": f"{number:032x}",
        "flags": 1,
        **more,
    }
    return Usage(**given)  # type: ignore[arg-type]


def pack(usages: Iterable[Usage]) -> list[Block]:
    """Usage as the pipeline writes it: what is alike becomes a block, in the order of the first."""
    groups: dict[tuple[object, ...], list[Usage]] = {}
    for usage in usages:
        key = (
            usage.id[:18],
            usage.time_us // DAY_US,
            usage.account,
            usage.consumer,
            usage.credential,
            usage.route,
            usage.service,
            usage.plan,
            usage.currency,
            usage.meter,
        )
        groups.setdefault(key, []).append(usage)
    return [block_of(group) for group in groups.values()]


async def records_in(store: Store) -> dict[str, int]:
    """What the store has: micro-units by the record's id. Each is there once."""
    async with store.read() as connection:
        rows = await connection.execute(sa.select(usage_blocks.c.low, usage_blocks.c.lines))
        pairs = [
            (f"{low[:BOOT]}{line.number:016x}", line.amount)
            for low, lines in rows
            for line in unpack_lines(lines)
        ]
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


def names() -> Names:
    """Two consumers, a key each; slots 0 and 1."""
    return Names(
        consumers=lambda: ["con_1", "con_2"],
        credentials=lambda: ["crd_1", "crd_2"],
        routes=lambda: {"images": 0, "texts": 1},
        services=lambda: {"pictures": 0},
        plans=lambda: {"pro": 0},
        meters=lambda: ["tokens"],
    )


class Killed(BaseException):
    """Control was killed here."""


class Tripwire:
    """Kills control at the `at`-th place that it passes; None: counts the places only."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.passed = 0

    def step(self) -> None:
        self.passed += 1
        if self.at is not None and self.passed > self.at:
            raise Killed

    def around(self, thing: Any, *methods: str) -> Any:
        """The thing with a place before and after each call of these methods."""
        return _Wired(thing, self, methods)


class _Wired:
    def __init__(self, thing: Any, wire: Tripwire, methods: tuple[str, ...]) -> None:
        self._thing, self._wire, self._methods = thing, wire, methods

    def __contains__(self, item: object) -> bool:
        return item in self._thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name not in self._methods:
            return found
        wire = self._wire
        if inspect.iscoroutinefunction(found):

            async def later(*args: Any, **kwargs: Any) -> Any:
                wire.step()
                result = await found(*args, **kwargs)
                wire.step()
                return result

            return later

        def now(*args: Any, **kwargs: Any) -> Any:
            wire.step()
            result = found(*args, **kwargs)
            wire.step()
            return result

        return now


def copy_of(migrated: Path, folder: Path) -> str:
    """The URL of a fresh store in a fresh folder."""
    folder.mkdir()
    shutil.copyfile(migrated, folder / "one.db")
    return f"sqlite:///{folder / 'one.db'}"


class World:
    """Shared memory, files and store of one gateway, and its control's objects."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.store = Store(url)
        self.ring = 256
        self.boot()

    def boot(self, wire: Tripwire | None = None) -> None:
        """A new segment on the old money map, as after a start of the gateway."""
        self.segment = Segment.create(WORKERS)
        self.money = MoneyMap.open(self.folder / "money.map", WORKERS, holds=16, ring=self.ring)
        self.money.bind(self.segment)
        for worker in range(WORKERS):
            self.money.begin(worker)
        self.make(wire)

    def make(self, wire: Tripwire | None = None) -> None:
        """Control's objects, made anew over what outlives it; with a wire, all that changes
        something outside of control can be the place where it is killed."""
        self._close_files()
        self.cells: Any = Accounts(self.segment, self.money)
        self.ledger: Any = Ledger(self.store, lambda: NOW)
        self.spool: Any = Spool(self.folder / "usage.spool")
        source: Any = self.money
        if wire is not None:
            self.cells = wire.around(
                self.cells, "put", "open_wallet", "set_balance", "prepare", "apply", "finish"
            )
            self.ledger = wire.around(
                self.ledger, "credit", "freeze", "release", "charge", "repair_cell"
            )
            self.spool = wire.around(self.spool, "append", "take")
            source = wire.around(source, "commit", "resolve_dead")
        cache = self.folder / "accounts.cache"
        self.wallets = Wallets(self.cells, self.ledger, lambda: NOW, cache=cache)
        if wire is not None:
            self.wallets._cache = wire.around(self.wallets._cache, "append", "replace")
        self.pipeline = Pipeline(source, self.wallets, names(), self.spool)
        self.pipeline.replay_s = math.inf  # one step is enough, on a slow machine too

    async def up(self) -> None:
        """Connect the store and catch up."""
        await self.store.connect()
        await self.pipeline.step()

    async def restart(self, wire: Tripwire | None = None, *, up: bool = True) -> None:
        """Control was killed and comes back; the workers and their memory stay."""
        await self.store.stop()
        self.store = Store(self.url)
        self.make(wire)
        await self.pipeline.begin()
        if up:
            await self.up()

    async def reboot(self, wire: Tripwire | None = None, *, up: bool = True) -> None:
        """Everything was killed; files and store stay."""
        await self.store.stop()
        self.store = Store(self.url)
        fcntl.flock(self.money.fd, fcntl.LOCK_UN)  # which the death of the processes does
        self.boot(wire)
        await self.pipeline.begin()
        if up:
            await self.up()

    def use(
        self,
        amount: int,
        account: str = "acc_a",
        worker: int = 0,
        meter: str = "",
        **more: object,
    ) -> str | None:
        """A request that holds and captures; its record's id, None when it was refused."""
        slot = self.wallets.slot(account)
        if slot is None or slot not in self.cells or not self.cells.get(slot).wallets:
            return None  # the gateway is coming up: it knows no such wallet yet
        hold = self.money.hold(
            worker,
            slot,
            amount,
            consumer=stable_hash("con_1"),
            credential=stable_hash("crd_1"),
            route=0,
            service=0,
            plan=0,
            meter=stable_hash(meter) if meter else 0,
            now_ns=NOW_NS,
        )
        if hold is None:
            return None
        hold.capture(amount, now_ns=NOW_NS, **more)  # type: ignore[arg-type]
        return hold.id

    async def agrees(self, account: str = "acc_a", currency: str = "EUR") -> int:
        """Assert that cell and ledger agree when nothing is under way; the balance."""
        wallet = await self.ledger.wallet(account, currency)
        assert wallet is not None
        balance = self.wallets.balance(account, currency)
        assert balance.available == balance.settled == wallet.spendable
        return wallet.customer_available

    def _close_files(self) -> None:
        """What the death of a process does to its descriptors."""
        if hasattr(self, "pipeline"):
            self.pipeline.spool.close()
            self.wallets.close()

    async def close(self) -> None:
        await self.pipeline.close()
        await self.store.stop()
