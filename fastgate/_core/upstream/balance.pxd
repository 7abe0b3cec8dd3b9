"""balance: which target takes a call."""
from fastgate._core.state cimport call, core

cdef int select_target(core *c, call *k) noexcept nogil
    # sets k.target, and with `max_connections` takes a place there: k.place. 0, or a Reason (NO_HEALTHY_TARGET,
    # OVERLOADED)
cdef int place_again(core *c, call *k) noexcept nogil
    # take another place at k.target, if places are counted there; 0: it has none left
cdef int has_room(core *c, call *k) noexcept nogil
    # whether to call select_target for a call that waits: it will not say OVERLOADED, unless another worker is faster
