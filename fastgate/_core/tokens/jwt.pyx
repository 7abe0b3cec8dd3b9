"""jwt: reading and checking a JSON Web Token (RFC 7519, 7515, 8725), strictly.

    jwt_read           three parts of base64url; header and claims are strict JSON; `crit` names nothing
    jwt_find_issuer    `iss` is one of the issuers that the route believes
    jwt_verify         a key of that issuer made the signature
    jwt_check_claims   `typ`, `aud`, `exp`, `nbf`, `iat`, and the caller's name

The *key* says which algorithms it verifies; `alg` only has to be one of them. So `none` fits no key,
and a public key is never used as a secret. Keys come from the configured issuer alone: `jku`, `jwk`,
`x5u` and `x5c` are not read. A token without `kid` is tried with each key that its algorithm fits, up to
KEYS_TRIED of them.
"""
from libc.string cimport memchr

from fastgate._core.tokens.base64url cimport take_base64url
from fastgate._core.tokens.faults cimport (
    TOKEN_ALGORITHM_REFUSED, TOKEN_CLAIMS_INVALID, TOKEN_CRITICAL_UNKNOWN, TOKEN_EXPIRED, TOKEN_HEADER_INVALID,
    TOKEN_ISSUED_IN_FUTURE, TOKEN_ISSUER_UNKNOWN, TOKEN_KEY_UNKNOWN, TOKEN_LIVES_TOO_LONG, TOKEN_MALFORMED,
    TOKEN_NOT_ACTIVE, TOKEN_NOT_SIGNED, TOKEN_NOT_YET_VALID, TOKEN_SIGNATURE_INVALID, TOKEN_TOO_LONG, TOKEN_WITHOUT_EXPIRY,
    TOKEN_WITHOUT_SUBJECT, TOKEN_WRONG_AUDIENCE, TOKEN_WRONG_TYPE)
from fastgate._core.tokens.issuers cimport issuer_of, token_text
from fastgate._core.tokens.json_reader cimport (
    JSON_ARRAY, JSON_NUMBER, JSON_OBJECT, JSON_STRING, JSON_TRUE, json_equals, json_member, json_read, json_seconds, json_string)
from fastgate._core.tokens.signature cimport algorithm_named, signature_valid

cdef enum:
    KEYS_TRIED = 8
    NAME_MOST = 32            # octets of `alg` and `typ`
    TYPE_PREFIX = 12          # "application/", which `typ` may omit


cdef int is_jwt(const char *text, uint32_t length) noexcept nogil:
    cdef const char *end = text + length
    cdef const char *first = <const char *>memchr(text, c".", length)
    cdef const char *second
    if first is NULL:
        return 0
    second = <const char *>memchr(first + 1, c".", end - first - 1)
    return second is not NULL and memchr(second + 1, c".", end - second - 1) is NULL


cdef int jwt_read(jwt *t, const char *token, uint32_t length) noexcept nogil:
    cdef const char *end = token + length
    cdef const char *first
    cdef const char *second
    cdef const json_value *v
    cdef char name[NAME_MOST]
    cdef ssize_t header, claims, signature
    cdef int n
    t.token = token
    t.length = length
    t.algorithm = -1
    t.issuer = NULL
    t.key = NULL
    t.expires = t.when = 0
    t.subject_len = 0
    t.asked = 0
    if length > TOKEN_MOST:
        return TOKEN_TOO_LONG
    if not is_jwt(token, length):
        return TOKEN_MALFORMED
    first = <const char *>memchr(token, c".", length)
    second = <const char *>memchr(first + 1, c".", end - first - 1)
    header = take_base64url(t.header_text, token, first - token)
    claims = take_base64url(t.claims_text, first + 1, second - first - 1)
    signature = take_base64url(t.signature, second + 1, end - second - 1)
    if header <= 0 or claims < 0 or signature < 0:
        return TOKEN_MALFORMED
    t.signed = <uint32_t>(second - token)
    t.header_len = <uint32_t>header
    t.claims_len = <uint32_t>claims
    t.signature_len = <uint32_t>signature
    if json_read(&t.header, <const char *>t.header_text, t.header_len) < 0 or t.header.values[0].kind != JSON_OBJECT:
        return TOKEN_HEADER_INVALID
    if json_member(&t.header, &t.header.values[0], b"crit", 4) is not NULL:
        return TOKEN_CRITICAL_UNKNOWN    # no extension is understood
    if json_member(&t.header, &t.header.values[0], b"b64", 3) is not NULL:
        return TOKEN_HEADER_INVALID      # RFC 7797 requires `crit` with it
    v = json_member(&t.header, &t.header.values[0], b"alg", 3)
    n = json_string(&t.header, v, name, NAME_MOST)
    if n < 0:
        return TOKEN_HEADER_INVALID if v is NULL or v.kind != JSON_STRING else TOKEN_ALGORITHM_REFUSED
    t.algorithm = algorithm_named(name, n)
    if t.algorithm < 0:
        return TOKEN_NOT_SIGNED if is_none(name, n) else TOKEN_ALGORITHM_REFUSED
    return 0


cdef int is_none(const char *name, int n) noexcept nogil:
    return (n == 4 and name[0] | 0x20 == c"n" and name[1] | 0x20 == c"o" and name[2] | 0x20 == c"n"
            and name[3] | 0x20 == c"e")


cdef int jwt_find_issuer(jwt *t, issuer_ring *ring, const uint64_t *ids, uint32_t n) noexcept nogil:
    cdef const json_value *iss
    cdef token_issuer *s
    cdef uint32_t i
    if json_read(&t.claims, <const char *>t.claims_text, t.claims_len) < 0 or t.claims.values[0].kind != JSON_OBJECT:
        return TOKEN_CLAIMS_INVALID
    iss = json_member(&t.claims, &t.claims.values[0], b"iss", 3)
    for i in range(n):
        s = issuer_of(ring, ids[i])
        if s is not NULL and json_equals(&t.claims, iss, s.issuer.at, s.issuer.len):
            t.issuer = s
            return 0
    return TOKEN_ISSUER_UNKNOWN


cdef int jwt_verify(jwt *t) noexcept nogil:
    cdef const json_value *kid = json_member(&t.header, &t.header.values[0], b"kid", 3)
    cdef token_key *k
    cdef uint32_t bit = <uint32_t>1 << t.algorithm, i, tried = 0
    cdef int named = 0
    if kid is not NULL and kid.kind != JSON_STRING:
        return TOKEN_HEADER_INVALID
    for i in range(t.issuer.n_keys):
        k = &t.issuer.keys[i]
        if kid is not NULL and k.kid.len and not json_equals(&t.header, kid, k.kid.at, k.kid.len):
            continue
        named = 1
        if not k.algorithms & bit:
            continue
        if tried == KEYS_TRIED:
            break
        tried += 1
        if signature_valid(k, t.algorithm, t.token, t.signed, t.signature, t.signature_len):
            t.key = k
            return 0
    if tried:
        return TOKEN_SIGNATURE_INVALID
    return TOKEN_ALGORITHM_REFUSED if named else TOKEN_KEY_UNKNOWN


cdef int type_fits(const jwt *t) noexcept nogil:
    """Whether `typ` is one of the issuer's types; it may begin with "application/", and case does not count."""
    cdef const json_value *typ = json_member(&t.header, &t.header.values[0], b"typ", 3)
    cdef char name[NAME_MOST + TYPE_PREFIX]
    cdef const char *p = name
    cdef int n = json_string(&t.header, typ, name, NAME_MOST + TYPE_PREFIX), i
    cdef uint32_t k
    if t.issuer.n_types == 0:
        return 1
    if n < 0:
        return 0
    for i in range(n):
        if 65 <= name[i] <= 90:
            name[i] |= 0x20
    if n > TYPE_PREFIX and same(p, TYPE_PREFIX, b"application/", TYPE_PREFIX):
        p += TYPE_PREFIX
        n -= TYPE_PREFIX
    for k in range(t.issuer.n_types):
        if same(p, <uint32_t>n, t.issuer.types[k].at, t.issuer.types[k].len):
            return 1
    return 0


cdef inline int same(const char *a, uint32_t n, const char *b, uint32_t m) noexcept nogil:
    cdef uint32_t i
    if n != m:
        return 0
    for i in range(n):
        if a[i] != b[i]:
            return 0
    return 1


cdef int is_audience(const jwt *t, const json_value *v) noexcept nogil:
    cdef const token_text *own = t.issuer.audiences
    cdef uint32_t i
    for i in range(t.issuer.n_audiences):
        if json_equals(&t.claims, v, own[i].at, own[i].len):
            return 1
    return 0


cdef int audience_fits(const jwt *t) noexcept nogil:
    cdef const json_value *aud = json_member(&t.claims, &t.claims.values[0], b"aud", 3)
    cdef uint32_t i
    if t.issuer.n_audiences == 0:
        return 1
    if aud is NULL or aud.kind != JSON_ARRAY:
        return is_audience(t, aud)
    i = aud.first
    while i:
        if is_audience(t, &t.claims.values[i]):
            return 1
        i = t.claims.values[i].next
    return 0


cdef const json_value *claim_at(const json_text *j, const claim_path *path) noexcept nogil:
    cdef const json_value *v = &j.values[0]
    cdef uint32_t i
    if path.n == 0:
        return NULL
    for i in range(path.n):
        v = json_member(j, v, path.names[i].at, path.names[i].len)
    return v


cdef int take_subject(jwt *t) noexcept nogil:
    """The caller's name: a string, or a number as it is written. Without control characters."""
    cdef const json_value *v = claim_at(&t.claims, &t.issuer.subject)
    cdef int n, i
    if v is NULL:
        return 0
    if v.kind == JSON_NUMBER and v.len <= SUBJECT_MOST:
        n = v.len
        for i in range(n):
            t.subject[i] = t.claims.text[v.start + i]
    else:
        n = json_string(&t.claims, v, t.subject, SUBJECT_MOST)
    if n <= 0:
        return 0
    for i in range(n):
        if <uint8_t>t.subject[i] < 0x20 or t.subject[i] == 0x7f:
            return 0
    t.subject_len = <uint32_t>n
    return 1


cdef int jwt_check_claims(jwt *t, int64_t now_s) noexcept nogil:
    cdef const json_value *claims = &t.claims.values[0]
    cdef const json_value *exp = json_member(&t.claims, claims, b"exp", 3)
    cdef const json_value *nbf = json_member(&t.claims, claims, b"nbf", 3)
    cdef const json_value *iat = json_member(&t.claims, claims, b"iat", 3)
    cdef int64_t leeway = t.issuer.leeway_s, issued = 0
    if not type_fits(t):
        return TOKEN_WRONG_TYPE
    if exp is NULL:
        return TOKEN_WITHOUT_EXPIRY
    if json_seconds(&t.claims, exp, &t.expires) < 0:
        return TOKEN_CLAIMS_INVALID
    if now_s >= t.expires + leeway:
        t.when = t.expires
        return TOKEN_EXPIRED
    if nbf is not NULL:
        if json_seconds(&t.claims, nbf, &t.when) < 0:
            return TOKEN_CLAIMS_INVALID
        if t.when > now_s + leeway:
            return TOKEN_NOT_YET_VALID
    if iat is not NULL:
        if json_seconds(&t.claims, iat, &issued) < 0:
            return TOKEN_CLAIMS_INVALID
        if issued > now_s + leeway:
            t.when = issued
            return TOKEN_ISSUED_IN_FUTURE
    t.when = 0
    if t.issuer.lifetime_s and (iat is NULL or t.expires - issued > t.issuer.lifetime_s):
        return TOKEN_LIVES_TOO_LONG
    if not audience_fits(t):
        return TOKEN_WRONG_AUDIENCE
    return 0 if take_subject(t) else TOKEN_WITHOUT_SUBJECT


cdef int jwt_check_answer(jwt *t, int64_t now_s, int64_t most_s) noexcept nogil:
    cdef const json_value *claims = &t.claims.values[0]
    cdef const json_value *active = json_member(&t.claims, claims, b"active", 6)
    cdef const json_value *iss = json_member(&t.claims, claims, b"iss", 3)
    cdef const json_value *exp = json_member(&t.claims, claims, b"exp", 3)
    cdef const json_value *nbf = json_member(&t.claims, claims, b"nbf", 3)
    t.when = 0
    t.expires = now_s + most_s
    if active is NULL or active.kind != JSON_TRUE:
        return TOKEN_NOT_ACTIVE
    if iss is not NULL and not json_equals(&t.claims, iss, t.issuer.issuer.at, t.issuer.issuer.len):
        return TOKEN_ISSUER_UNKNOWN
    if exp is not NULL:
        if json_seconds(&t.claims, exp, &t.when) < 0:
            return TOKEN_CLAIMS_INVALID
        if now_s >= t.when + t.issuer.leeway_s:
            return TOKEN_EXPIRED
        t.expires = min(t.expires, t.when)
    if nbf is not NULL:
        if json_seconds(&t.claims, nbf, &t.when) < 0:
            return TOKEN_CLAIMS_INVALID
        if t.when > now_s + t.issuer.leeway_s:
            return TOKEN_NOT_YET_VALID
    t.when = 0
    t.expires -= t.issuer.leeway_s       # which a verdict adds: here it is over when it says
    if not audience_fits(t):
        return TOKEN_WRONG_AUDIENCE
    return 0 if take_subject(t) else TOKEN_WITHOUT_SUBJECT
