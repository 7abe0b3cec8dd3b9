"""parking: exchanges that wait for a decision before they go on (see parking.pyx)."""
from libc.stdint cimport uint64_t

from fastgate._core.state cimport Stage, exchange

cdef void park(exchange *e, Stage stage, uint64_t until, int late) noexcept nogil
    # Wait. `unpark` or, at `until` (CLOCK_MONOTONIC ns; 0: no deadline), the deadline ends it: `late` is
    # the Reason with which it then goes on, 0 if the time was all that it waited for.
cdef void unpark(exchange *e, int reason) noexcept nogil          # the decision is here: 0, or a Reason
cdef void parked_late(exchange *e) noexcept nogil                 # its deadline passed
