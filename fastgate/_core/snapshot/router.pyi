from collections.abc import Sequence
from typing import NamedTuple

from fastgate._core.snapshot.snapshot import Snapshot

METHODS: tuple[str, ...]

class Found(NamedTuple):
    status: int
    route: int | None
    name: str | None
    params: tuple[str, ...]
    allowed: frozenset[str]

class Router:
    @property
    def snapshot(self) -> Snapshot: ...
    def __init__(self, snapshot: Snapshot, ahead: bool = False) -> None: ...
    def find(
        self,
        host: str = "",
        path: str = "/",
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        query: str | None = None,
    ) -> Found: ...
