"""certificate_auth: callers with a client certificate (see certificate_auth.pyx)."""
from fastgate._core.snapshot.auth cimport auth_method
from fastgate._core.state cimport core, exchange

cdef int accept_certificate(core *c, exchange *e, const auth_method *m) noexcept nogil
    # 0, a Reason, or an Authentication.
cdef int without_certificate(exchange *e, const auth_method *m) noexcept nogil    # the Reason, where nothing else will do
