"""validating: requests that Python validates, and that go on in C (see validating.pyx)."""
from fastgate._core.handlers.host cimport Host
from fastgate._core.state cimport exchange

cdef class RequestView:
    cdef exchange *e          # NULL when the validation is over
    cdef int check(self) except -1

cdef int run_validation(Host engine, exchange *e) except -1
    # the exchange may be over afterwards
