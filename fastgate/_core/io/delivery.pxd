"""delivery: whether a peer takes what it is sent."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.io.connection cimport conn, delivery, event_loop

cdef int64_t SHOWN_NS         # a rate is judged only after this long

cdef enum Taking:
    TAKEN_ALL = 0             # nothing is left in our queue or the kernel's
    TAKING = 1                # it took something within the time it has: look again at look_ns
    TAKES_NOTHING = 2

cdef void delivery_watch(event_loop *l, delivery *w, uint32_t ms) noexcept nogil
    # Start to watch; forgets earlier observations
cdef int delivery_look(event_loop *l, conn *x, delivery *w, uint32_t ms) noexcept nogil
    # TAKING etc.; ms: how long a peer may take nothing. Sets look_ns; 0 with TAKEN_ALL
cdef int delivery_below(event_loop *l, const delivery *w, uint64_t rate) noexcept nogil
    # After a check: 1 if the peer takes fewer bytes a second than that, once it had enough time to be judged
