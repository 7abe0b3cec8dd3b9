"""basic_auth: callers with a user and a secret: HTTP Basic (see basic_auth.pyx)."""
from fastgate._core.snapshot.auth cimport auth_method
from fastgate._core.state cimport core, exchange

cdef int accept_basic(core *c, exchange *e, const auth_method *m) noexcept nogil
    # 0, a Reason, or an Authentication.
