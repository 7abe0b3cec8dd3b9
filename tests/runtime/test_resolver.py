"""Names: asked off the hot path, last good answers kept, changes told."""

from __future__ import annotations

import asyncio
import socket

from fastgate.runtime.control.resolver import Address, Resolver, system_lookup

ONE: Address = (socket.AF_INET, ("10.0.0.1", 80))
TWO: Address = (socket.AF_INET, ("10.0.0.2", 80))
KEY = ("app.internal", 80)


class Names:
    """A name server: answers from a table; a missing name fails, `hold` makes it wait."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, int], list[Address]] = {}
        self.asked = 0
        self.hold: asyncio.Event | None = None
        self.heard = asyncio.Event()

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        self.heard.set()
        if self.hold is not None:
            await self.hold.wait()
        if (host, port) not in self.table:
            raise OSError("Name or service not known")
        return self.table[host, port]


class Told:
    def __init__(self) -> None:
        self.count = 0
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.event.set()


async def test_answers_are_there_after_add() -> None:
    names = Names()
    names.table[KEY] = [TWO, ONE, TWO]
    resolver = Resolver(Told(), lookup=names)
    await resolver.add([KEY, KEY], 5.0)
    assert resolver.addresses() == {"app.internal:80": [ONE, TWO]}
    assert resolver.unresolved() == {}
    await resolver.add([KEY], 5.0)
    assert names.asked == 1


async def test_a_failure_keeps_the_last_good_answer() -> None:
    names = Names()
    names.table[KEY] = [ONE]
    resolver = Resolver(Told(), lookup=names)
    await resolver.add([KEY], 5.0)
    del names.table[KEY]
    assert not await resolver.refresh()
    assert resolver.addresses() == {"app.internal:80": [ONE]}


async def test_a_name_that_never_resolved_says_why() -> None:
    resolver = Resolver(Told(), lookup=Names())
    await resolver.add([KEY], 5.0)
    assert resolver.addresses() == {}
    assert resolver.unresolved() == {"app.internal:80": "Name or service not known"}


async def test_only_another_set_is_a_change() -> None:
    names = Names()
    names.table[KEY] = [ONE, TWO]
    resolver = Resolver(Told(), lookup=names)
    await resolver.add([KEY], 5.0)
    names.table[KEY] = [TWO, ONE]
    assert not await resolver.refresh()
    names.table[KEY] = [TWO]
    assert await resolver.refresh()
    assert resolver.addresses() == {"app.internal:80": [TWO]}


async def test_a_slow_name_server_does_not_hold_the_start_and_is_heard_later() -> None:
    names = Names()
    names.table[KEY] = [ONE]
    names.hold = asyncio.Event()
    told = Told()
    resolver = Resolver(told, lookup=names)
    await resolver.add([KEY], 0.0)
    assert "no answer" in resolver.unresolved()["app.internal:80"]
    names.hold.set()
    await told.event.wait()
    assert resolver.addresses() == {"app.internal:80": [ONE]}


async def test_names_are_asked_again_and_changes_told() -> None:
    names = Names()
    names.table[KEY] = [ONE]
    told = Told()
    resolver = Resolver(told, interval=0.001, lookup=names)
    resolver.start()
    await resolver.add([KEY], 5.0)
    names.table[KEY] = [TWO]
    await told.event.wait()
    assert resolver.addresses() == {"app.internal:80": [TWO]}
    await resolver.stop()


async def test_names_out_of_use_are_forgotten() -> None:
    names = Names()
    names.table[KEY] = [ONE]
    resolver = Resolver(Told(), lookup=names)
    await resolver.add([KEY], 5.0)
    resolver.keep_only([])
    assert resolver.addresses() == {}


async def test_the_system_knows_this_machine() -> None:
    assert (socket.AF_INET, ("127.0.0.1", 80)) in await system_lookup("127.0.0.1", 80)
