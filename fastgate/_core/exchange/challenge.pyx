"""challenge: WWW-Authenticate, with what was wrong with a token (RFC 6750, 3).

The route's challenges are rendered in control, Bearer as the last one; so what is added here belongs to it:

    ApiKey realm="fastgate", header="X-Api-Key", Bearer realm="fastgate", error="invalid_token",
    error_description="The token has expired."
"""
from libc.stdint cimport uint32_t

from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.reason cimport CREDENTIAL_REVOKED, INSUFFICIENT_SCOPE, TOKEN_INVALID
from fastgate._core.snapshot.auth cimport auth_rec
from fastgate._core.snapshot.snapshot cimport NONE32, snap_auth, snap_str, snap_table, str_ref

cdef enum:
    AROUND = 48               # octets of names and quotes of what is added


cdef char *put_challenge(char *p, exchange *e, size_t room) noexcept nogil:
    cdef const auth_rec *a
    cdef const str_ref *texts = <const str_ref *>snap_table(e.snap, e.snap.faults)
    cdef char *end = p + room
    cdef str_ref text
    if e.policy is NULL or e.policy.auth == NONE32:
        return p
    a = snap_auth(e.snap, e.policy.auth)
    if a.challenge.len > room:
        return p
    p = put(p, snap_str(e.snap, a.challenge), a.challenge.len)
    if e.reason == INSUFFICIENT_SCOPE:
        if end - p < AROUND + 64:
            return p
        p = put_lit(p, ", error=\"insufficient_scope\", scope=\"")
        p = put_needed_scopes(p, e, end - p - 1)
        return put_lit(p, "\"")
    if e.reason == CREDENTIAL_REVOKED and e.verdict is not NULL and end - p > AROUND:
        return put_lit(p, ", error=\"invalid_token\"")
    if e.reason == TOKEN_INVALID and e.fault < e.snap.faults.count:
        text = texts[e.fault]
        if <uint32_t>(end - p) > text.len + AROUND:
            p = put_lit(p, ", error=\"invalid_token\", error_description=\"")
            p = put(p, snap_str(e.snap, text), text.len)
            return put_lit(p, "\"")
    return p


cdef char *put_needed_scopes(char *p, exchange *e, size_t room) noexcept nogil:
    cdef const str_ref *names = <const str_ref *>snap_table(e.snap, e.needed_scopes)
    cdef char *end = p + room
    cdef uint32_t i
    for i in range(e.needed_scopes.count):
        if end - p < names[i].len + 1:
            return p
        if i:
            p = put_lit(p, " ")
        p = put(p, snap_str(e.snap, names[i]), names[i].len)
    return p
