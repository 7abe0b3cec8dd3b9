"""predicates: conditions on a request besides host, path and method: header fields, query, cookies."""
from fastgate._core.http.head cimport head
from fastgate._core.snapshot.snapshot cimport snapshot_header, table_ref

cdef bint predicates_hold(const snapshot_header *s, table_ref predicates, const char *buf,
                          const head *h) noexcept nogil
    # buf, h: the parsed request, whose fields and query are checked
