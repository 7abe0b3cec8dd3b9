"""authentication: who calls: by which methods of its route a request proves that."""
from fastgate._core.state cimport core, exchange

cdef int authenticate(core *c, exchange *e) noexcept nogil        # 0, a Reason, or AUTH_PARKED
