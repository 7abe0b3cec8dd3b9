"""asking: exchanges that wait for an answer about their caller, and the questions to control.

What a worker finds missing, someone else may have a moment later:

    keys       control: the key that signed a token, after its issuer has replaced its keys
    subject    control: the consumer for a subject, which is made when it first calls
    token      its issuer: whether an opaque token is active (introspection.pyx)

The exchange is parked. The question is asked once, however many exchanges have it; what is found comes as a
new keyring, in the credential index, or as a verdict. Then all of them are decided again:

    authenticate ── wait_for ──▶ parked ──┬── answered ──▶ authenticate again
                                          └── time over ─▶ 503 authorization_unavailable

An exchange asks a question once, and QUESTIONS_MOST in all. At most ASKING_MOST wait; a further one is decided without an answer.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from fastgate._core.exchange.parking cimport park, unpark
from fastgate._core.reason cimport AUTHORIZATION_UNAVAILABLE
from fastgate._core.snapshot.snapshot cimport hash64
from fastgate._core.state cimport EX_PARKED, STAGE_AUTHENTICATE
from fastgate._core.tokens.questions cimport QUESTIONS, QUESTION_TEXT, question
from fastgate._core.tokens.verdicts cimport verdict, verdict_hold, verdict_let_go

cdef enum:
    ASKING_MOST = 512
    QUESTIONS_MOST = 8        # of one exchange: two that need each other's answers do not go on for ever
    WAIT_MS = 2000


cdef uint64_t question_hash(QuestionKind kind, uint64_t issuer, const char *text, uint32_t length) noexcept nogil:
    cdef uint64_t hash = hash64(text, length, issuer ^ <uint64_t>kind << 56)
    return hash if hash else 1


cdef int is_waited_for(core *c, uint64_t question) noexcept nogil:
    cdef exchange *e = c.asking
    while e is not NULL and e.question != question:
        e = e.waits_after
    return e is not NULL


cdef int may_wait(core *c, const exchange *e, uint64_t question) noexcept nogil:
    return e.question != question and e.asked < QUESTIONS_MOST and c.n_asking < ASKING_MOST


cdef void wait_for(core *c, exchange *e, uint64_t question, uint32_t most_ms) noexcept nogil:
    e.question = question
    e.waits = 1
    e.asked += 1
    e.waits_after = c.asking
    c.asking = e
    c.n_asking += 1
    park(e, STAGE_AUTHENTICATE, c.loop.now + <uint64_t>most_ms * 1000000, AUTHORIZATION_UNAVAILABLE)


cdef int ask(core *c, exchange *e, QuestionKind kind, uint64_t issuer, const char *text, uint32_t length) noexcept nogil:
    cdef uint64_t hash
    cdef question *q
    if length > QUESTION_TEXT:
        return 0
    hash = question_hash(kind, issuer, text, length)
    if not may_wait(c, e, hash):
        return 0
    if not is_waited_for(c, hash):
        if c.n_questions == QUESTIONS:
            return 0
        q = &c.questions[c.n_questions]
        q.kind = <uint8_t>kind
        q.issuer = issuer
        q.len = length
        memcpy(q.text, text, length)
        c.n_questions += 1
    wait_for(c, e, hash, WAIT_MS)
    return 1


cdef void stop_asking(core *c, exchange *e) noexcept nogil:
    cdef exchange **at = &c.asking
    while at[0] is not NULL:
        if at[0] is e:
            at[0] = e.waits_after
            e.waits_after = NULL
            e.waits = 0
            c.n_asking -= 1
            return
        at = &at[0].waits_after


cdef void answered(core *c, uint64_t question, verdict *told) noexcept nogil:
    cdef exchange *e = c.asking
    while e is not NULL:
        if e.question == question and e.flags & EX_PARKED:
            stop_asking(c, e)
            if told is not NULL:
                if e.told is not NULL:
                    verdict_let_go(e.told)
                verdict_hold(told)
                e.told = told
            unpark(e, 0)
            e = c.asking                 # what it does next may have changed the list
        else:
            e = e.waits_after
