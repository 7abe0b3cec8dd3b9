"""asking: exchanges that wait for an answer about their caller, and the questions to control (see asking.pyx)."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.state cimport core, exchange
from fastgate._core.tokens.questions cimport QuestionKind
from fastgate._core.tokens.verdicts cimport verdict

cdef int ask(core *c, exchange *e, QuestionKind kind, uint64_t issuer, const char *text, uint32_t length) noexcept nogil
    # Ask control, and park the exchange until it has answered. 1; 0: it has asked this already, or too many wait.
cdef uint64_t question_hash(QuestionKind kind, uint64_t issuer, const char *text, uint32_t length) noexcept nogil
cdef int may_wait(core *c, const exchange *e, uint64_t question) noexcept nogil   # 0: it has waited for this, or too many do
cdef int is_waited_for(core *c, uint64_t question) noexcept nogil                 # by any exchange
cdef void wait_for(core *c, exchange *e, uint64_t question, uint32_t most_ms) noexcept nogil      # and park
cdef void answered(core *c, uint64_t question, verdict *told) noexcept nogil
    # All that wait for this one go on, and hold what its issuer has told about their token. NULL: nothing.
cdef void stop_asking(core *c, exchange *e) noexcept nogil        # it is over
