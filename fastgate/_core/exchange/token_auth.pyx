"""token_auth: callers with a token: JSON Web Tokens.

    the token is known       its verdict is used again (tokens/verdicts.pyx)
    it is not                failures by this address have used up its bucket ──▶ 429, nothing is verified
                             else it is read and verified
    it is good               revoked? whose is it? ──▶ the consumer, or what the issuer says about unknown ones
    its key is not there     control is asked, once: the issuer may have replaced its keys

The bucket is one token for each failure: FAILURES at once, then one each FAILURE_NS. A good token, however
often it is verified, takes nothing.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp

from fastgate._core.exchange.asking cimport ask
from fastgate._core.exchange.caller cimport AUTH_ABSENT, AUTH_PARKED, admit_digest
from fastgate._core.exchange.key_places cimport find_bearer
from fastgate._core.platform.atomics cimport fg_load
from fastgate._core.platform.random cimport random64
from fastgate._core.reason cimport (
    AUTHORIZATION_UNAVAILABLE, CREDENTIAL_REVOKED, CREDENTIAL_UNKNOWN, INSUFFICIENT_SCOPE, OVERLOADED, RATE_LIMITED,
    SUBJECT_UNKNOWN, TOKEN_INVALID)
from fastgate._core.shared.cells cimport address_hash, decision, mix_key
from fastgate._core.shared.consumer_row cimport consumer_row
from fastgate._core.shared.credentials cimport credential_entry
from fastgate._core.shared.layout cimport TOKEN_FOUND_REVOKED, TOKEN_KNOWN, TOKEN_REFUSED, TOKEN_ROWS, TOKEN_VERIFIED
from fastgate._core.shared.limiter cimport limiter_peek, limiter_take
from fastgate._core.snapshot.auth cimport scope_rule
from fastgate._core.snapshot.snapshot cimport METHOD_ANONYMOUS, METHOD_FORWARD, snap_str, snap_table, str_ref
from fastgate._core.tokens.faults cimport TOKEN_ISSUER_UNKNOWN, TOKEN_KEY_UNKNOWN
from fastgate._core.tokens.issuers cimport UNKNOWN_ANONYMOUS, UNKNOWN_CREATE
from fastgate._core.tokens.json_reader cimport json_member, json_string
from fastgate._core.tokens.jwt cimport is_jwt, jwt, jwt_check_claims, jwt_find_issuer, jwt_read, jwt_verify
from fastgate._core.tokens.memory cimport token_memory
from fastgate._core.tokens.questions cimport ASK_KEYS, ASK_SUBJECT, QUESTION_TEXT
from fastgate._core.tokens.verdicts cimport (
    name_in, scopes_of, verdict_hold, verdict_known, verdict_let_go, verdict_make)

cdef enum:
    FAILURES = 50             # bad tokens that one address may send at once

cdef uint64_t FAILURE_NS = 200000000          # and one more each
cdef uint64_t FAILURES_KEY = 0x746f6b656e206661


cdef inline int64_t unix_s(core *c) noexcept nogil:
    return (<int64_t>c.loop.now + c.unix_offset) // 1000000000


cdef token_memory *token_memory_of(core *c) noexcept nogil:
    if c.tokens is NULL:
        c.tokens = <token_memory *>calloc(1, sizeof(token_memory))
        if c.tokens is not NULL:
            c.tokens.known.seed = random64(c.random)
    return c.tokens


cdef int accept_token(core *c, exchange *e, const auth_method *m) noexcept nogil:
    cdef const uint64_t *ids = <const uint64_t *>snap_table(e.snap, m.ids)
    cdef token_memory *t
    cdef uint32_t length = 0
    cdef const char *token = find_bearer(e, 0, &length)
    cdef verdict *v
    cdef int result
    if token is NULL or not is_jwt(token, length):
        return AUTH_ABSENT
    if not m.flags & METHOD_FORWARD:
        find_bearer(e, 1, &length)
    t = token_memory_of(c)
    if t is NULL:
        return OVERLOADED
    v = verdict_known(&t.known, token, length, ids, m.ids.count, c.issuers, unix_s(c), 0)
    if v is not NULL:
        return judge_verdict(c, e, m, v, TOKEN_KNOWN)
    result = examine(c, e, m, token, length, &v)
    if v is NULL:
        return result
    result = judge_verdict(c, e, m, v, TOKEN_VERIFIED)
    verdict_let_go(v)                    # the exchange holds it now
    return result


cdef inline uint64_t failures_of(exchange *e) noexcept nogil:
    return mix_key(FAILURES_KEY, address_hash(e.client))


cdef int failures_left(core *c, exchange *e) noexcept nogil:
    cdef decision d
    limiter_peek(&c.limiter, failures_of(e), c.loop.now, FAILURE_NS, FAILURE_NS * FAILURES, &d)
    if d.remaining == 0:
        e.seen = d
    return d.remaining != 0


cdef void take_failure(core *c, exchange *e) noexcept nogil:
    cdef decision d
    limiter_take(&c.limiter, failures_of(e), c.loop.now, FAILURE_NS, FAILURE_NS * FAILURES, 1, &d)


cdef int examine(core *c, exchange *e, const auth_method *m, const char *token, uint32_t length,
                 verdict **made) noexcept nogil:
    """Verify a token that is not known: *made is its verdict, held, or the result is as of `accept_token`."""
    cdef const uint64_t *ids = <const uint64_t *>snap_table(e.snap, m.ids)
    cdef jwt *j = &c.tokens.scratch
    cdef int fault
    if not failures_left(c, e):
        return RATE_LIMITED
    fault = jwt_read(j, token, length)
    if fault == 0:
        fault = jwt_find_issuer(j, c.issuers, ids, m.ids.count)
    if fault == 0:
        fault = jwt_verify(j)
        if fault == TOKEN_KEY_UNKNOWN and j.issuer.fetches and ask_for_key(c, e, j):
            return AUTH_PARKED
    if fault == 0:
        fault = jwt_check_claims(j, unix_s(c))
    if fault:
        take_failure(c, e)
    if fault == TOKEN_ISSUER_UNKNOWN:
        count_token(c, 0, TOKEN_REFUSED)
        return invalid(e, fault, 0)      # another route may know the issuer
    made[0] = verdict_make(&c.tokens.known, j, fault, unix_s(c), c.issuers.serial if c.issuers is not NULL else 0)
    return OVERLOADED


cdef int ask_for_key(core *c, exchange *e, jwt *j) noexcept nogil:
    cdef char kid[QUESTION_TEXT]
    cdef int n = json_string(&j.header, json_member(&j.header, &j.header.values[0], b"kid", 3), kid, QUESTION_TEXT)
    return ask(c, e, ASK_KEYS, j.issuer.id, kid, n if n > 0 else 0)


cdef inline int invalid(exchange *e, int fault, int64_t when) noexcept nogil:
    e.fault = <uint16_t>fault
    e.fault_when = when
    return TOKEN_INVALID


cdef inline void count_token(core *c, uint32_t row, int result) noexcept nogil:
    c.counters.tokens[row if row < TOKEN_ROWS else TOKEN_ROWS - 1][result] += 1


cdef int judge_verdict(core *c, exchange *e, const auth_method *m, verdict *v, int good) noexcept nogil:
    cdef int result
    if v.fault:
        count_token(c, v.row, TOKEN_REFUSED)
        return invalid(e, v.fault, v.when)
    verdict_hold(v)
    if e.verdict is not NULL:
        verdict_let_go(e.verdict)        # it is decided again
    e.verdict = v
    if is_revoked(c, v):
        count_token(c, v.row, TOKEN_FOUND_REVOKED)
        return CREDENTIAL_REVOKED
    count_token(c, v.row, good)
    result = admit_digest(c, e, v.subject, v.unknown == UNKNOWN_ANONYMOUS or m.flags & METHOD_ANONYMOUS)
    if result == AUTH_ABSENT:
        if v.unknown != UNKNOWN_CREATE:
            return SUBJECT_UNKNOWN
        if ask(c, e, ASK_SUBJECT, v.issuer, name_in(v), v.name_len):
            return AUTH_PARKED
        return AUTHORIZATION_UNAVAILABLE
    if result == 0 and not has_scopes(e, m):
        return INSUFFICIENT_SCOPE
    return result


cdef int is_revoked(core *c, verdict *v) noexcept nogil:
    """Whether the token, or its id, is in the index as revoked. Looked up only if something was revoked since."""
    cdef uint64_t epoch, count
    if c.credentials is NULL:
        return 0
    count = fg_load(&c.index_head.revocations)
    epoch = c.index_head.epoch
    if v.checked == count and v.index == epoch:
        return 0
    if listed(c, v.digest) or (v.has_token_id and listed(c, v.token_id)):
        return 1
    v.checked = count
    v.index = epoch
    return 0


cdef inline int listed(core *c, const uint8_t *digest) noexcept nogil:
    cdef const consumer_row *row = NULL
    cdef const credential_entry *entry = NULL
    return c.lookup_digest(c.credentials, digest, unix_s(c), &row, &entry) != CREDENTIAL_UNKNOWN


# ---- scopes ----------------------------------------------------------------------------------

cdef int granted(const verdict *v, const char *scope, uint32_t n) noexcept nogil:
    """Whether it is one of the token's scopes, which are separated by spaces."""
    cdef const char *p = scopes_of(v)
    cdef const char *end = p + v.scopes_len
    cdef const char *start
    while p < end:
        start = p
        while p < end and p[0] != c" ":
            p += 1
        if <uint32_t>(p - start) == n and memcmp(start, scope, n) == 0:
            return 1
        p += 1
    return 0


cdef int has_scopes(exchange *e, const auth_method *m) noexcept nogil:
    """Whether the token has all that the method requires for the request's HTTP method."""
    cdef const scope_rule *r = <const scope_rule *>snap_table(e.snap, m.scopes)
    cdef const str_ref *names
    cdef uint32_t i, k
    for i in range(m.scopes.count):
        if not r[i].methods >> e.req.method_id & 1:
            continue
        names = <const str_ref *>snap_table(e.snap, r[i].scopes)
        for k in range(r[i].scopes.count):
            if not granted(e.verdict, snap_str(e.snap, names[k]), names[k].len):
                e.needed_scopes = r[i].scopes
                return 0
    return 1
