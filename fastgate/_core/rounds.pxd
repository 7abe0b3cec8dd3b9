"""rounds: the poll loop of an engine."""
from fastgate._core.state cimport core
from fastgate._core.upstream.waiting cimport places_freed

cdef void rounds(core *c) noexcept nogil
    # handle what is ready, without waiting, within a time limit
cdef int one_round(core *c, int timeout) noexcept nogil
    # one round, which waits for up to `timeout` ms (-1: no limit); how many events there were
cdef void finish_rounds(core *c) noexcept nogil     # after the last one, before the next wait
cdef void read_window_clock(core *c) noexcept nogil
cdef void bury(core *c, int all) noexcept nogil
    # free the connections that are closed. all: also those in the ready list, as no round follows
cdef void publish(core *c) noexcept nogil           # the worker's row in the segment

cdef inline int has_more(const core *c) noexcept nogil:
    """Whether something is left that no event will announce."""
    return (c.loop.ready.head is not NULL or c.loop.turns.head is not NULL or c.loop.graveyard is not NULL
            or c.unpin_at is not NULL or c.upcall_head is not NULL or places_freed(c))


cdef inline int for_python(const core *c) noexcept nogil:
    return c.upcall_head is not NULL or c.wake_head is not NULL or c.released is not NULL or c.n_questions != 0
