"""deadline: what an upstream connection waits for, and until when."""
from fastgate._core.state cimport core, upstream

cdef void up_deadline(core *c, upstream *u) noexcept nogil
    # set it, by the call's state; a connection that has no call has the pool's
cdef int still_reads(core *c, upstream *u) noexcept nogil
    # whether the target is not through with the request yet, or got through just now: more time for it
