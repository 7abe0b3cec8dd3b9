"""deadlines: what a client's connection waits for, and until when (see deadlines.pyx)."""
from libc.stdint cimport uint64_t

from fastgate._core.state cimport core, downstream

cdef enum Passing:            # what happens when a deadline passes
    PASSES_CLOSE = 1
    PASSES_UNREAD = 2         # check whether the client takes its answer: more time, a reset, or a close when idle
    PASSES_NO_HEAD = 3        # 408
    PASSES_LATE = 4           # 408 or 504, or the answer breaks off
    PASSES_REST = 5           # free what TLS keeps for a connection in use
    PASSES_NO_CLIENT = 6      # no PROXY header came: close

cdef uint64_t down_until(const downstream *d) noexcept nogil     # CLOCK_MONOTONIC ns; 0: no deadline
cdef int down_passes(const downstream *d) noexcept nogil         # Passing; 0: nothing is waited for
cdef int body_slow(core *c, downstream *d) noexcept nogil         # whether the client sends below the minimum rate
