"""validation: requests that Python validates before they are charged (see validation.pyx)."""
from fastgate._core.state cimport exchange

cdef int validate(exchange *e) noexcept nogil                     # -1: it goes on when it is validated
cdef void validation_collected(exchange *e) noexcept nogil        # its body is here
# Python has decided. The exchange may be over afterwards.
cdef void validation_passed(exchange *e) noexcept nogil
cdef void validation_refused(exchange *e, int reason) noexcept nogil
