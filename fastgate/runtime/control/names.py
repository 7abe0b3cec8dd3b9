"""The names of targets: followed while they change, and kept in the state directory.

    resolver ── another answer ──▶ names.json ──▶ publish the configuration again
                                                   │ fails: again in 5 s

A control process that starts uses the answers of the last one, until it has its own: a restart
while no name server answers changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fastgate.config.rendering import Found, ServiceAddress
from fastgate.errors import FastGateError
from fastgate.observability.metrics import Family, Sample, escape
from fastgate.runtime.control.name_lookup import NameLookup
from fastgate.runtime.control.resolver import Resolver
from fastgate.runtime.persist import StateDirectory, StateError

log = logging.getLogger("fastgate.control")

FILE = "names.json"
AGAIN_S = 5.0

LOOKUPS = Family(
    "fastgate_dns_lookups_total", "counter", "Lookups of the names of targets, by their result."
)
AGE = Family(
    "fastgate_dns_age_seconds", "gauge", "Time since a name of targets was last resolved, by name."
)
DNS_FAMILIES = (LOOKUPS, AGE)


class KeptAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A `Found`, as it is written."""

    family: int
    address: tuple[Any, ...]
    host: str = ""  # with priority and weight: of an SRV record
    priority: int = 0
    weight: int = 0


class Names:
    """The resolver of the served configuration, and what follows from its answers."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._changed = asyncio.Event()
        self._saved = b"{}"
        lookup = NameLookup()
        self.resolver = Resolver(
            self._changed.set,
            lookup=lookup,
            on_configure=lookup.configure,
            known=read_names(state),
        )

    async def run(self, republish: Callable[[], Awaitable[None]]) -> None:
        """Publish again whenever answers have changed."""
        self.resolver.start()
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self.save()
                try:
                    await republish()
                except FastGateError as error:
                    log.error("new addresses of targets could not be published: %s", error)
                    await asyncio.sleep(AGAIN_S)
                    self._changed.set()
        finally:
            await self.resolver.stop()

    def save(self) -> None:
        """Keep the answers for the next process."""
        content = msgspec.json.encode(kept(self.resolver.addresses()))
        if content == self._saved:
            return
        try:
            self._state.write(FILE, content)
            self._saved = content
        except StateError as error:
            log.error("%s; a restart would not know the addresses of targets", error)

    def samples(self) -> Iterator[Sample]:
        """What there is to show now."""
        for result, count in self.resolver.counts.items():
            yield Sample(LOOKUPS, f'result="{result}"', count)
        for name, age in self.resolver.ages().items():
            yield Sample(AGE, f'name="{escape(name)}"', f"{age:.3f}")


def kept(addresses: Mapping[str, Sequence[Found]]) -> dict[str, list[KeptAddress]]:
    """As they are written."""
    return {
        name: [
            KeptAddress(
                family=one.family,
                address=one.address,
                host=one.host,
                priority=one.priority,
                weight=one.weight,
            )
            if isinstance(one, ServiceAddress)
            else KeptAddress(family=one[0], address=one[1])
            for one in found
        ]
        for name, found in addresses.items()
    }


def read_names(state: StateDirectory) -> dict[str, list[Found]]:
    """The answers of the last process; none if there is no file, or it is damaged."""
    content = state.read(FILE)
    if content is None:
        return {}
    try:
        names = msgspec.json.decode(content, type=dict[str, list[KeptAddress]])
    except msgspec.DecodeError as error:
        log.error("%s cannot be used (%s; kept as %s)", FILE, error, state.set_aside(FILE))
        return {}
    return {
        name: [
            ServiceAddress(one.family, one.address, one.host, one.priority, one.weight)
            if one.host
            else (one.family, one.address)
            for one in found
        ]
        for name, found in names.items()
    }
