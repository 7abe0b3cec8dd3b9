"""metering: units of meters that a handler reports: held, and charged by the caller's plan."""
from libc.stdint cimport int64_t, uint64_t

from fastgate._core.exchange.charging cimport units_hold
from fastgate._core.state cimport core, exchange

cdef class MeterUse:
    cdef readonly str meter
    cdef readonly uint64_t most       # units that are held
    cdef readonly uint64_t units      # used so far
    cdef object price                 # MeterPrice; None: it is free for the caller
    cdef units_hold at
    cdef int64_t hold(self, core *c, exchange *e) except -1
    cdef uint64_t refused(self, exchange *e) except? 0
    cdef int use(self, core *c, exchange *e, uint64_t units) except -1
    cdef int capture(self, core *c, exchange *e) except -1
    cdef int release(self, core *c, exchange *e) except -1

cdef MeterUse meter_use(exchange *e, str meter, most)
