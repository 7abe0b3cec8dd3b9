import os
from typing import Self

from fastgate._core.shared.segment import Segment

class MoneyFile:
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
