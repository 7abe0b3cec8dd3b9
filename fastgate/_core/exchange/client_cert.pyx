"""client_cert: client certificates: what a route requires of them, and what its upstream is told.

A handshake comes before the request, so what a connection asks its client for follows from the name in the
handshake; whether that satisfies a route is decided for each request:

    the connection                                        the route requires one      it does not
    has a certificate by one of the route's authorities   passes                      passes
    asked for one of them, in vain                        403 certificate_required    passes
    asked only for others, or for no certificate          421 misdirected_request     passes
    has no TLS                                            403 certificate_required    passes

After a 421 the client connects again, with the route's name.

The upstream learns the certificate as RFC 9440 describes:

    Client-Cert: :base64 of its DER:
    Client-Cert-Chain: :its issuer's:, :the issuer's issuer's:, ...

These fields are removed from all requests as they come (F_X_CONSUMER), on every route.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.base64 cimport base64_size, put_base64
from fastgate._core.platform.text cimport put_lit
from fastgate._core.reason cimport CERTIFICATE_REQUIRED, MISDIRECTED_REQUEST
from fastgate._core.snapshot.snapshot cimport ROUTE_CERTIFICATE_REQUIRED, snap_table
from fastgate._core.tls.tables cimport tls_peer

cdef enum:
    AROUND_FIELD = 24         # octets of a field's name, and of its line's end
    AROUND_BINARY = 4         # two colons, a comma, a space


cdef int among(const exchange *e, const uint64_t *ids, uint32_t n) noexcept nogil:
    """Whether one of these authorities is among those of the route."""
    cdef const uint64_t *own = <const uint64_t *>snap_table(e.snap, e.policy.client_auth)
    cdef uint32_t i, j
    for i in range(n):
        for j in range(e.policy.client_auth.count):
            if ids[i] == own[j]:
                return 1
    return 0


cdef int judge_certificate(exchange *e) noexcept nogil:
    cdef const tls_peer *peer = e.down.peer
    if peer is not NULL and among(e, peer.verified, peer.n_verified):
        e.flags |= EX_CERTIFIED
        return 0
    if not e.policy.flags & ROUTE_CERTIFICATE_REQUIRED:
        return 0
    if e.down.secure and (peer is NULL or not among(e, peer.asked, peer.n_asked)):
        return MISDIRECTED_REQUEST
    return CERTIFICATE_REQUIRED


cdef size_t certificate_size(const exchange *e) noexcept nogil:
    cdef const tls_peer *peer = e.down.peer
    cdef size_t n = 2 * AROUND_FIELD + AROUND_BINARY + base64_size(peer.leaf_len)
    cdef uint32_t i
    for i in range(peer.n_chain):
        n += AROUND_BINARY + base64_size(peer.chain_len[i])
    return n


cdef inline char *put_binary(char *p, const uint8_t *octets, uint32_t n) noexcept nogil:
    """A byte sequence of a structured field (RFC 9651)."""
    p = put_lit(p, ":")
    p = put_base64(p, octets, n)
    return put_lit(p, ":")


cdef char *put_certificate(char *p, const exchange *e) noexcept nogil:
    cdef const tls_peer *peer = e.down.peer
    cdef uint32_t i
    p = put_lit(p, "Client-Cert: ")
    p = end_line(put_binary(p, peer.leaf, peer.leaf_len))
    for i in range(peer.n_chain):
        p = put_lit(p, ", ") if i else put_lit(p, "Client-Cert-Chain: ")
        p = put_binary(p, peer.chain[i], peer.chain_len[i])
    return end_line(p) if peer.n_chain else p
