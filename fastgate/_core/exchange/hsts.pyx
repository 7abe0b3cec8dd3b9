"""hsts: which answers carry Strict-Transport-Security; see hsts.pxd."""
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from fastgate._core.snapshot.snapshot cimport header_rule, snap_str, snap_table

cdef const char *NAME = b"strict-transport-security"


cdef str_ref hsts_line(exchange *e) noexcept nogil:
    cdef const listener_rec *listener = listener_of(e)
    cdef const header_rule *r
    cdef str_ref none
    cdef uint32_t i
    none.off = none.len = 0
    if listener is NULL:
        return none
    if e.policy is not NULL:
        r = <const header_rule *>snap_table(e.snap, e.policy.response_rules)
        for i in range(e.policy.response_rules.count):
            if r[i].name.len == 25 and memcmp(snap_str(e.snap, r[i].name), NAME, 25) == 0:
                return none
    return listener.hsts
