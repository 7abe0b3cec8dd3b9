"""route_bench: how long the lookup of a route takes (see route_bench.pyx)."""

from fastgate._core.snapshot.snapshot import Snapshot

def bench_find(
    snapshot: Snapshot,
    paths: list[bytes],
    rounds: int = 1,
    host: bytes = b"",
    method: bytes = b"GET",
) -> tuple[float, int]: ...
