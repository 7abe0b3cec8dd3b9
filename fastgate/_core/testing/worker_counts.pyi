"""worker_counts: counting as a worker does (see worker_counts.pyx)."""

from collections.abc import Sequence

from fastgate._core.shared.segment import Segment

WORKER_COUNTERS: tuple[str, ...]

def count_request(
    segment: Segment,
    worker: int,
    slot: int,
    status: int,
    *,
    reason: int = 0,
    gateway_ns: int = 0,
    total_ns: int = 0,
    upstream_ns: int = 0,
    bytes_in: int = 0,
    bytes_out: int = 0,
    delays: int = 0,
    aborts: int = 0,
    validated: int = 0,
    mirrored: Sequence[int] = (),
    shed: int = 0,
) -> None: ...
def count_worker(segment: Segment, worker: int, name: str, n: int = 1) -> None: ...
def bucket_of(ns: int) -> int: ...
