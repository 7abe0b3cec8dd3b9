"""router: host, path, method, predicates → route. Flattened into the snapshot's image."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.http1 cimport head, span
from fastgate._core.snapshot cimport snapshot_header

cdef enum:
    MAX_PARAMS = 16
    ROUTE_FOUND = 1
    ROUTE_MISSING = 0         # 404
    ROUTE_METHOD = -1         # 405: out.allowed is set

cdef struct route_match:
    uint32_t route            # index into the snapshot's routes
    uint32_t nparams
    uint64_t allowed          # for 405: bits (1 << Method) of all routes of this host and path
    span params[MAX_PARAMS]   # within `path`, in the order of the pattern

cdef int route_find(const snapshot_header *s,
                    const char *host, uint32_t host_len,
                    const char *path, uint32_t path_len,
                    const char *buf, const head *h,
                    route_match *out) noexcept nogil
    # host: as sent, any case, without port. path: canonical. buf, h: the parsed request
    # (method, fields and query for predicates).
