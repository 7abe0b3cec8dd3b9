"""charging: what a request costs, and how it is paid for: access, spending limits, holds."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.money.layout cimport money_record
from fastgate._core.state cimport MAX_SPENT, core, exchange, spent

cdef struct units_hold:       # what is held for units of one meter, in addition to what the request costs
    money_record *hold        # NULL: nothing is held, since they cost nothing
    uint64_t meter            # identity: hash of its name
    uint32_t nspent
    spent spent[MAX_SPENT]    # what was counted against spending limits for it

cdef enum:
    SPENDING_LIMITS = 4       # how many may apply to a request: its key's, its consumer's, two of its account's

cdef struct spending_limit:
    uint64_t cap              # as in credentials.pxd; 0: there is no limit
    uint64_t identity         # of the spender
    uint8_t spender           # Spender

cdef int charge_access(core *c, exchange *e) noexcept nogil      # 0, or the Reason
cdef void spending_limit_of(exchange *e, uint32_t i, spending_limit *out) noexcept nogil
    # Limit i of SPENDING_LIMITS, in the order in which they are checked.
cdef uint64_t spending_cell(const spending_limit *l) noexcept nogil
    # The key of the cell that counts what was spent under this limit.
cdef int charge_open(core *c, exchange *e) noexcept nogil        # 0, or the Reason
cdef void charge_due(exchange *e) noexcept nogil                 # the answer begins: from now on the amount is owed
cdef int charge_abandoned(exchange *e) noexcept nogil            # whether a client that leaves before the answer owes
cdef void charge_settle(core *c, exchange *e, int served) noexcept nogil

# for handlers
cdef int charge_hold(core *c, exchange *e, int64_t micros, uint32_t currency) noexcept nogil
cdef void charge_capture(core *c, exchange *e, int64_t micros, uint64_t units) noexcept nogil
cdef void charge_release(core *c, exchange *e) noexcept nogil

# units of meters: metering.pyx
cdef int units_open(core *c, exchange *e, units_hold *u, int64_t micros, uint32_t currency) noexcept nogil
    # Hold an amount for them. Returns 0, or the Reason; then nothing is held.
cdef void units_capture(core *c, exchange *e, units_hold *u, int64_t micros, uint64_t units) noexcept nogil
    # Charge this much of what is held (nothing, if nothing is held), with a usage record.
cdef void units_release(core *c, exchange *e, units_hold *u) noexcept nogil
cdef uint64_t units_counted(core *c, exchange *e, uint64_t identity, uint8_t period) noexcept nogil
    # How many units the payer has used in the period.
cdef uint64_t units_count(core *c, exchange *e, uint64_t identity, uint8_t period, uint64_t units) noexcept nogil
    # Count more units; returns how many there were before.
