"""peer: what a handshake showed about the peer: which authorities its certificate leads to, its chain, its key.

In a resumed session, a client sends no certificates. Its ticket has what was found out in the full
handshake: the number of authorities, their ids, and the chain.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

from fastgate._core.tls.openssl cimport (
    ERR_clear_error, EVP_Digest, EVP_sha256, OPENSSL_free, SSL_SESSION_free, SSL_SESSION_get0_ticket_appdata, SSL_get0_peer_certificate,
    SSL_get0_session, SSL_get0_verified_chain, SSL_get_peer_cert_chain, SSL_session_reused, X509, X509_free,
    X509_get_X509_PUBKEY, d2i_X509, fg_x509_num, fg_x509_value, i2d_X509, i2d_X509_PUBKEY, sha256)
from fastgate._core.tls.tables cimport AUTHORITIES_MOST, CHAIN_MOST, tls_peer, tls_policy

cdef enum:
    SENT_MOST = 12288         # bytes of a client's chain that are kept for forwarding; the leaf always is


cdef int is_one_of(const uint8_t *der, int n, const tls_authority *a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.n_certificates):
        if a.certificates[i].len == <uint32_t>n and memcmp(a.certificates[i].at, der, n) == 0:
            return 1
    return 0


cdef int chain_has(const stack_st_X509 *chain, const tls_authority *a) noexcept nogil:
    cdef unsigned char *der
    cdef int i, n, found = 0
    for i in range(fg_x509_num(chain)):
        der = NULL
        n = i2d_X509(fg_x509_value(chain, i), &der)
        if n > 0:
            found = is_one_of(der, n, a)
            OPENSSL_free(der)
        if found:
            return 1
    return 0


cdef void keep(tls_session *s, X509 *x, uint32_t most) noexcept nogil:
    """Add a certificate to the chain, if it does not get longer than `most` bytes."""
    cdef unsigned char *at
    cdef uint8_t *grown
    cdef uint32_t length
    cdef int n = i2d_X509(x, NULL)
    if n <= 0 or s.sent_len + 4 + <uint32_t>n > most:
        return
    grown = <uint8_t *>realloc(s.sent, s.sent_len + 4 + n)
    if grown is NULL:
        return
    s.sent = grown
    length = <uint32_t>n
    memcpy(grown + s.sent_len, &length, 4)
    at = grown + s.sent_len + 4
    i2d_X509(x, &at)
    s.sent_len += 4 + length


cdef void unpack(tls_session *s) noexcept nogil:
    """What the ticket of a resumed session says."""
    cdef void *data = NULL
    cdef const uint8_t *p
    cdef size_t n = 0, ids
    if SSL_SESSION_get0_ticket_appdata(SSL_get0_session(s.ssl), &data, &n) != 1 or n == 0:
        return
    p = <const uint8_t *>data
    ids = 8 * <size_t>p[0]
    if p[0] > AUTHORITIES_MOST or n < 1 + ids:
        return                           # not of this version: as if it were without a certificate
    s.peer.n_verified = p[0]
    memcpy(s.peer.verified, p + 1, ids)
    n -= 1 + ids
    if n:
        s.sent = <uint8_t *>malloc(n)
        if s.sent is not NULL:
            memcpy(s.sent, p + 1 + ids, n)
            s.sent_len = <uint32_t>n


cdef void find_certificates(tls_session *s) noexcept nogil:
    """Let `peer` point to the certificates that were kept."""
    cdef tls_peer *p = &s.peer
    cdef uint32_t at = 0, length
    while at + 4 <= s.sent_len and p.n_chain < CHAIN_MOST:
        memcpy(&length, s.sent + at, 4)
        at += 4
        if length == 0 or length > s.sent_len - at:
            return                       # cannot be: tickets are authenticated
        if at == 4:
            p.leaf = s.sent + at
            p.leaf_len = length
        else:
            p.chain[p.n_chain] = s.sent + at
            p.chain_len[p.n_chain] = length
            p.n_chain += 1
        at += length


cdef void peer_learn(tls_session *s) noexcept nogil:
    if s.learned or s.context is NULL or s.context.policy < 0:
        return
    s.learned = 1
    if SSL_session_reused(s.ssl):
        unpack(s)
    else:
        keep_all(s)
    find_certificates(s)


cdef void keep_all(tls_session *s) noexcept nogil:
    """What the client has sent in a full handshake."""
    cdef X509 *leaf
    cdef stack_st_X509 *chain
    cdef const tls_policy *p
    cdef uint32_t i
    cdef int j
    leaf = SSL_get0_peer_certificate(s.ssl)
    if leaf is NULL:
        return
    keep(s, leaf, 1 << 20)
    chain = SSL_get_peer_cert_chain(s.ssl)
    for j in range(fg_x509_num(chain)):
        keep(s, fg_x509_value(chain, j), SENT_MOST)
    chain = SSL_get0_verified_chain(s.ssl)
    p = &s.ring.policies[s.context.policy]
    for i in range(p.n_authorities):
        if chain_has(chain, &s.ring.authorities[p.authorities[i]]):
            s.peer.verified[s.peer.n_verified] = s.ring.authorities[p.authorities[i]].id
            s.peer.n_verified += 1


cdef size_t peer_pack(const tls_session *s, uint8_t *out, size_t room) noexcept nogil:
    cdef size_t ids = 8 * <size_t>s.peer.n_verified
    if 1 + ids + s.sent_len > room:
        return 0
    out[0] = s.peer.n_verified
    memcpy(out + 1, s.peer.verified, ids)
    if s.sent_len:
        memcpy(out + 1 + ids, s.sent, s.sent_len)
    return 1 + ids + s.sent_len


cdef int has_pin(const tls_session *s, X509 *x) noexcept nogil:
    cdef unsigned char digest[32]
    cdef unsigned char *der = NULL
    cdef uint32_t i
    cdef int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der)
    if n <= 0:
        return 0
    EVP_Digest(der, n, digest, NULL, EVP_sha256(), NULL)
    OPENSSL_free(der)
    for i in range(s.upstream.n_pins):
        if memcmp(s.upstream.pins + 32 * i, digest, 32) == 0:
            return 1
    return 0


cdef int peer_pinned(const tls_session *s) noexcept nogil:
    cdef stack_st_X509 *chain
    cdef X509 *leaf
    cdef int i
    if s.upstream.n_pins == 0 or SSL_session_reused(s.ssl):
        return 1                         # a session was checked when it was made
    if s.upstream.authority < 0:
        # Nothing vouches for the chain: any certificate may stand in it. Only the leaf's key was proved.
        leaf = SSL_get0_peer_certificate(s.ssl)
        return leaf is not NULL and has_pin(s, leaf)
    chain = SSL_get0_verified_chain(s.ssl)
    for i in range(fg_x509_num(chain)):
        if has_pin(s, fg_x509_value(chain, i)):
            return 1
    return 0


cdef const uint8_t *peer_key(tls_peer *p) noexcept nogil:
    cdef const unsigned char *at = p.leaf
    cdef unsigned char *der = NULL
    cdef X509 *leaf
    cdef int n
    if p.has_key == 0:
        p.has_key = 2
        leaf = d2i_X509(NULL, &at, <long>p.leaf_len)
        n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der) if leaf is not NULL else 0
        if n > 0:
            sha256(der, n, p.key)
            p.has_key = 1
        OPENSSL_free(der)
        X509_free(leaf)
        ERR_clear_error()
    return p.key if p.has_key == 1 else NULL


cdef void peer_forget(tls_session *s) noexcept nogil:
    free(s.sent)
    s.sent = NULL
    s.sent_len = 0
    SSL_SESSION_free(s.fresh)
    s.fresh = NULL
