"""predicates: conditions on a request besides host, path and method: header fields, query, cookies, segments."""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http.head cimport head
from fastgate._core.snapshot.snapshot cimport snapshot_header, table_ref

cdef bint predicates_hold(const snapshot_header *s, table_ref predicates, const char *buf, const head *h,
                          const char *path, uint32_t path_len) noexcept nogil
    # buf, h: the parsed request, whose fields and query are checked; path: canonical
cdef bint automaton_out(const uint8_t *automaton, uint32_t size) noexcept nogil   # whether it refers to something outside
