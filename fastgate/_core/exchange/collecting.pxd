"""collecting: requests on their way to Python (see collecting.pyx)."""
from fastgate._core.state cimport exchange

cdef int collect_begin(exchange *e) noexcept nogil
    # 1: the whole request is here; 0: the rest of it comes, or it was refused and may be over
cdef int collect_body(exchange *e) noexcept nogil                 # more of it came. Returns as collect_begin
cdef void queue_for_python(exchange *e) noexcept nogil            # suspended from now on
cdef void drop_body(exchange *e) noexcept nogil                   # it is not sent again
