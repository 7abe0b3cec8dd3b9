"""snapshot_ref: which configuration an exchange holds, and how it lets go of it."""
from fastgate._core.state cimport core, exchange, snapref

cdef inline void leave_snapshot(core *c, snapref *r) noexcept nogil:
    """The last to leave a retired one hands it to the engine, which unmaps or frees it."""
    r.in_flight -= 1
    if r.in_flight != 0 or r is c.ref:
        return
    if r.object is not NULL:             # else a copy: it is not in the list
        if r.prev is not NULL:
            r.prev.next = r.next
        else:
            c.retired = r.next
        if r.next is not NULL:
            r.next.prev = r.prev
    r.prev = NULL
    r.next = c.released
    c.released = r

cdef void unpin_retired(core *c, exchange *e) noexcept nogil

cdef inline void unpin(core *c, exchange *e) noexcept nogil:
    """If its answer has begun and its snapshot is retired: hold a copy of what is left to read."""
    if e.ref is not c.ref:
        unpin_retired(c, e)

cdef void unpin_all(core *c) noexcept nogil
    # the same of every exchange there is, by and by: `unpin_some` does it
cdef void unpin_some(core *c) noexcept nogil
    # the next few; c.unpin_at is NULL once all have been looked at
