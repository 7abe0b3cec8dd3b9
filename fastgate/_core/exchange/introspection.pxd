"""introspection: callers with a token of which its issuer is asked (see introspection.pyx)."""
from fastgate._core.snapshot.auth cimport auth_method, auth_rec
from fastgate._core.state cimport core, exchange

cdef int accept_opaque(core *c, exchange *e, const auth_rec *a, const auth_method *m) noexcept nogil
    # 0, a Reason, or an Authentication.
