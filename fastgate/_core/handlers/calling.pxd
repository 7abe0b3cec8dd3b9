"""calling: what a Python handler asks of upstreams: one call, and its answer read as a stream."""
from fastgate._core.platform.buffer cimport buf
from fastgate._core.handlers.host cimport Host
from fastgate._core.handlers.headers cimport Headers
from fastgate._core.snapshot.snapshot cimport snapshot_header, upstream_rec
from fastgate._core.state cimport call, core, exchange

cdef class MadeRequest:
    cdef str method
    cdef str path
    cdef bytes lines          # fields, but those that say how long the body is
    cdef bytes body
    cdef bint has_host        # Host is among the lines
    cdef bint has_body        # a body is sent, if only an empty one

cdef class UpstreamResponse:
    cdef call *k              # NULL when it is over
    cdef Host engine
    cdef object waiter        # a future
    cdef readonly int status
    cdef readonly Headers headers
    cdef int ask(self, MadeRequest made, double timeout) except -1
    cdef int told(self) except -1
    cdef int drop(self) except -1

cdef const upstream_rec *upstream_named(const snapshot_header *s, str name) except NULL
    # LookupError: there is none
cdef MadeRequest call_request(exchange *e, method, path, headers, bytes body)
    # ValueError: a bad method, path or header
cdef UpstreamResponse call_made(Host engine, exchange *e, const upstream_rec *group)
    # a call of the exchange that is yet to be asked
cdef str query_of(exchange *e)
    # with its "?"; without what key_places hides
cdef buf *buf_of(core *c, bytes data) except NULL

cdef str request_id_of(exchange *e)
cdef str traceparent_of(exchange *e)
