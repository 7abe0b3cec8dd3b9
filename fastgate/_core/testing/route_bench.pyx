"""route_bench: how long the lookup of a route takes, as in a request."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastgate._core.http.head cimport head, method_of, span
from fastgate._core.snapshot.router cimport ROUTE_FOUND, route_find, route_match
from fastgate._core.snapshot.snapshot cimport Snapshot, snapshot_header

import time


def bench_find(Snapshot snapshot not None, list paths not None, uint32_t rounds=1, bytes host=b"",
               bytes method=b"GET") -> tuple[float, int]:
    """Look every path up `rounds` times: (nanoseconds per lookup, how many were found).

    The loop runs in C; it measures `route_find` and fetching the path.
    """
    cdef head h
    cdef uint32_t n = <uint32_t>len(paths), i, at = 0, found
    cdef bytes raw = b"".join(paths)
    cdef span *spans = <span *>malloc((n + 1) * sizeof(span))
    if spans == NULL:
        raise MemoryError
    memset(&h, 0, sizeof(head))
    h.method.len = <uint32_t>len(method)
    h.method_id = method_of(method, h.method.len)
    try:
        for i in range(n):
            spans[i].off = at
            spans[i].len = <uint32_t>len(paths[i])
            at += spans[i].len
        began = time.perf_counter_ns()
        found = find_all(snapshot.header, host, <uint32_t>len(host), raw, spans, n, rounds, method, &h)
        spent = time.perf_counter_ns() - began
    finally:
        free(spans)
    return spent / max(n * rounds, 1), found


cdef uint32_t find_all(const snapshot_header *s, const char *host, uint32_t host_len, const char *paths,
                       const span *spans, uint32_t n, uint32_t rounds, const char *buf, const head *h) noexcept nogil:
    cdef route_match m
    cdef uint32_t i, found = 0
    for _ in range(rounds):
        for i in range(n):
            found += route_find(s, host, host_len, paths + spans[i].off, spans[i].len, buf, h, NULL, &m) == ROUTE_FOUND
    return found
