"""owned_fields: fields that upstreams get from the gateway alone: those made from claims, or lent by the
service that decides about requests.

A client's own are hidden on every request of the route, whether or not it then gets such a field, in any
case, and with "_", "." or the like in place of "-": some upstreams read those as the same name.
"""
from libc.stdint cimport uint32_t

from fastgate._core.exchange.spelling cimport reads_as
from fastgate._core.http.head cimport FIELD_CREDENTIAL, field
from fastgate._core.snapshot.snapshot cimport snap_str, snap_table, str_ref


cdef void hide_owned(exchange *e, const auth_rec *a) noexcept nogil:
    cdef const str_ref *names = <const str_ref *>snap_table(e.snap, a.owned)
    cdef field *f
    cdef uint32_t i, k
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        for k in range(a.owned.count):
            if f.name_len == names[k].len and reads_as(e.base + f.name, snap_str(e.snap, names[k]), f.name_len):
                f.flags |= FIELD_CREDENTIAL
