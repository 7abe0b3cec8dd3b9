"""count_bench: what counting one request costs (see count_bench.pyx)."""

from fastgate._core.shared.segment import Segment

def bench_count(segment: Segment, slot: int, n: int) -> None: ...
