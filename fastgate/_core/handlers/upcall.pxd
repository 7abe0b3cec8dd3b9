"""upcall: the only way into Python: exchanges that a Python handler answers."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.exchange.charging cimport units_hold
from fastgate._core.handlers.host cimport Host
from fastgate._core.handlers.headers cimport Headers
from fastgate._core.money.layout cimport money_record
from fastgate._core.state cimport core, exchange

cdef uint64_t AMOUNT          # the meter for an amount that a handler charges besides the price

cdef class Exchange:
    cdef exchange *e          # NULL when the exchange is over
    cdef core *c
    cdef Host engine
    cdef object loop
    cdef object task
    cdef object drained       # a future, while a writer waits
    cdef list responses
    cdef int64_t declared     # body length given to start(); -1: none
    cdef int64_t written
    cdef Headers _headers
    cdef bint begun           # its task runs, so it can be cancelled
    cdef bint gone
    cdef bint late            # it did not answer in time: the client got a 504
    cdef bint broke           # it failed: the client got a 500, or a part of the answer
    cdef int64_t captured     # micro-units of its own hold that the handler captured; -1: none
    cdef uint64_t captured_units
    cdef units_hold amount    # what the handler holds besides the request's price
    cdef readonly bint handed_over   # an upstream has the whole of a forwarded request
    cdef dict meters          # name → MeterUse; None: no meter was used
    cdef int check(self) except -1
    cdef int begin(self, int status, headers, length) except -1
    cdef int notify(self, uint32_t bits) except -1
    cdef int finished(self) except -1
    cdef int failed(self) except -1
    cdef int let_go(self) except -1
    cdef money_record *held(self) noexcept
    cdef int settle_money(self) except -1
