"""Slots: the numbers by which shared memory knows routes, services, upstreams, targets, plans.

A name keeps its number over reloads and over restarts of control (the book is written to the
state directory), so that counters, health and consumers' plans stay with their owner.

- A name that leaves the configuration is *retired*: its number is kept for it, in case it comes
  back, and not given to another owner, because shared memory still holds its counts.
- Targets are the exception: their rows carry the identity of their owner, so the lowest free
  number is given out at once. The engine has only so many (`MAX_TARGETS`).
- `forget_retired` frees the numbers of retired names, when shared memory is new. Those of plans
  stay taken: consumers refer to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

SlotKind = Literal["routes", "services", "upstreams", "targets", "plans"]

MAX_TARGETS = 4096
"""Targets, over all upstreams, that a worker has pools for."""


class SlotBook(msgspec.Struct, kw_only=True):
    """Name → number, by kind. Serialised with msgspec as it is."""

    routes: dict[str, int] = {}
    services: dict[str, int] = {}
    upstreams: dict[str, int] = {}
    targets: dict[str, int] = {}
    plans: dict[str, int] = {}
    retired: dict[str, dict[str, int]] = {}

    def allot(self, kind: SlotKind, names: Iterable[str]) -> dict[str, int]:
        """The numbers of these names, which are all there are of the kind from now on."""
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
        """A book of its own with the same entries."""
        return SlotBook(
            routes=dict(self.routes),
            services=dict(self.services),
            upstreams=dict(self.upstreams),
            targets=dict(self.targets),
            plans=dict(self.plans),
            retired={kind: dict(names) for kind, names in self.retired.items()},
        )


def _lowest(before: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """What is in use keeps its number, what is new gets the lowest free one."""
    wanted = list(dict.fromkeys(names))
    now = {name: before[name] for name in wanted if name in before}
    taken = set(now.values())
    free = (n for n in range(len(wanted) + len(taken) + 1) if n not in taken)
    for name in wanted:
        if name not in now:
            now[name] = next(free)
    return now
