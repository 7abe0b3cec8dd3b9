"""certificate_auth: callers with a client certificate.

The handshake has verified it, against the authorities that the connection's name asks for. The consumer is
the one that its public key belongs to: so it may be renewed without telling anybody, if its key stays.

    no TLS, or no certificate of these authorities    the request has no such credential; where nothing else
                                                      will do: 403 certificate_required, or 421 if the
                                                      connection did not ask for one of them
    one whose key is no consumer's                    403 subject_unknown
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.exchange.caller cimport AUTH_ABSENT, admit_digest
from fastgate._core.reason cimport CERTIFICATE_REQUIRED, MISDIRECTED_REQUEST, SUBJECT_UNKNOWN
from fastgate._core.snapshot.snapshot cimport METHOD_ANONYMOUS, snap_table
from fastgate._core.state cimport EX_CERTIFIED
from fastgate._core.tls.peer cimport peer_key
from fastgate._core.tls.tables cimport tls_peer
from fastgate._core.tokens.verdicts cimport DIGEST, digest_of


cdef int accept_certificate(core *c, exchange *e, const auth_method *m) noexcept nogil:
    cdef const tls_peer *peer = e.down.peer
    cdef const uint64_t *ids = <const uint64_t *>snap_table(e.snap, m.ids)
    cdef const uint8_t *key
    cdef uint8_t digest[DIGEST]
    cdef uint32_t i, k
    cdef int found = 0, result
    if peer is NULL or peer.leaf_len == 0:
        return AUTH_ABSENT
    for i in range(peer.n_verified):
        for k in range(m.ids.count):
            found |= peer.verified[i] == ids[k]
    if not found:
        return AUTH_ABSENT
    key = peer_key(<tls_peer *>peer)
    if key is NULL:
        return AUTH_ABSENT               # its key cannot be read, although the certificate was verified
    e.flags |= EX_CERTIFIED
    digest_of(digest, b"certificate", 11, <const char *>key, DIGEST, NULL, 0)
    result = admit_digest(c, e, digest, m.flags & METHOD_ANONYMOUS)
    return SUBJECT_UNKNOWN if result == AUTH_ABSENT else result


cdef int without_certificate(exchange *e, const auth_method *m) noexcept nogil:
    cdef const tls_peer *peer = e.down.peer
    cdef const uint64_t *ids = <const uint64_t *>snap_table(e.snap, m.ids)
    cdef uint32_t i, k
    if not e.down.secure:
        return CERTIFICATE_REQUIRED
    for i in range(peer.n_asked if peer is not NULL else 0):
        for k in range(m.ids.count):
            if peer.asked[i] == ids[k]:
                return CERTIFICATE_REQUIRED
    return MISDIRECTED_REQUEST           # the client connects again, with the route's name
