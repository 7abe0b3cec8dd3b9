"""Names: asked off the hot path, last good answers kept, changes told."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastgate.config.rendering import Address, Found
from fastgate.model.gateway import Dns, Duration, NameServer
from fastgate.runtime.control.name_lookup import Answer, NotFound
from fastgate.runtime.control.resolver import Resolver

ONE: Address = (socket.AF_INET, ("10.0.0.1", 80))
TWO: Address = (socket.AF_INET, ("10.0.0.2", 80))
KEY = ("app.internal", 80)


class Names:
    """A name server: answers from a table; a missing name fails, `hold` makes it wait."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, int], list[Found]] = {}
        self.ttl: float | None = 60
        self.asked = 0
        self.hold: asyncio.Event | None = None
        self.heard = asyncio.Event()

    async def __call__(self, host: str, port: int) -> Answer:
        self.asked += 1
        self.heard.set()
        if self.hold is not None:
            await self.hold.wait()
        if (host, port) not in self.table:
            raise NotFound("Name or service not known")
        return Answer(self.table[host, port], self.ttl)


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
    names.ttl = 0
    resolver = Resolver(told, lookup=names)
    resolver.configure(Dns(min_ttl=Duration.parse("100ms")))
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


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("ttl", "due"), [(0, 5), (4, 5), (6, 6), (299, 299), (3600, 300), (None, 30)]
)
async def test_a_name_is_asked_for_again_after_its_ttl_within_bounds(
    ttl: float | None, due: float
) -> None:
    names, clock = Names(), Clock()
    names.table[KEY], names.ttl = [ONE], ttl
    resolver = Resolver(Told(), lookup=names, clock=clock)
    await resolver.add([KEY], 5.0)
    assert resolver.due(*KEY) == due
    clock.now += 2
    assert resolver.due(*KEY) == due - 2
    assert resolver.ages() == {"app.internal:80": 2}


async def test_bounds_from_the_configuration() -> None:
    names, clock = Names(), Clock()
    names.table[KEY], names.ttl = [ONE], 3600
    resolver = Resolver(Told(), lookup=names, clock=clock)
    resolver.configure(Dns(max_ttl=Duration.parse("1h")))
    await resolver.add([KEY], 5.0)
    assert resolver.due(*KEY) == 3600
    # A shorter maximum holds for what was asked before, and other servers are asked at once.
    resolver.configure(Dns(max_ttl=Duration.parse("1m")))
    assert resolver.due(*KEY) == 60
    told: list[Dns] = []
    resolver = Resolver(Told(), lookup=names, clock=clock, on_configure=told.append)
    await resolver.add([KEY], 5.0)
    other = Dns(servers=[NameServer.parse("10.0.0.53")])
    resolver.configure(other)
    assert (resolver.due(*KEY), told) == (0, [other])


async def test_failures_are_repeated_with_back_off_and_counted() -> None:
    names, clock = Names(), Clock()
    resolver = Resolver(Told(), lookup=names, clock=clock)
    await resolver.add([KEY], 5.0)
    dues = [resolver.due(*KEY)]
    for _ in range(7):
        await resolver.refresh()
        dues.append(resolver.due(*KEY))
    assert dues == [1, 2, 4, 8, 16, 30, 30, 30]
    assert resolver.counts == {"answered": 0, "not_found": 8, "failed": 0}


async def test_addresses_of_an_earlier_process_until_there_is_an_answer() -> None:
    names = Names()
    resolver = Resolver(Told(), lookup=names, known={"app.internal:80": [TWO]})
    await resolver.add([KEY], 5.0)
    assert resolver.addresses() == {"app.internal:80": [TWO]}
    names.table[KEY] = [ONE]
    assert await resolver.refresh()
    assert resolver.addresses() == {"app.internal:80": [ONE]}
