"""pool: the idle connections to each target, and what is known of the target."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport target_row
from fastgate._core.snapshot.snapshot cimport target_rec
from fastgate._core.tls.openssl cimport SSL_SESSION
from fastgate._core.state cimport MAX_POOLS, call, core, pool, upstream

cdef enum:
    # A target that is passed over gives no samples. Each time this period passes, what is known of its speed counts
    # half, until it is chosen again.
    HALF_LIFE_NS = 1000000000

cdef int pool_init(core *c) noexcept nogil
cdef void pool_free(core *c) noexcept nogil
cdef pool *pool_new_owner(core *c, pool *p, const target_rec *t) noexcept nogil   # called by pool_of
cdef upstream *pool_take(core *c, pool *p) noexcept nogil        # an idle connection, or NULL
cdef upstream *pool_put(core *c, pool *p, upstream *u, uint32_t keep) noexcept nogil
    # u becomes idle; returns the connection that must be closed to make room (may be u), or NULL
cdef upstream *pool_oldest(core *c) noexcept nogil               # in any pool; NULL: none is idle
cdef void pool_unlink(core *c, upstream *u) noexcept nogil       # an idle one that died
cdef void pool_failed(core *c, call *k) noexcept nogil           # passive ejection: count one more failure
cdef void pool_succeeded(core *c, call *k) noexcept nogil        # ends a series of failures
cdef void pool_timed(core *c, call *k, uint64_t first_byte_ns) noexcept nogil
    # how long the target took from the request's last byte to the answer's head; 0: not known
cdef SSL_SESSION *pool_session(core *c, pool *p) noexcept nogil  # to be resumed, once; NULL: none is left
cdef void pool_forget_sessions(core *c) noexcept nogil              # of all pools
cdef void pool_keep_session(core *c, pool *p, SSL_SESSION *session) noexcept nogil    # takes it over
    # One of TLS 1.2 may be resumed again, since its target then sends no other; it stays until it is out of date.
cdef void pool_drop_sessions(core *c, pool *p) noexcept nogil    # its target may not accept them any more
# The retry budget belongs to the upstream; its first target's pool keeps it.
cdef void pool_earn(core *c, call *k) noexcept nogil             # a request earns its share of a retry
cdef int pool_affords(core *c, call *k) noexcept nogil           # whether the credit is enough for a retry
cdef void pool_spend(core *c, call *k) noexcept nogil


cdef inline pool *pool_of(core *c, const target_rec *t) noexcept nogil:
    """The pool of a target."""
    cdef pool *p = c.pools + (t.slot & (MAX_POOLS - 1))
    return p if p.identity == t.pool else pool_new_owner(c, p, t)


cdef inline target_row *row_of(core *c, const target_rec *t) noexcept nogil:
    """The row of a target in the segment; it may have another owner."""
    return <target_row *>(<char *>c.segment + c.segment.targets_off) + (t.slot % c.segment.targets_count)
