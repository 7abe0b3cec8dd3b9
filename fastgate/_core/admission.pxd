"""admission: who calls, and may they: credentials, address lists, limits."""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.snapshot cimport table_ref
from fastgate._core.state cimport core, exchange

cdef int address_allowed(exchange *e, table_ref rules) noexcept nogil     # 1 or 0
cdef int address_matches(exchange *e, table_ref rules, const uint8_t *address) noexcept nogil
cdef int admit_address(core *c, exchange *e) noexcept nogil               # 0, or the Reason
cdef int authenticate(core *c, exchange *e) noexcept nogil                # 0, or the Reason
cdef int admit(core *c, exchange *e) noexcept nogil                       # 0, or the Reason
cdef void admit_settle(core *c, exchange *e, int failed) noexcept nogil
    # leave what counts in flight; failed: give back what counts against quotas
cdef void admit_undo(core *c, exchange *e) noexcept nogil                # give back what was taken
