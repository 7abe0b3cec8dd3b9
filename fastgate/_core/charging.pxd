"""charging: what a request costs, and that it is paid for: access, spending limits, holds."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.state cimport core, exchange

cdef int charge_access(core *c, exchange *e) noexcept nogil      # 0, or the Reason
cdef int charge_open(core *c, exchange *e) noexcept nogil        # 0, or the Reason
cdef void charge_due(exchange *e) noexcept nogil                 # the answer begins: from now on it is owed
cdef void charge_settle(core *c, exchange *e, int served) noexcept nogil

# for handlers
cdef int charge_hold(core *c, exchange *e, int64_t micros, uint32_t currency) noexcept nogil
cdef void charge_capture(core *c, exchange *e, int64_t micros, uint64_t units) noexcept nogil
cdef void charge_release(core *c, exchange *e) noexcept nogil
