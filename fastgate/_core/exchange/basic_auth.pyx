"""basic_auth: callers with a user and a secret: HTTP Basic (RFC 7617).

    Authorization: Basic base64(user ":" secret)

Secrets are made by the gateway, with 190 random bits, so a digest of user and secret finds them in the
credential index as it finds a key. What is not base64 with exact padding, or has no colon, is unknown.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr

from fastgate._core.exchange.caller cimport AUTH_ABSENT, admit_digest
from fastgate._core.http.head cimport FIELD_CREDENTIAL, F_AUTHORIZATION, field
from fastgate._core.platform.chars cimport same_ci
from fastgate._core.reason cimport CREDENTIAL_UNKNOWN
from fastgate._core.snapshot.snapshot cimport METHOD_FORWARD
from fastgate._core.tls.openssl cimport OPENSSL_cleanse, sha256
from fastgate._core.tokens.base64url cimport take_base64url
from fastgate._core.tokens.verdicts cimport DIGEST, digest_of

cdef enum:
    TEXT_MOST = 1024          # octets of the encoded user and secret


cdef int decoded(uint8_t *out, const char *p, uint32_t n) noexcept nogil:
    """base64 of the common alphabet, with exactly its padding; how many octets, -1: it is not that."""
    cdef char text[TEXT_MOST]
    cdef uint32_t i, padding = 0
    if n == 0 or n > TEXT_MOST or n % 4:
        return -1
    while padding < 2 and p[n - 1 - padding] == c"=":
        padding += 1
    for i in range(n - padding):
        if p[i] == c"-" or p[i] == c"_":
            return -1
        text[i] = c"-" if p[i] == c"+" else c"_" if p[i] == c"/" else p[i]
    return <int>take_base64url(out, text, n - padding)


cdef int accept_basic(core *c, exchange *e, const auth_method *m) noexcept nogil:
    cdef const char *text = NULL
    cdef const char *colon
    cdef uint8_t room[TEXT_MOST]
    cdef uint8_t hashed[DIGEST]
    cdef uint8_t digest[DIGEST]
    cdef field *f
    cdef uint32_t i, length = 0, at
    cdef int n, result
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.id != F_AUTHORIZATION or f.value_len < 6 or not same_ci(e.base + f.value, b"basic ", 6):
            continue
        if not m.flags & METHOD_FORWARD:
            f.flags |= FIELD_CREDENTIAL
        if text is NULL:
            at = 6
            while at < f.value_len and e.base[f.value + at] == c" ":
                at += 1
            text = e.base + f.value + at
            length = f.value_len - at
    if text is NULL:
        return AUTH_ABSENT
    n = decoded(room, text, length)
    colon = <const char *>memchr(room, c":", n) if n > 0 else NULL
    if colon is NULL:
        return CREDENTIAL_UNKNOWN
    at = <uint32_t>(colon - <const char *>room)
    sha256(room + at + 1, n - at - 1, hashed)
    digest_of(digest, b"basic", 5, <const char *>room, at, <const char *>hashed, DIGEST)
    OPENSSL_cleanse(room, sizeof(room))
    result = admit_digest(c, e, digest, 0)
    return CREDENTIAL_UNKNOWN if result == AUTH_ABSENT else result
