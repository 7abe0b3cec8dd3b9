import os
from enum import IntEnum
from typing import Self

from fastgate._core.shm import Segment

POLICIES: dict[str, int]

class HoldState(IntEnum):
    HOLD_FREE = 0
    HOLD_INTENT = 1
    HOLD_HELD = 2
    HOLD_SETTLING = 3
    HOLD_SETTLED = 4
    HOLD_PARKED = 5

class UsageFlag(IntEnum):
    USAGE_CAPTURED = 1
    USAGE_FREE = 2
    USAGE_REFUNDED = 4
    USAGE_RECOVERED = 8

class MoneyMap:
    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str] | None,
        workers: int,
        *,
        holds: int = ...,
        ring: int = ...,
    ) -> Self: ...
    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        workers: int,
        *,
        policy: str = "due",
        holds: int = ...,
        ring: int = ...,
    ) -> Self: ...
    @classmethod
    def attach(cls, fd: int) -> Self: ...
    def private_copy(self, segment: Segment) -> Self: ...
    def bind(self, segment: Segment) -> None: ...
    @property
    def fd(self) -> int: ...
    @property
    def segment(self) -> Segment: ...
    @property
    def workers(self) -> int: ...
    @property
    def boot_id(self) -> str: ...
    owned_until_ns: int
    @property
    def boots(self) -> int: ...
    @property
    def holds(self) -> int: ...
    @property
    def ring(self) -> int: ...
    @property
    def bytes(self) -> int: ...
