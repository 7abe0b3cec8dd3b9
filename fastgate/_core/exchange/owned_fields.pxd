"""owned_fields: fields that upstreams get from the gateway alone (see owned_fields.pyx)."""
from fastgate._core.snapshot.auth cimport auth_rec
from fastgate._core.state cimport exchange

cdef void hide_owned(exchange *e, const auth_rec *a) noexcept nogil
