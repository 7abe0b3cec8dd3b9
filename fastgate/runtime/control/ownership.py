"""Being the one gateway that prices requests by its store (`fastgate.store.owner`).

Workers hold money only until `MoneyMap.owned_until_ns`, which is moved on here after each look at
the store:

    it says we are the owner      by LEASE_S
    it cannot be asked            by LEASE_S too: an outage of the store must not stop the gateway,
                                  and nobody takes over through an unavailable store
    another has taken over        never again; the gateway ends

So a gateway that was paused, or whose control process was, stops granting LEASE_S after its last
look by itself, which is before anybody else may take over, and grants again only when it has asked.
(Two gateways of which one alone is cut off from the store are not kept apart.)
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
LEASE_S = 10.0  # less than owner.EXPIRY, by more than a look may take
LOOK_S = 2.0  # a store that has not answered by then is unavailable
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
        self._mine = False  # it was ours when we looked last
        self._lost = False

    async def begin(self) -> None:
        """Claim the store before anything is served. Raises OwnedError. An unavailable store is
        claimed later (`run`)."""
        began = time.monotonic_ns()
        store = self._store.copy()  # nobody else is to hear yet that it is there
        try:
            async with asyncio.timeout(START_S):
                await store.connect()
                await store.run_write(self._claim)
                self._mine = True
        except (StoreError, TimeoutError) as error:
            log.warning(
                "Whose the store is cannot be asked yet, and is asked later: %s",
                str(error) or f"no answer within {START_S:.0f} s",
            )
        finally:
            await store.stop()
        self._go_on(began)

    async def run(self) -> None:
        """Keep it, until cancelled or lost."""
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
        """Leave it to the next."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=LOOK_S)
        if not self._lost and self._store.ready:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._store.run_write(lambda c: owner.release(c, self._me))
            except (StoreError, TimeoutError) as error:
                log.info("The store could not be released: %s", error)

    async def _look(self, began: int) -> None:
        """Ask the store. Raises OwnedError."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait({self._looking}, timeout=LOOK_S)
        if done:
            task, self._looking = self._looking, None
            try:
                task.result()
            except StoreError as error:
                log.debug("Whose the store is cannot be asked: %s", error)
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
            log.info("took the store over from the gateway on %s (pid %d)", before.node, before.pid)

    def _go_on(self, began: int) -> None:
        self._money_map.owned_until_ns = began + int(LEASE_S * 1e9)


def this_gateway(state: StateDirectory, boot: str) -> Owner:
    """This gateway as an owner. `boot`: the segment's. Raises StateError."""
    content = state.read(FILE)
    if not content:
        content = uuid.uuid4().hex.encode()
        state.write(FILE, content)
    # A copy of the directory has the same content, in another file.
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
