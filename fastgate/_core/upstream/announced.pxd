"""announced: PROXY headers to targets: whom a connection announces, and who may use it again."""
from fastgate._core.state cimport call, core, downstream, pool, upstream

cdef int announce(core *c, const call *k, upstream *u) noexcept nogil
    # send the PROXY header of the call on its new connection, before TLS; 0, or -1
cdef upstream *announced_find(core *c, const call *k, const pool *p) noexcept nogil
    # an idle connection to the pool's target that has announced the call's client; NULL: there is none
cdef void announced_idle(core *c, upstream *u) noexcept nogil     # from now on it can be found
cdef void announced_busy(core *c, upstream *u) noexcept nogil     # no longer
cdef void announced_left(core *c, const downstream *d) noexcept nogil
    # the client has closed its connection: nobody needs those that announced it
cdef void announced_forget(upstream *u) noexcept nogil            # the connection is closed
cdef void announced_free(core *c) noexcept nogil
