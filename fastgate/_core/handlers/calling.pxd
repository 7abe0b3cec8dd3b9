"""calling: what a Python handler asks of upstreams: a call, and its answer read as a stream."""
from fastgate._core.platform.buffer cimport buf
from fastgate._core.handlers.host cimport Host
from fastgate._core.handlers.headers cimport Headers
from fastgate._core.snapshot.snapshot cimport snapshot_header, upstream_rec
from fastgate._core.state cimport call, core, exchange

cdef class MadeRequest:
    cdef str method
    cdef str path
    cdef bytes lines          # fields, except those that give the body's length
    cdef bytes body
    cdef bint has_host        # Host is among the lines
    cdef bint has_body        # a body is sent, even if it is empty

cdef class UpstreamResponse:
    cdef call *k              # NULL when the call is over
    cdef Host engine
    cdef object waiter        # a future
    cdef readonly int status
    cdef readonly Headers headers
    cdef int ask(self, MadeRequest made, double timeout) except -1
    cdef int notify(self) except -1
    cdef int drop(self) except -1

cdef const upstream_rec *upstream_named(const snapshot_header *s, str name) except NULL
    # Raises LookupError if there is none
cdef MadeRequest call_request(exchange *e, method, path, headers, bytes body)
    # Raises ValueError for a bad method, path or header
cdef UpstreamResponse call_made(Host engine, exchange *e, const upstream_rec *group)
    # A call of the exchange that has not been sent yet
cdef str query_of(exchange *e)
    # With its "?"; without the parts that key_places hides
cdef buf *buf_of(core *c, bytes data) except NULL

cdef str request_id_of(exchange *e)
cdef str traceparent_of(exchange *e)
