from typing import final

from fastgate._core.snapshot.snapshot import Snapshot

@final
class Sample:
    def __init__(
        self,
        snapshot: Snapshot,
        *,
        route: int = -1,
        accept: list[bytes] = ...,
        host: bytes = b"",
        request_id: bytes = ...,
        consumer: int = 0,
        balance: int = 0,
        required: int = 0,
        currency: str = "",
        spending: int = 0,
        resets: int = 0,
        now: int = 0,
        limit: int = -1,
    ) -> None: ...
    def render(self, reason: int) -> bytes: ...
    def bench(self, reason: int, n: int) -> float: ...
