"""url_sample: the URL that a path's route builds, target or Location, without a connection."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastgate._core.exchange.request_head cimport put_target, target_size
from fastgate._core.exchange.url_pieces cimport put_location, url_refused, url_size
from fastgate._core.http.head cimport METHOD_GET
from fastgate._core.snapshot.router cimport ROUTE_FOUND, route_find
from fastgate._core.snapshot.snapshot cimport (
    NONE32, Snapshot, snap_policy, snap_route, snap_table, static_rec, str_ref)
from fastgate._core.state cimport downstream, exchange


def made_url(Snapshot snapshot not None, bytes path not None, *, query=None, bytes host=b"",
             bint secure=False) -> bytes | int:
    """The forwarded target for this canonical path, or the Location, or the Reason why there
    is none.

    Raises KeyError if no route has the path.
    """
    cdef exchange *e = <exchange *>calloc(1, sizeof(exchange))
    cdef downstream *d = <downstream *>calloc(1, sizeof(downstream))
    try:
        if e == NULL or d == NULL:
            raise MemoryError
        return _made(snapshot, e, d, (path, host, query), secure)
    finally:
        free(e)
        free(d)


cdef object _made(Snapshot snapshot, exchange *e, downstream *d, tuple said, bint secure):
    cdef bytes path = said[0], host = said[1], query = said[2] or b""
    cdef bytes base = path + host + query
    cdef str_ref none
    cdef bytearray room
    cdef const static_rec *redirect = NULL
    cdef char *began
    cdef char *end
    cdef size_t size
    e.snap = snapshot.header
    e.down = d
    d.secure = secure
    e.base = base
    e.path = base
    e.path_len = <uint32_t>len(path)
    e.req.host.off = e.path_len
    e.req.host.len = <uint32_t>len(host)
    e.req.has_query = said[2] is not None
    e.req.query.off = e.req.host.off + e.req.host.len
    e.req.query.len = <uint32_t>len(query)
    e.req.method_id = METHOD_GET
    none.off = none.len = 0
    if route_find(e.snap, host, e.req.host.len, e.path, e.path_len, e.base, &e.req, NULL, &e.match) != ROUTE_FOUND:
        raise KeyError(path)
    e.route = snap_route(e.snap, e.match.route)
    e.policy = snap_policy(e.snap, e.match.policy)
    if e.policy.static_response != NONE32:
        redirect = <const static_rec *>snap_table(e.snap, e.snap.statics) + e.policy.static_response
    reason = url_refused(e)
    if reason:
        return reason
    size = target_size(e) if redirect == NULL else url_size(e, redirect.location)
    room = bytearray(size + 1)
    began = room
    end = put_target(began, e, none) if redirect == NULL else put_location(began, e, redirect.location)
    if <size_t>(end - began) > size:
        raise AssertionError("more was written than there is room for")
    return bytes(room[:end - began])
