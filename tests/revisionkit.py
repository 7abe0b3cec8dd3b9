"""A control process that serves at once what it is given, for tests of revisions."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway, Plan


def gateway(*plans: str, **more: Any) -> Gateway:
    return decode({"version": 1, "plans": [{"name": name} for name in plans], **more}, Gateway)


class Control:
    """A control process that serves at once what it is given."""

    def __init__(self, first: Gateway) -> None:
        self.gateway = first
        self.generation = 1
        self.file = self.applied_file = self.started = first
        self.fail: Exception | None = None

    async def apply(self, gateway: Gateway, *, dry_run: bool = False) -> int:
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
        if dry_run:
            return self.generation + 1
        self.gateway = gateway
        if gateway is self.file:
            self.applied_file = gateway
        self.generation += 1
        return self.generation

    async def load_file(self) -> Gateway:
        return self.file

    @property
    def file_before(self) -> Gateway | None:
        return self.applied_file

    def pending_restart(self, gateway: Gateway) -> list[str]:
        return ["workers"] if gateway.workers != self.started.workers else []


def adding(name: str) -> Any:
    def edit(current: Gateway) -> Gateway:
        return msgspec.structs.replace(current, plans=[*current.plans, Plan(name=name)])

    return edit
