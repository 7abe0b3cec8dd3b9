"""callbacks: what libssl asks us during a handshake, apart from the choice by name (choice.pyx).

**Tickets.** All state of a session is in the ticket, encrypted. All workers have the same three keys; the newest
encrypts. From each, a context derives keys of its own, by the digest of its policy (certificates, and what
clients must present). So a ticket of one name cannot be decrypted under a name with another policy, and the
client has to make a full handshake there. A ticket also carries what was found out about the client's
certificate: its chain is not sent again. A client whose certificate has expired since has to begin anew.

**Revocation.** With a revocation list, each certificate of a chain is looked up. If one policy names several
authorities, of which only some have lists, a chain that leads only to those without passes without.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastgate._core.tls.openssl cimport (
    EVP_DecryptInit_ex, EVP_EncryptInit_ex, EVP_MAC_CTX_set_params, EVP_aes_256_cbc, EVP_sha256, HMAC, OSSL_PARAM,
    OSSL_PARAM_construct_end, OSSL_PARAM_construct_octet_string, OSSL_PARAM_construct_utf8_string, RAND_bytes,
    SSL_CB_ACCEPT_LOOP, SSL_CB_CONNECT_LOOP, SSL_SESSION_free, SSL_SESSION_get0_peer,
    SSL_SESSION_get0_ticket_appdata, SSL_SESSION_set1_ticket_appdata,
    SSL_TICKET_RETURN_IGNORE_RENEW, SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW, SSL_TICKET_SUCCESS,
    SSL_TICKET_SUCCESS_RENEW, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_OK, SSL_get0_session, SSL_get_app_data,
    SSL_get_ex_data_X509_STORE_CTX_idx, SSL_get_state, SSL_version, TLS1_3_VERSION, TLS_ST_CR_KEY_UPDATE,
    TLS_ST_SR_KEY_UPDATE, X509, X509_STORE_CTX_get0_chain, X509_STORE_CTX_get_error, X509_STORE_CTX_get_ex_data,
    X509_STORE_CTX_set_error, X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_OK, X509_cmp_current_time, X509_get0_notAfter)
from fastgate._core.tls.peer cimport chain_has, peer_learn, peer_pack
from fastgate._core.tls.tables cimport tls_authority, tls_policy

cdef enum:
    AES_KEY = 32
    MAC_KEY = 32
    IV = 16
    CARRIED_MOST = 16384      # bytes about a client that a ticket may carry
    KEY_UPDATES_MOST = 255


# ---- protocols ---------------------------------------------------------------------------------

cdef int alpn_offers(const unsigned char *offered, size_t n, const char *protocol, size_t length) noexcept nogil:
    cdef size_t at = 0
    while at < n:
        if offered[at] == length and at + 1 + length <= n and memcmp(offered + at + 1, protocol, length) == 0:
            return 1
        at += 1 + offered[at]
    return 0


cdef int alpn_choose(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *offered,
                     unsigned int n, void *arg) noexcept nogil:
    if alpn_offers(offered, n, b"http/1.1", 8):
        out[0] = <const unsigned char *>b"http/1.1"
        outlen[0] = 8
        return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_ALERT_FATAL    # no_application_protocol


cdef int alpn_challenge(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *offered,
                        unsigned int n, void *arg) noexcept nogil:
    out[0] = <const unsigned char *>b"acme-tls/1"
    outlen[0] = 10
    return SSL_TLSEXT_ERR_OK


# ---- clients' certificates -------------------------------------------------------------------------

cdef int chain_judged(int ok, X509_STORE_CTX *store) noexcept nogil:
    """libssl has judged a certificate of a client's chain: whether to go on."""
    cdef SSL *ssl
    cdef tls_session *s
    cdef const tls_policy *p
    cdef const tls_authority *a
    cdef uint32_t i
    if ok or X509_STORE_CTX_get_error(store) != X509_V_ERR_UNABLE_TO_GET_CRL:
        return ok
    ssl = <SSL *>X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx())
    s = <tls_session *>SSL_get_app_data(ssl)
    if s.context is NULL or s.context.policy < 0:
        return 0
    p = &s.ring.policies[s.context.policy]
    for i in range(p.n_authorities):
        a = &s.ring.authorities[p.authorities[i]]
        if a.n_crls and chain_has(X509_STORE_CTX_get0_chain(store), a):
            return 0
    X509_STORE_CTX_set_error(store, X509_V_OK)
    return 1


cdef void count_key_updates(const SSL *ssl, int where, int ret) noexcept nogil:
    """Each update of keys costs us work; the connection is closed if there are many without data."""
    cdef tls_session *s
    cdef int state
    if where != SSL_CB_ACCEPT_LOOP and where != SSL_CB_CONNECT_LOOP:
        return
    state = SSL_get_state(ssl)
    if state == TLS_ST_SR_KEY_UPDATE or state == TLS_ST_CR_KEY_UPDATE:
        s = <tls_session *>SSL_get_app_data(ssl)
        if s.key_updates < KEY_UPDATES_MOST:
            s.key_updates += 1


# ---- tickets --------------------------------------------------------------------------------------

cdef void ticket_keys_derive(tls_ring *r, tls_context *t) noexcept nogil:
    cdef uint8_t label[33]
    cdef uint32_t i, half
    memcpy(label, t.digest, 32)
    for i in range(r.n_tickets):
        for half in range(2):
            label[32] = <uint8_t>half
            HMAC(EVP_sha256(), r.tickets[i].secret.at, <int>r.tickets[i].secret.len, label, 33,
                 t.keys[i] + 32 * half, NULL)


cdef int ticket_cipher(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                       int encrypt) noexcept nogil:
    """Set the keys for a ticket. 1: done; 2: done, and renew it; 0: no key; -1: an error."""
    cdef tls_session *s = <tls_session *>SSL_get_app_data(ssl)
    cdef tls_context *t = s.context
    cdef tls_ring *r = s.ring
    cdef OSSL_PARAM params[3]
    cdef uint32_t i = 0
    if t is NULL or r is NULL or r.n_tickets == 0:
        return 0
    if encrypt:
        memcpy(name, r.tickets[0].name, 16)
        if RAND_bytes(iv, IV) != 1 or EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, t.keys[0], iv) != 1:
            return -1
    else:
        while i < r.n_tickets and memcmp(name, r.tickets[i].name, 16) != 0:
            i += 1
        if i == r.n_tickets:
            return 0
        if EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, t.keys[i], iv) != 1:
            return -1
    params[0] = OSSL_PARAM_construct_octet_string(b"key", t.keys[i] + AES_KEY, MAC_KEY)
    params[1] = OSSL_PARAM_construct_utf8_string(b"digest", <char *>b"sha256", 0)
    params[2] = OSSL_PARAM_construct_end()
    if EVP_MAC_CTX_set_params(mac, params) != 1:
        return -1
    # Clients use a ticket of TLS 1.3 once (RFC 8446, C.4): one that resumes gets the next.
    return 2 if i or (not encrypt and SSL_version(ssl) == TLS1_3_VERSION) else 1


cdef int ticket_carries(SSL *ssl, void *arg) noexcept nogil:
    """A ticket is about to be made: put into it what is known of the client. 1, or 0: the handshake fails."""
    cdef tls_session *s = <tls_session *>SSL_get_app_data(ssl)
    cdef uint8_t data[CARRIED_MOST]
    cdef size_t n
    if s.peer.n_asked == 0:
        return 1
    peer_learn(s)
    n = peer_pack(s, data, sizeof(data))
    return n == 0 or SSL_SESSION_set1_ticket_appdata(SSL_get0_session(ssl), data, n)


cdef int ticket_is_read(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t n, int status,
                        void *arg) noexcept nogil:
    cdef X509 *leaf
    cdef void *data = NULL
    cdef size_t carried = 0
    if status != SSL_TICKET_SUCCESS and status != SSL_TICKET_SUCCESS_RENEW:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    leaf = SSL_SESSION_get0_peer(session)
    if leaf is not NULL and (
            X509_cmp_current_time(X509_get0_notAfter(leaf)) <= 0
            or SSL_SESSION_get0_ticket_appdata(session, &data, &carried) != 1 or carried == 0):
        return SSL_TICKET_RETURN_IGNORE_RENEW
    return SSL_TICKET_RETURN_USE_RENEW if status == SSL_TICKET_SUCCESS_RENEW else SSL_TICKET_RETURN_USE


# ---- sessions with upstreams -------------------------------------------------------------------------

cdef int session_is_new(SSL *ssl, SSL_SESSION *session) noexcept nogil:
    """An upstream gave us a session: the newest is kept. 1: we own it."""
    cdef tls_session *s = <tls_session *>SSL_get_app_data(ssl)
    SSL_SESSION_free(s.fresh)
    s.fresh = session
    return 1
