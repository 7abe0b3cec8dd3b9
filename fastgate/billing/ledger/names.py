"""Names: what shared memory knows by hash and slot, as ids and names.

A request is written down with 64-bit hashes of ids (account, consumer, credential, meter) and with
slots (route, service, plan). Control knows what they stand for; this is the way back. A hash or
slot that stands for nothing known is written as "#" and its number, so that nothing is lost and
everybody sees it; 0 and NO_SLOT mean "none" and are written as "".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastgate._core.money.money_map import NO_SLOT
from fastgate._core.snapshot.snapshot import stable_hash

UNKNOWN = "#"

Ids = Callable[[], Iterable[str]]
Slots = Callable[[], Mapping[str, int]]


class Hashes:
    """Ids by their hash. `ids` gives all that there are; it is asked for each hash that is not
    known, once."""

    REFUSED_MAX = 1000

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._known: dict[int, str] = {}
        self._refused: set[int] = set()

    def changed(self) -> None:
        """There may be ids that were not there before."""
        self._refused.clear()

    def find(self, identity: int) -> str:
        """The id, "" for 0, or "#" and the hash in hexadecimal."""
        if identity == 0:
            return ""
        found = self._known.get(identity)
        if found is None and identity not in self._refused:
            fresh = {stable_hash(ident): ident for ident in self._ids()}
            # Of what is gone meanwhile, usage may still be on its way.
            kept = self._known if len(self._known) < 2 * len(fresh) + self.REFUSED_MAX else {}
            self._known = kept | fresh
            found = self._known.get(identity)
            if found is None:
                if len(self._refused) >= self.REFUSED_MAX:
                    self._refused.clear()
                self._refused.add(identity)
        return unknown(identity) if found is None else found


class SlotNames:
    """Names by their slot. `slots` gives all that there are, by name; it is asked for each slot
    that is not known, and again after `changed`."""

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
    """All of them. Accounts are `balances`' business."""

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
        """Another configuration is served, or the directory was read: slots may stand for other
        names, and hashes for ids that were not known before."""
        for slots in (self._routes, self._services, self._plans):
            slots.changed()
        for hashes in (self._consumers, self._credentials, self._meters):
            hashes.changed()


def unknown(identity: int) -> str:
    """How a hash is written that stands for nothing known."""
    return f"{UNKNOWN}{identity:016x}"
