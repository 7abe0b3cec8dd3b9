"""verdicts: what a worker has found out about tokens.

To check a signature takes from 20 µs (RS256) to 670 µs (ES384), so the result is remembered: of a good
token until it expires, of a bad one for BAD_S. A verdict also has what the claims say about the caller,
ready to use: the digests under which the credential index knows them, scopes, a plan, header lines.

    rows        8 in which a token's verdict may be, chosen by a keyed hash of the token
    a hit       the hash and the whole token are equal, its issuer is one that the route believes, and the
                key that signed it is still one of the issuer's; where the issuer is to be asked about it,
                a signature is not enough
    when full   the one that ends first makes room

Whether the caller may call is not remembered: the index is asked for each request, so that a suspended
consumer or a revoked token is refused at once. An exchange holds its verdict, which may be replaced meanwhile.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastgate._core.snapshot.snapshot cimport hash64
from fastgate._core.tls.openssl cimport EVP_Digest, EVP_sha512_256
from fastgate._core.tokens.issuers cimport issuer_of
from fastgate._core.tokens.json_reader cimport (
    JSON_ARRAY, JSON_NULL, JSON_STRING, json_member, json_string, json_text, json_value)
from fastgate._core.tokens.jwt cimport claim_at

cdef enum:
    LINES_MOST = 4096         # octets of header lines from claims
    SCOPES_MOST = 2048
    PLAN_MOST = 64
    DIGEST_ROOM = 9216        # of what a digest is made of


# ---- the table ------------------------------------------------------------------------------

cdef inline int signed_still(verdict *v, issuer_ring *ring) noexcept nogil:
    """Whether the key that made its signature is still one of its issuer's."""
    cdef token_issuer *s
    cdef uint32_t i
    if ring is NULL:
        return 0
    if v.ring == ring.serial:
        return 1
    s = issuer_of(ring, v.issuer)
    if s is NULL:
        return 0
    for i in range(s.n_keys):
        if s.keys[i].fingerprint == v.key:
            v.ring = ring.serial
            return 1
    return 0


cdef inline int believed(uint64_t issuer, const uint64_t *ids, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if ids[i] == issuer:
            return 1
    return 0


cdef verdict *verdict_known(verdict_table *t, const char *token, uint32_t length, const uint64_t *ids, uint32_t n,
                            issuer_ring *ring, int64_t now_s, uint8_t asked) noexcept nogil:
    cdef uint64_t hash = hash64(token, length, t.seed)
    cdef verdict **rows = &t.rows[(hash & (VERDICTS // TOGETHER - 1)) * TOGETHER]
    cdef verdict *v
    cdef uint32_t i
    for i in range(TOGETHER):
        v = rows[i]
        if v is NULL or v.hash != hash or v.asked != asked or v.token_len != length:
            continue
        if memcmp(token_of(v), token, length) != 0:
            continue
        if now_s >= v.until or (v.fault and (ring is NULL or v.ring != ring.serial)):
            continue                     # a new keyring may have what it lacked
        if v.issuer == 0 or (believed(v.issuer, ids, n) and (v.key == 0 or signed_still(v, ring))):
            return v
    return NULL


cdef void verdict_hold(verdict *v) noexcept nogil:
    v.uses += 1


cdef void verdict_let_go(verdict *v) noexcept nogil:
    v.uses -= 1
    if v.uses == 0:
        free(v)


cdef void put_row(verdict_table *t, verdict *v) noexcept nogil:
    cdef verdict **rows = &t.rows[(v.hash & (VERDICTS // TOGETHER - 1)) * TOGETHER]
    cdef uint32_t i, at = 0
    for i in range(TOGETHER):
        if rows[i] is NULL or (rows[i].hash == v.hash and rows[i].issuer == v.issuer and rows[i].asked == v.asked):
            at = i
            break
        if rows[i].until < rows[at].until:
            at = i
    if rows[at] is not NULL:
        verdict_let_go(rows[at])
    rows[at] = v
    v.uses += 1


cdef void verdicts_forget(verdict_table *t) noexcept nogil:
    cdef uint32_t i
    for i in range(VERDICTS):
        if t.rows[i] is not NULL:
            verdict_let_go(t.rows[i])
            t.rows[i] = NULL


# ---- what the claims say ----------------------------------------------------------------------

cdef inline char *text(char *p, const char *s, size_t n) noexcept nogil:
    memcpy(p, s, n)
    return p + n


cdef void digest_of(uint8_t *out, const char *kind, uint32_t kind_len, const char *a, size_t n, const char *b,
                    size_t m) noexcept nogil:
    cdef char room[DIGEST_ROOM]
    cdef char *p = text(text(room, b"fastgate ", 9), kind, kind_len)
    cdef unsigned int size = 0
    p[0] = 0
    p = text(p + 1, a, n)
    if b is not NULL:
        p[0] = 0
        p = text(p + 1, b, m)
    EVP_Digest(room, p - room, out, &size, EVP_sha512_256(), NULL)


cdef uint32_t put_scopes(char *out, const json_text *j, const token_issuer *s) noexcept nogil:
    """The scopes of the first claim that is there: a string with spaces, or a list of strings."""
    cdef const json_value *v = NULL
    cdef uint32_t i, used = 0
    cdef int n
    for i in range(s.n_scopes):
        v = claim_at(j, &s.scopes[i])
        if v is not NULL:
            break
    if v is NULL:
        return 0
    if v.kind != JSON_ARRAY:
        n = json_string(j, v, out, SCOPES_MOST)
        return <uint32_t>n if n > 0 else 0
    i = v.first
    while i:
        if used and used < SCOPES_MOST:
            out[used] = c" "
            used += 1
        n = json_string(j, &j.values[i], out + used, SCOPES_MOST - used)
        if n < 0:
            return 0                     # not all are strings, or they are too many
        if has_space(out + used, n):
            return 0                     # one name must not pass for two
        used += <uint32_t>n
        i = j.values[i].next
    return used


cdef inline int has_space(const char *p, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if p[i] == c" ":
            return 1
    return 0


cdef int put_value(char *out, uint32_t room, const json_text *j, const json_value *v) noexcept nogil:
    """A claim as the value of a field: texts as they are, lists of them with commas, anything else as JSON.
    -1: it cannot be one."""
    cdef const json_value *each
    cdef uint32_t i, used = 0
    cdef int n, simple = v.kind == JSON_ARRAY
    if v.kind == JSON_NULL:
        return -1
    if v.kind == JSON_STRING:
        n = json_string(j, v, out, room)
        used = <uint32_t>n if n >= 0 else room + 1
    else:
        i = v.first if v.kind == JSON_ARRAY else 0
        while i:
            simple = simple and j.values[i].kind == JSON_STRING
            i = j.values[i].next
        if simple:
            i = v.first
            while i:
                if used:
                    if used + 2 > room:
                        return -1
                    out[used] = c","
                    used += 1
                each = &j.values[i]
                n = json_string(j, each, out + used, room - used)
                if n < 0:
                    return -1
                used += <uint32_t>n
                i = each.next
        elif v.len <= room:
            memcpy(out, j.text + v.start, v.len)
            used = v.len
        else:
            return -1
    if used > room:
        return -1
    for i in range(used):
        if <uint8_t>out[i] < 0x20 or out[i] == 0x7f:
            return -1                    # it would end the line, or is no text
    return <int>used


cdef uint32_t put_lines(char *out, const json_text *j, const token_issuer *s) noexcept nogil:
    """Header lines for upstreams; a claim that is not there, or cannot be a field's value, has none."""
    cdef const json_value *v
    cdef char *p = out
    cdef char *end = out + LINES_MOST
    cdef uint32_t i
    cdef int n
    for i in range(s.n_headers):
        v = claim_at(j, &s.headers[i].claim)
        if v is NULL or end - p < s.headers[i].name.len + 4:
            continue
        n = put_value(p + s.headers[i].name.len + 2, <uint32_t>(end - p - s.headers[i].name.len - 4), j, v)
        if n < 0:
            continue
        p = text(text(p, s.headers[i].name.at, s.headers[i].name.len), b": ", 2) + n
        p = text(p, b"\r\n", 2)
    return <uint32_t>(p - out)


cdef verdict *verdict_make(verdict_table *t, jwt *j, int fault, int64_t now_s, uint64_t serial) noexcept nogil:
    cdef char scopes[SCOPES_MOST]
    cdef char plan[PLAN_MOST]
    cdef char lines[LINES_MOST]
    cdef char token_id[SCOPES_MOST]
    cdef token_issuer *s = j.issuer
    cdef uint32_t n_scopes = 0, n_lines = 0
    cdef int n_plan = 0, n_id = -1, default = 0
    cdef verdict *v
    cdef char *p
    if fault == 0:
        n_scopes = put_scopes(scopes, &j.claims, s)
        n_lines = put_lines(lines, &j.claims, s)
        n_plan = json_string(&j.claims, claim_at(&j.claims, &s.plan), plan, PLAN_MOST)
        n_id = json_string(&j.claims, json_member(&j.claims, &j.claims.values[0], b"jti", 3), token_id, SCOPES_MOST)
    if n_plan < 0:
        n_plan = 0
    if fault == 0 and n_plan == 0 and 0 < s.default_plan.len <= PLAN_MOST:
        default = 1
        n_plan = <int>s.default_plan.len
        memcpy(plan, s.default_plan.at, n_plan)
    v = <verdict *>malloc(sizeof(verdict) + j.length + j.subject_len + n_scopes + n_plan + n_lines)
    if v is NULL:
        return NULL
    memset(v, 0, sizeof(verdict))
    v.hash = hash64(j.token, j.length, t.seed)
    v.ring = serial
    v.asked = j.asked
    v.fault = <uint16_t>fault
    v.when = j.when
    v.until = now_s + BAD_S
    if fault and j.when and j.when - s.leeway_s < v.until and j.when > now_s:
        v.until = j.when - s.leeway_s    # until it is valid
    v.uses = 1
    v.token_len = j.length
    v.issuer = s.id if s is not NULL else 0
    v.row = s.row if s is not NULL else 0
    p = text(<char *>(v + 1), j.token, j.length)
    if fault == 0:
        v.key = j.key.fingerprint if j.key is not NULL else 0
        v.until = j.expires + s.leeway_s
        v.unknown = s.unknown
        v.default_plan = <uint8_t>default
        v.name_len = j.subject_len
        v.scopes_len = n_scopes
        v.plan_len = <uint32_t>n_plan
        v.lines_len = n_lines
        p = text(text(text(text(p, j.subject, j.subject_len), scopes, n_scopes), plan, n_plan), lines, n_lines)
        digest_of(v.subject, b"subject", 7, s.name.at, s.name.len, j.subject, j.subject_len)
        digest_of(v.digest, b"token", 5, j.token, j.signed, NULL, 0)
        if n_id > 0:
            v.has_token_id = 1
            digest_of(v.token_id, b"token id", 8, s.name.at, s.name.len, token_id, n_id)
    put_row(t, v)
    return v
