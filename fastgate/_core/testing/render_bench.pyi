"""render_bench: how long a line of the access log takes (see render_bench.pyx)."""

from fastgate._core.logs.drain import LogDrain

def bench_render(drain: LogDrain, n: int) -> int: ...
