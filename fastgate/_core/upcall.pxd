"""upcall: the one door to Python: exchanges whose answer a Python handler gives."""
from libc.stdint cimport int64_t, uint32_t

from fastgate._core.engine cimport Engine
from fastgate._core.headers cimport Headers
from fastgate._core.state cimport core, exchange

cdef int begin_upcalls(Engine engine, core *c) except -1
cdef int wake_upcalls(core *c) except -1

cdef class Exchange:
    cdef exchange *e          # NULL when it is over
    cdef core *c
    cdef Engine engine
    cdef object loop
    cdef object task
    cdef object drained       # a future, when a writer waits
    cdef list responses
    cdef int64_t declared     # body length that start() was told; -1: none
    cdef int64_t written
    cdef Headers _headers
    cdef bint begun           # its task runs: it can be cancelled
    cdef bint gone
    cdef bint late            # it did not answer in time: the client got a 504
    cdef bint broke           # it failed: the client got a 500, or less than was begun
    cdef bint captured        # the request has a usage record
    cdef dict meters          # name → MeterUse; None: no meter was used
    cdef int check(self) except -1
    cdef int told(self, uint32_t bits) except -1
    cdef int finished(self) except -1
    cdef int failed(self) except -1
    cdef int let_go(self) except -1
    cdef int settle_units(self) except -1
