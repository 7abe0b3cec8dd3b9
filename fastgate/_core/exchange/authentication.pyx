"""authentication: who calls: the methods of a route, and the consumer that a credential belongs to.

Whatever proves who calls becomes a digest in the one credential index: of an API key, of an issuer and its
subject, of a certificate's public key, of a user with a secret. So state, expiry, suspension, spending
limits and revocation are the same for all.

    a route has     the request is accepted if
    one method      its credential is there, and accepted
    any             the first method whose credential is there accepts it; a wrong one is refused, even
                    if another method would accept another credential of the request
    all             every method accepts it; what they prove is one consumer's
    optional        also without any credential, as anonymous or as the consumer that the route names

A method may need something that is not here yet. Then the exchange is parked, and `authenticate` runs
again from its beginning when it is: what has been decided by then is remembered (verdicts).
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.exchange.basic_auth cimport accept_basic
from fastgate._core.exchange.caller cimport AUTH_ABSENT, admit_caller, admit_digest
from fastgate._core.exchange.certificate_auth cimport accept_certificate, without_certificate
from fastgate._core.exchange.introspection cimport accept_opaque
from fastgate._core.exchange.key_places cimport find_key
from fastgate._core.exchange.owned_fields cimport hide_owned
from fastgate._core.exchange.service_auth cimport accept_by_service
from fastgate._core.exchange.token_auth cimport accept_token
from fastgate._core.reason cimport CREDENTIAL_MISSING, CREDENTIAL_UNKNOWN, FORBIDDEN
from fastgate._core.shared.consumer_row cimport consumer_row
from fastgate._core.shared.credentials cimport KEY_MAX, credential_entry
from fastgate._core.snapshot.auth cimport auth_method, auth_rec
from fastgate._core.snapshot.snapshot cimport (
    AUTH_ALL, AUTH_BASIC, AUTH_CERTIFICATE, AUTH_INTROSPECTION, AUTH_JWT, AUTH_KEY, AUTH_LIST, AUTH_OPTIONAL,
    AUTH_SERVICE, NONE32, snap_auth, snap_str, snap_table)


cdef int authenticate(core *c, exchange *e) noexcept nogil:
    cdef const auth_rec *a
    if e.policy.auth == NONE32:
        return 0
    a = snap_auth(e.snap, e.policy.auth)
    if a.flags & AUTH_LIST:
        return by_list(c, e, a)
    return missing(c, e, a, accept_key(c, e, a))


cdef int missing(core *c, exchange *e, const auth_rec *a, int found) noexcept nogil:
    """What a request without any credential is."""
    if found != AUTH_ABSENT:
        return found
    if a.anonymous.len:
        found = admit_digest(c, e, <const uint8_t *>snap_str(e.snap, a.anonymous), 0)
        return CREDENTIAL_MISSING if found == AUTH_ABSENT else found
    return 0 if a.flags & AUTH_OPTIONAL else CREDENTIAL_MISSING


cdef int by_list(core *c, exchange *e, const auth_rec *a) noexcept nogil:
    cdef const auth_method *m = <const auth_method *>snap_table(e.snap, a.methods)
    cdef int found = AUTH_ABSENT
    cdef uint64_t first = 0
    cdef uint32_t i, accepted = 0
    if a.owned.count:
        hide_owned(e, a)
    for i in range(a.methods.count):
        found = accept(c, e, a, &m[i])
        if found == 0 and a.flags & AUTH_ALL:
            accepted += 1
            if first and e.has_consumer and e.consumer.identity != first:
                return FORBIDDEN         # two credentials of different consumers
            first = e.consumer.identity if e.has_consumer else first
        elif found != AUTH_ABSENT or a.flags & AUTH_ALL:
            break
    if found == AUTH_ABSENT:
        if a.methods.count == 1 and m.kind == AUTH_CERTIFICATE and not a.flags & AUTH_OPTIONAL and a.anonymous.len == 0:
            return without_certificate(e, m)
        return CREDENTIAL_MISSING if accepted else missing(c, e, a, found)
    return found


cdef int accept(core *c, exchange *e, const auth_rec *a, const auth_method *m) noexcept nogil:
    if m.kind == AUTH_KEY:
        return accept_key(c, e, a)
    if m.kind == AUTH_JWT:
        return accept_token(c, e, m)
    if m.kind == AUTH_INTROSPECTION:
        return accept_opaque(c, e, a, m)
    if m.kind == AUTH_CERTIFICATE:
        return accept_certificate(c, e, m)
    if m.kind == AUTH_BASIC:
        return accept_basic(c, e, m)
    if m.kind == AUTH_SERVICE:
        return accept_by_service(c, e, m)
    return AUTH_ABSENT


cdef int accept_key(core *c, exchange *e, const auth_rec *a) noexcept nogil:
    cdef const consumer_row *row = NULL
    cdef const credential_entry *entry = NULL
    cdef const char *key
    cdef char room[KEY_MAX]
    cdef uint32_t length = 0
    cdef int result
    key = find_key(e, a, room, &length)
    if key is NULL:
        return AUTH_ABSENT
    if c.credentials is NULL:
        return CREDENTIAL_UNKNOWN
    result = c.lookup(c.credentials, key, length, (<int64_t>c.loop.now + c.unix_offset) // 1000000000,
                      &e.down.key, &row, &entry)
    return admit_caller(c, e, result, row, entry)
