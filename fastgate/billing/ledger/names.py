"""Names: maps the hashes and slots of shared memory to ids and names.

A request is recorded with 64-bit hashes of ids (account, consumer, credential, meter) and with
slots (route, service, plan). Control knows their meaning; this module looks it up. An unknown hash
or slot is written as "#" and its number, so that it is visible and nothing is lost; 0 and NO_SLOT
mean "none" and are written as "".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastgate._core.money.money_map import NO_SLOT
from fastgate._core.snapshot.snapshot import stable_hash

UNKNOWN = "#"

Ids = Callable[[], Iterable[str]]
Slots = Callable[[], Mapping[str, int]]


class Hashes:
    """Ids by their hash. `ids` returns all of them; it is called once for each unknown hash."""

    REFUSED_MAX = 1000

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._known: dict[int, str] = {}
        self._refused: set[int] = set()

    def changed(self) -> None:
        """There may be new ids."""
        self._refused.clear()

    def find(self, identity: int) -> str:
        """The id, "" for 0, or "#" and the hash in hexadecimal."""
        if identity == 0:
            return ""
        found = self._known.get(identity)
        if found is None and identity not in self._refused:
            fresh = {stable_hash(ident): ident for ident in self._ids()}
            # Old ids stay: their usage may still arrive.
            kept = self._known if len(self._known) < 2 * len(fresh) + self.REFUSED_MAX else {}
            self._known = kept | fresh
            found = self._known.get(identity)
            if found is None:
                if len(self._refused) >= self.REFUSED_MAX:
                    self._refused.clear()
                self._refused.add(identity)
        return unknown(identity) if found is None else found


class SlotNames:
    """Names by their slot. `slots` returns all of them, by name; it is called for each unknown
    slot, and again after `changed`."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._known: dict[int, str] = {}

    def find(self, slot: int) -> str:
        """The name, "" for NO_SLOT, or "#" and the slot."""
        if slot == NO_SLOT:
            return ""
        found = self._known.get(slot)
        if found is None:
            self._known = {number: name for name, number in self._slots().items()}
            found = self._known.get(slot)
        return f"{UNKNOWN}{slot}" if found is None else found

    def changed(self) -> None:
        """A slot may have another name now."""
        self._known = {}


class Names:
    """All of them except accounts, which `balances` has."""

    def __init__(
        self,
        *,
        consumers: Ids,
        credentials: Ids,
        routes: Slots,
        services: Slots,
        plans: Slots,
        meters: Ids,
    ) -> None:
        self._consumers = Hashes(consumers)
        self._credentials = Hashes(credentials)
        self._routes = SlotNames(routes)
        self._services = SlotNames(services)
        self._plans = SlotNames(plans)
        self._meters = Hashes(meters)
        self.consumer = self._consumers.find
        self.credential = self._credentials.find
        self.route = self._routes.find
        self.service = self._services.find
        self.plan = self._plans.find
        self.meter = self._meters.find

    def changed(self) -> None:
        """A new configuration is served, or the directory was read: slots may have other names, and
        hashes may belong to new ids."""
        for slots in (self._routes, self._services, self._plans):
            slots.changed()
        for hashes in (self._consumers, self._credentials, self._meters):
            hashes.changed()


def unknown(identity: int) -> str:
    """The text for an unknown hash."""
    return f"{UNKNOWN}{identity:016x}"
