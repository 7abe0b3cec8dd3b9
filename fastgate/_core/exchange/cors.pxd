"""cors: cross-origin requests: what browsers are allowed."""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http.head cimport span
from fastgate._core.snapshot.snapshot cimport NONE32, cors_rec, snap_policy, snap_table
from fastgate._core.state cimport exchange

cdef inline const cors_rec *cors_of(const exchange *e) noexcept nogil:
    """The policy of the route. If no route of the path takes the method: of the path's first route. NULL: none."""
    cdef uint32_t i = NONE32
    if e.policy is not NULL:
        i = e.policy.cors
    elif e.match.allowed != 0:
        i = snap_policy(e.snap, e.match.policy).cors
    return <const cors_rec *>snap_table(e.snap, e.snap.cors) + i if i != NONE32 else NULL


cdef int is_preflight(exchange *e) noexcept nogil
cdef span asked_method(exchange *e, uint8_t *method_id) noexcept nogil
cdef char *put_cors(char *p, exchange *e) noexcept nogil         # for an answer other than a preflight's
cdef char *put_preflight(char *p, exchange *e) noexcept nogil
