"""service_auth: another service decides about a request (see service_auth.pyx)."""
from fastgate._core.snapshot.auth cimport auth_method
from fastgate._core.state cimport core, exchange

cdef int accept_by_service(core *c, exchange *e, const auth_method *m) noexcept nogil
    # 0, a Reason, or an Authentication.
