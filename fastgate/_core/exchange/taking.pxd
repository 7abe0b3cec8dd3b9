"""taking: the request's body, as its codec hands it over."""
from fastgate._core.platform.buffer cimport buf
from fastgate._core.state cimport exchange

cdef buf *take_request(exchange *e, int verbatim) noexcept nogil
    # the next piece of the body, in a buffer of its own; NULL: none yet
cdef void send_continue(exchange *e) noexcept nogil
