"""introspection: callers with a token of which its issuer is asked (RFC 7662).

    POST endpoint, with the gateway's own credentials     token=...&token_type_hint=access_token
    ◀── {"active": true, "sub": ..., "scope": ..., "exp": ...}

The answer is a verdict like that on a JSON Web Token, with the same rules for claims, and is remembered: of
an active token until its `exp`, at most for the issuer's `cache`; of another one for a minute. Exchanges
that come with the same token meanwhile wait for one answer, which is good for them however short `cache` is.
It belongs to none of them, so the first one's client may leave. What a signature has proved about a token
is not an answer: its issuer may have revoked it.

No answer, or one that is not understood: 503 authorization_unavailable, for those that waited.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.exchange.asking cimport answered, is_waited_for, may_wait, question_hash, wait_for
from fastgate._core.exchange.caller cimport AUTH_ABSENT, AUTH_PARKED
from fastgate._core.exchange.key_places cimport find_bearer
from fastgate._core.exchange.subrequest cimport sub_detach, sub_new, sub_start
from fastgate._core.exchange.token_auth cimport failures_left, judge_verdict, take_failure, token_memory_of
from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_data, buf_head, buf_len
from fastgate._core.platform.chars cimport CH_NAME, is_class
from fastgate._core.platform.text cimport put, put_escape, put_lit
from fastgate._core.reason cimport AUTHORIZATION_UNAVAILABLE, OVERLOADED, RATE_LIMITED
from fastgate._core.shared.layout cimport TOKEN_KNOWN
from fastgate._core.snapshot.snapshot cimport AUTH_TOKENS, METHOD_FORWARD, snap_table, snap_upstream
from fastgate._core.state cimport subrequest
from fastgate._core.tokens.issuers cimport issuer_of, token_issuer
from fastgate._core.tokens.json_reader cimport JSON_OBJECT, json_read
from fastgate._core.tokens.jwt cimport PART_MOST, TOKEN_MOST, is_jwt, jwt, jwt_check_answer
from fastgate._core.tokens.memory cimport token_memory
from fastgate._core.tokens.questions cimport ASK_TOKEN
from fastgate._core.tokens.verdicts cimport verdict, verdict_known, verdict_let_go, verdict_make

cdef enum:
    ANSWER_MOST = PART_MOST   # bytes of an answer
    AROUND = 512


cdef inline int64_t unix_s(core *c) noexcept nogil:
    return (<int64_t>c.loop.now + c.unix_offset) // 1000000000


cdef int accept_opaque(core *c, exchange *e, const auth_rec *a, const auth_method *m) noexcept nogil:
    cdef const uint64_t *ids = <const uint64_t *>snap_table(e.snap, m.ids)
    cdef token_memory *t
    cdef token_issuer *issuer
    cdef verdict *v
    cdef uint32_t length = 0
    cdef uint64_t question
    cdef const char *token = find_bearer(e, 0, &length)
    if token is NULL or length == 0 or (a.flags & AUTH_TOKENS and is_jwt(token, length)):
        return AUTH_ABSENT
    if not m.flags & METHOD_FORWARD:
        find_bearer(e, 1, &length)
    t = token_memory_of(c)
    if t is NULL:
        return OVERLOADED
    question = question_hash(ASK_TOKEN, ids[0], token, length)
    v = e.told                           # even if it was good for this exchange only
    if v is NULL or v.issuer != ids[0]:
        v = verdict_known(&t.known, token, length, ids, m.ids.count, c.issuers, unix_s(c), 1)
    if v is not NULL:
        if v.fault and e.question == question:
            take_failure(c, e)           # found out for this exchange
        return judge_verdict(c, e, m, v, TOKEN_KNOWN)
    issuer = issuer_of(c.issuers, ids[0])
    if issuer is NULL or issuer.introspection.len == 0 or length > TOKEN_MOST or not may_wait(c, e, question):
        return AUTHORIZATION_UNAVAILABLE     # there was no answer, or nobody to ask
    if not failures_left(c, e):
        return RATE_LIMITED
    if not is_waited_for(c, question) and not ask_issuer(c, e, m, issuer, token, length, question):
        return AUTHORIZATION_UNAVAILABLE
    wait_for(c, e, question, m.timeout_ms)
    return AUTH_PARKED


cdef int ask_issuer(core *c, exchange *e, const auth_method *m, token_issuer *issuer, const char *token,
                    uint32_t length, uint64_t question) noexcept nogil:
    cdef subrequest *s = sub_new(c, e, snap_upstream(e.snap, m.upstream), m.timeout_ms)
    cdef buf *b
    cdef char *p
    cdef char *start
    cdef uint32_t i
    if s is NULL:
        return 0
    s.done = told
    s.most = ANSWER_MOST
    s.question = question
    s.issuer = issuer.id
    s.k.py_body = 1
    s.note = buf_borrow(&c.loop.bufs, length)
    b = buf_borrow(&c.loop.bufs, <size_t>length * 3 + issuer.introspection.len + issuer.authorization.len + AROUND)
    s.k.py_request = b
    s.broken = s.note is NULL
    if b is not NULL and s.note is not NULL:
        memcpy(buf_head(s.note), token, length)
        s.note.end += length
        p = buf_data(b) + b.start
        p = put_lit(p, "POST")
        s.k.py_method = 4
        p = put(p, issuer.introspection.at, issuer.introspection.len)
        s.k.py_path = issuer.introspection.len
        start = p
        p = end_line(put_lit(p, "Accept: application/json"))
        p = end_line(put_lit(p, "Content-Type: application/x-www-form-urlencoded"))
        if issuer.authorization.len:
            p = put_lit(p, "Authorization: ")
            p = end_line(put(p, issuer.authorization.at, issuer.authorization.len))
        s.k.py_lines = <uint32_t>(p - start)
        p = put_lit(p, "token=")
        for i in range(length):
            if is_class(token[i], CH_NAME):
                p = put(p, token + i, 1)
            else:
                p = put_escape(p, <uint8_t>token[i])
        p = put_lit(p, "&token_type_hint=access_token")
        b.end = <uint32_t>(p - buf_data(b))
    if sub_start(s) != 0:
        return 0
    sub_detach(s)
    return 1


cdef void told(subrequest *s, int reason) noexcept nogil:
    cdef core *c = s.k.owner
    cdef verdict *v = NULL
    if reason == 0 and s.k.resp.status == 200 and s.body is not NULL:
        v = verdict_of_answer(c, s)
    answered(c, s.question, v)
    if v is not NULL:
        verdict_let_go(v)


cdef verdict *verdict_of_answer(core *c, subrequest *s) noexcept nogil:
    """Held. NULL: it is not understood, or the issuer is not the same any more."""
    cdef token_memory *t = token_memory_of(c)
    cdef token_issuer *issuer = issuer_of(c.issuers, s.issuer)
    cdef jwt *j = &t.scratch
    cdef int fault
    if issuer is NULL or buf_len(s.body) > PART_MOST:
        return NULL
    j.token = buf_head(s.note)
    j.length = j.signed = buf_len(s.note)
    j.issuer = issuer
    j.key = NULL
    j.subject_len = 0
    j.asked = 1
    memcpy(j.claims_text, buf_head(s.body), buf_len(s.body))
    if json_read(&j.claims, <const char *>j.claims_text, buf_len(s.body)) < 0 or j.claims.values[0].kind != JSON_OBJECT:
        return NULL
    fault = jwt_check_answer(j, unix_s(c), issuer.cache_s)
    return verdict_make(&t.known, j, fault, unix_s(c), c.issuers.serial)
