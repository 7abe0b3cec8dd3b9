"""token_auth: callers with a token: JSON Web Tokens (see token_auth.pyx)."""
from fastgate._core.snapshot.auth cimport auth_method
from fastgate._core.state cimport core, exchange
from fastgate._core.tokens.memory cimport token_memory
from fastgate._core.tokens.verdicts cimport verdict

cdef int accept_token(core *c, exchange *e, const auth_method *m) noexcept nogil
    # 0, a Reason, or an Authentication.
cdef int judge_verdict(core *c, exchange *e, const auth_method *m, verdict *v, int good) noexcept nogil
    # What follows from a verdict, which the exchange holds from now on. good: the TokenResult if it is one. As `accept_token`.
cdef token_memory *token_memory_of(core *c) noexcept nogil        # NULL: there is no memory
cdef int failures_left(core *c, exchange *e) noexcept nogil       # 0: its address has sent too many bad tokens: RATE_LIMITED
cdef void take_failure(core *c, exchange *e) noexcept nogil       # it has sent one
