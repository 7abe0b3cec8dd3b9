"""lag: how long the events that a loop takes have waited for it."""
from libc.stdint cimport uint32_t, uint64_t

cdef struct loop_lag:
    uint32_t on               # 0: not measured
    uint32_t unknown          # 1: the next wait may come after a sleep of the event loop around us
    uint32_t full             # the last wait returned as many events as it can: there may be more
    double mean_ns            # what decides: see lag.pyx
    uint64_t returned_ns      # when the last wait returned
    uint64_t oldest_ns        # the events of the last wait became ready after this
    uint64_t mark_ns          # a moment in a backlog
    uint64_t taken            # events that were taken since then

cdef void lag_start(loop_lag *g, uint32_t on, uint64_t now) noexcept nogil     # measure, or not; nothing if it does already
cdef void lag_round(loop_lag *g, uint64_t before, uint64_t now, uint32_t n, uint64_t members) noexcept nogil
    # A wait that began at `before` (0: it could not block) has returned n events of an epoll set with so many members.
    # Whoever calls this sets `full` afterwards.
