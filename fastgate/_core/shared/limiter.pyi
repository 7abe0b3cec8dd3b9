from typing_extensions import Buffer

from fastgate._core.shared.cells import Decision
from fastgate._core.shared.segment import Segment

class LimiterTable:
    segment: Segment
    def __init__(self, segment: Segment) -> None: ...
    def take(
        self, key: int, now_ns: int, interval_ns: int, tolerance_ns: int, cost: int = 1
    ) -> Decision: ...
    def peek(self, key: int, now_ns: int, interval_ns: int, tolerance_ns: int) -> Decision: ...
    def give_back(self, key: int, interval_ns: int, cost: int = 1) -> None: ...
    def take_all(
        self,
        keys: Buffer,
        now_ns: int,
        interval_ns: int,
        tolerance_ns: int,
        passed: Buffer | None = None,
    ) -> int: ...
    @property
    def full(self) -> int: ...
    def cells(self) -> list[tuple[int, int | None]]: ...
