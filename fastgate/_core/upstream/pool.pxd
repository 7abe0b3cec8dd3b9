"""pool: which target takes a call, and the idle connections to each."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport target_row
from fastgate._core.snapshot.snapshot cimport target_rec
from fastgate._core.state cimport call, core, pool, upstream

cdef int pool_init(core *c) noexcept nogil
cdef void pool_free(core *c) noexcept nogil
cdef pool *pool_of(core *c, const target_rec *t) noexcept nogil
cdef int pool_select(core *c, call *k) noexcept nogil
    # sets k.target; 0, or a Reason (NO_HEALTHY_TARGET, OVERLOADED)
cdef upstream *pool_take(core *c, pool *p) noexcept nogil        # an idle connection, or NULL
cdef upstream *pool_put(core *c, pool *p, upstream *u, uint32_t keep) noexcept nogil
    # u becomes idle; returns the connection that must be closed to make room (may be u), or NULL
cdef upstream *pool_oldest(core *c) noexcept nogil               # in any pool; NULL: none is idle
cdef void pool_unlink(core *c, upstream *u) noexcept nogil       # an idle one that died
cdef void pool_failed(core *c, call *k) noexcept nogil           # passive ejection: count one more failure
cdef void pool_succeeded(core *c, call *k) noexcept nogil        # ends a series of failures
cdef void pool_timed(core *c, call *k, uint64_t first_byte_ns) noexcept nogil
    # how long the target took from the request's last byte to the answer's head; 0: not known
# The retry budget belongs to the upstream; its first target's pool keeps it.
cdef void pool_earn(core *c, call *k) noexcept nogil             # a request earns its share of a retry
cdef int pool_affords(core *c, call *k) noexcept nogil           # whether the credit is enough for a retry
cdef void pool_spend(core *c, call *k) noexcept nogil
