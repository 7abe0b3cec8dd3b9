"""listeners: the listener that an exchange's connection came from, as the exchange's snapshot describes it."""
from fastgate._core.snapshot.snapshot cimport listener_rec, snap_listener
from fastgate._core.state cimport exchange

cdef inline const listener_rec *listener_of(const exchange *e) noexcept nogil:
    """NULL: there is nothing to know about it."""
    return snap_listener(e.snap, e.owner.listener_ids[e.down.listener])
