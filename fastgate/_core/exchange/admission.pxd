"""admission: whether the caller may: address lists, limits."""
from fastgate._core.shared.cells cimport decision
from fastgate._core.snapshot.snapshot cimport limit_rec, plan_rec, table_ref
from fastgate._core.state cimport core, exchange

cdef int address_allowed(exchange *e, table_ref rules) noexcept nogil     # 1 or 0
cdef int admit_address(core *c, exchange *e) noexcept nogil               # 0, or the Reason
cdef const plan_rec *plan_of(exchange *e) noexcept nogil                  # the plan in force; NULL: none
cdef int limit_take(core *c, exchange *e, const limit_rec *l, decision *d) noexcept nogil
    # Take from one limit. Returns 0, or the Reason; then everything taken before is given back.
cdef const limit_rec *in_force(exchange *e, const limit_rec *l, limit_rec *room) noexcept nogil
    # The limit as it applies to the caller. With the consumer's own numbers, it is built in `room`.
cdef int by_address_alone(const limit_rec *l) noexcept nogil              # it protects the steps before the key is checked
cdef int admit(core *c, exchange *e) noexcept nogil                       # 0, or the Reason
cdef void admit_settle(core *c, exchange *e, int failed) noexcept nogil
    # the request leaves the concurrency limits; failed: quotas get back what it took
cdef void admit_undo(core *c, exchange *e) noexcept nogil                # give back everything that was taken
