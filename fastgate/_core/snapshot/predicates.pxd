"""predicates: what a route requires of a request besides host, path and method."""
from fastgate._core.http.head cimport head
from fastgate._core.snapshot.snapshot cimport route_rec, snapshot_header

cdef bint predicates_hold(const snapshot_header *s, const route_rec *r, const char *buf,
                          const head *h) noexcept nogil
    # buf, h: the parsed request, whose fields and query are checked
