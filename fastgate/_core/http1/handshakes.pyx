"""handshakes: clients' TLS handshakes in progress, in the order in which they began.

So many that `caps.handshakes` is reached are a flood of clients that do not finish them. The oldest one gives
way to a new one: an honest handshake takes a few round trips, and a list finds the oldest without a walk
through all connections.
"""
from fastgate._core.state cimport DOWN_HANDSHAKE


cdef void handshake_enter(core *c, downstream *d) noexcept nogil:
    d.state = DOWN_HANDSHAKE
    d.newer = NULL
    d.older = c.newest_handshake
    if d.older is not NULL:
        d.older.newer = d
    else:
        c.oldest_handshake = d
    c.newest_handshake = d
    c.n_handshakes += 1


cdef void handshake_leave(core *c, downstream *d) noexcept nogil:
    if d.older is not NULL:
        d.older.newer = d.newer
    else:
        c.oldest_handshake = d.newer
    if d.newer is not NULL:
        d.newer.older = d.older
    else:
        c.newest_handshake = d.older
    d.older = NULL
    d.newer = NULL
    c.n_handshakes -= 1


cdef int handshakes_full(core *c) noexcept nogil:
    return c.n_handshakes >= c.ref.snap.max_handshakes
