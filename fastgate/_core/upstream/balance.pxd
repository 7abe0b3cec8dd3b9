"""balance: which target takes a call."""
from fastgate._core.state cimport call, core

cdef int select_target(core *c, call *k) noexcept nogil
    # sets k.target; 0, or a Reason (NO_HEALTHY_TARGET, OVERLOADED)
