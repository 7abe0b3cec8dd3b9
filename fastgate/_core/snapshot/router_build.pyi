from fastgate._core.snapshot.image import ImageBuilder
from fastgate._core.snapshot.snapshot import Snapshot

METHOD_NUMBERS: dict[str, int]
ANY_METHOD: int

class RouteConflict(ValueError):
    first: int
    second: int
    host: str
    pattern: str
    def __init__(self, first: int, second: int, host: str, pattern: str) -> None: ...

class TrieTooBroad(ValueError):
    host: str
    visits: int
    def __init__(self, host: str, visits: int) -> None: ...

def method_mask(methods: list[str]) -> tuple[int, tuple[str, ...]]: ...
def pattern_params(pattern: str) -> list[str]: ...
def verify_router(snapshot: Snapshot) -> None: ...

class RouterBuilder:
    def __init__(self) -> None: ...
    def add(
        self,
        route: int,
        name: str,
        *,
        hosts: list[str],
        pattern: str,
        methods: int,
        tokens: tuple[str, ...] = (),
        ranking: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None: ...
    def build(self, image: ImageBuilder) -> bytes: ...
