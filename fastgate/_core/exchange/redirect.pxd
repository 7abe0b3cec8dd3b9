"""redirect: the answer that sends a client to another URL."""
from fastgate._core.snapshot.snapshot cimport static_rec
from fastgate._core.state cimport exchange

cdef void answer_redirect(exchange *e, const static_rec *s) noexcept nogil
