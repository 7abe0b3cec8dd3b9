"""ticker: a timer of its own, for what cannot wait for a tick of the wheel (17 ms)."""
from libc.stdint cimport uint64_t

from fastgate._core.io.connection cimport conn, event_loop

cdef int ticker_open(event_loop *l, conn *x) noexcept nogil         # 0, or -1
cdef void ticker_set(conn *x, uint64_t ns) noexcept nogil           # one event, at this time of CLOCK_MONOTONIC
cdef void ticker_close(conn *x) noexcept nogil
