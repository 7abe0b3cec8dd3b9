"""snapshot_ref: which configuration an exchange holds, and how it releases it."""
from fastgate._core.state cimport core, exchange, snapref

cdef inline void leave_snapshot(core *c, snapref *r) noexcept nogil:
    """Release one reference. The last exchange of a retired snapshot passes it to the engine, to unmap or free."""
    r.in_flight -= 1
    if r.in_flight != 0 or r is c.ref:
        return
    if r.object is not NULL:             # else it is a copy, which is not in the list
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
    """If the answer has begun and the snapshot is retired: copy what is still needed, and release the snapshot."""
    if e.ref is not c.ref:
        unpin_retired(c, e)

cdef void unpin_all(core *c) noexcept nogil
    # The same for every exchange, a few at a time: `unpin_some` does it
cdef void unpin_some(core *c) noexcept nogil
    # The next few; c.unpin_at is NULL once all have been looked at
