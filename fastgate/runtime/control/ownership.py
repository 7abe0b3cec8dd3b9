"""Ownership of the store by the one gateway that prices requests (`fastgate.store.owner`).

Workers hold money only until `MoneyMap.owned_until_ns`, which is extended here after each check of
the store:

    we are the owner              by LEASE_S
    the store is unavailable      by LEASE_S too: an outage of the store must not stop the gateway,
                                  and no other gateway can take over without the store
    another has taken over        never again; the gateway ends

So if a gateway, or only its control process, is paused, it stops granting LEASE_S after its last
check, which is before another one may take over. It grants again only after a new check. (This does
not protect against a gateway that is cut off from a store which the other one can reach.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from fastgate._core.money.money_map import MoneyMap
from fastgate.errors import OwnedError, StoreError
from fastgate.runtime.persist import StateDirectory
from fastgate.store import owner
from fastgate.store.owner import Owner

if TYPE_CHECKING:
    from fastgate.store.engine import Store

log = logging.getLogger("fastgate.billing")

FILE = "owner.id"
BEAT_S = 2.0
LEASE_S = 10.0  # less than owner.EXPIRY, by more than a check may take
LOOK_S = 2.0  # after this time without an answer, the store is unavailable
START_S = 4.0  # at a start, for the store to answer
OVER = 1  # owned_until_ns: long ago


class Ownership:
    """`on_lost` is called once, with a message, when another gateway has taken over."""

    def __init__(
        self, store: Store, money_map: MoneyMap, me: Owner, on_lost: Callable[[str], None]
    ) -> None:
        self._store = store
        self._money_map = money_map
        self._me = me
        self._on_lost = on_lost
        self._looking: asyncio.Task[None] | None = None
        self._mine = False  # it was ours at the last check
        self._lost = False

    async def begin(self) -> None:
        """Claim the store before anything is served. Raises OwnedError. If the store is
        unavailable, `run` claims it later."""
        began = time.monotonic_ns()
        store = self._store.copy()  # other parts must not see it yet
        try:
            async with asyncio.timeout(START_S):
                await store.connect()
                await store.run_write(self._claim)
                self._mine = True
        except (StoreError, TimeoutError) as error:
            log.warning(
                "The owner of the store is unknown, and will be checked later: %s",
                str(error) or f"no answer within {START_S:.0f} s",
            )
        finally:
            await store.stop()
        self._go_on(began)

    async def run(self) -> None:
        """Keep the ownership, until cancelled or lost."""
        while not self._lost:
            await asyncio.sleep(BEAT_S)
            try:
                await self._look(time.monotonic_ns())
            except OwnedError as error:
                self._lost = True
                self._money_map.owned_until_ns = OVER
                log.critical("%s", error)
                self._on_lost(str(error))
        await asyncio.Event().wait()

    async def end(self) -> None:
        """Release it for the next gateway."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=LOOK_S)
        if not self._lost and self._store.ready:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._store.run_write(lambda c: owner.release(c, self._me))
            except (StoreError, TimeoutError) as error:
                log.info("The store could not be released: %s", error)

    async def _look(self, began: int) -> None:
        """Check the owner in the store. Raises OwnedError."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait({self._looking}, timeout=LOOK_S)
        if done:
            task, self._looking = self._looking, None
            try:
                task.result()
            except StoreError as error:
                log.debug("The owner of the store cannot be checked: %s", error)
        self._go_on(began)

    async def _ask(self) -> None:
        if self._mine:
            await self._store.run_write(lambda connection: owner.renew(connection, self._me))
        else:
            await self._store.run_write(self._claim)
            self._mine = True

    def _claim(self, connection: sa.Connection) -> None:
        before = owner.claim(connection, self._me)
        if before is not None:
            log.info("took over the store from the gateway on %s (pid %d)", before.node, before.pid)

    def _go_on(self, began: int) -> None:
        self._money_map.owned_until_ns = began + int(LEASE_S * 1e9)


def this_gateway(state: StateDirectory, boot: str) -> Owner:
    """This gateway as an owner. `boot`: of the segment. Raises StateError."""
    content = state.read(FILE)
    if not content:
        content = uuid.uuid4().hex.encode()
        state.write(FILE, content)
    # The inode tells a copy of the directory from the original.
    inode = (state.path / FILE).stat().st_ino
    supervisor = os.getppid()
    return Owner(
        boot=boot,
        state=f"{content.decode(errors='replace').strip()[:32]}:{inode}",
        machine=owner.machine(),
        node=platform.node() or "unknown",
        folder=str(state.path),
        pid=supervisor,
        born=owner.started_at(supervisor),
    )
