"""render_bench: how long a line of the access log takes."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.logs.drain cimport LogDrain
from fastgate._core.logs.format cimport format_combined, format_json
from fastgate._core.shared.log_ring cimport log_record


def bench_render(LogDrain drain not None, uint64_t n) -> int:
    """Render the newest kept record n times, in C; returns the bytes of one line."""
    cdef bint combined = drain.format == "combined"
    cdef uint64_t i
    cdef uint32_t size = 0
    cdef log_record *r
    drain._ready()
    if drain.recent is None or drain.recent.records == NULL:
        raise ValueError("no record was kept to render")
    r = drain.recent.records + (drain.recent.kept - 1) % drain.recent.capacity
    with nogil:
        for i in range(n):
            r.started_unix_ns += 1000
            if combined:
                size = format_combined(r, drain.buffer, &drain.clock)
            else:
                size = format_json(r, drain.buffer, &drain.clock, drain.phases)
    return size
