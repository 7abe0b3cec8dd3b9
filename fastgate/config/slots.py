"""Slots: the numbers of routes, services, upstreams, targets and plans in shared memory.

A name keeps its number across reloads and restarts of control (the book is written to the state
directory), so that counters, health and consumers' plans stay with their owner.

- Each service of a route with a split has a number among those of routes (`config/splits.py`).
- A name that is removed from the configuration is *retired*: its number is reserved in case the
  name returns, and not reused, because shared memory still has its counts.
- Targets are the exception: their rows have the identity of their owner, so the lowest free number
  is reused at once. The engine has a limited number of them (`MAX_TARGETS`).
- `forget_retired` frees the numbers of retired names when shared memory is new. Those of plans stay
  reserved, because consumers refer to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

SlotKind = Literal["routes", "services", "upstreams", "targets", "plans"]

MAX_TARGETS = 4096
"""Maximum targets of all upstreams together: a worker has this many pools."""


class SlotBook(msgspec.Struct, kw_only=True):
    """Name → number, by kind. Serialised with msgspec as it is."""

    routes: dict[str, int] = {}
    services: dict[str, int] = {}
    upstreams: dict[str, int] = {}
    targets: dict[str, int] = {}
    plans: dict[str, int] = {}
    retired: dict[str, dict[str, int]] = {}

    def allot(self, kind: SlotKind, names: Iterable[str]) -> dict[str, int]:
        """The numbers of these names; all other names of the kind are now unused."""
        before: dict[str, int] = getattr(self, kind)
        now = _lowest(before, names) if kind == "targets" else self._kept(kind, before, names)
        setattr(self, kind, now)
        return now

    def _kept(self, kind: str, before: dict[str, int], names: Iterable[str]) -> dict[str, int]:
        retired = self.retired.setdefault(kind, {})
        retired.update(before)
        following = 1 + max(retired.values(), default=-1)
        now: dict[str, int] = {}
        for name in names:
            slot = retired.pop(name, -1)
            if slot < 0:
                if name in now:
                    continue
                slot = following
                following += 1
            now[name] = slot
        return now

    def ever(self, kind: SlotKind) -> dict[str, int]:
        """The numbers of names in use and of retired ones."""
        now: dict[str, int] = getattr(self, kind)
        return {**self.retired.get(kind, {}), **now}

    def forget_retired(self) -> None:
        """Free the numbers of names that are not in use (not those of plans)."""
        self.retired = {kind: names for kind, names in self.retired.items() if kind == "plans"}

    def copy(self) -> SlotBook:
        """A copy of the book."""
        return SlotBook(
            routes=dict(self.routes),
            services=dict(self.services),
            upstreams=dict(self.upstreams),
            targets=dict(self.targets),
            plans=dict(self.plans),
            retired={kind: dict(names) for kind, names in self.retired.items()},
        )


def _lowest(before: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """Names in use keep their numbers, new ones get the lowest free number."""
    wanted = list(dict.fromkeys(names))
    now = {name: before[name] for name in wanted if name in before}
    taken = set(now.values())
    free = (n for n in range(len(wanted) + len(taken) + 1) if n not in taken)
    for name in wanted:
        if name not in now:
            now[name] = next(free)
    return now
