"""redirect: the answer that sends a client to another URL."""
from libc.stdint cimport uint16_t

from fastgate._core.snapshot.snapshot cimport static_rec
from fastgate._core.state cimport exchange

cdef void answer_redirect(exchange *e, const static_rec *s) noexcept nogil
cdef void answer_to_https(exchange *e, uint16_t port) noexcept nogil
    # 308 to the same host, path and query with https://; there must be a host
