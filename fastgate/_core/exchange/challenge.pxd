"""challenge: WWW-Authenticate, with what was wrong with a token."""
from fastgate._core.state cimport exchange

cdef char *put_challenge(char *p, exchange *e, size_t room) noexcept nogil
cdef char *put_needed_scopes(char *p, exchange *e, size_t room) noexcept nogil    # separated by spaces
