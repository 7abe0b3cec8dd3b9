"""contexts: SSL_CTXs, made from a keyring's entries when they are first used.

A server's context holds the certificates of one name, one for each type of key (libssl picks by what the
client supports), and the policy for clients: which authorities' certificates they are asked for. The
choice by name is made in the ClientHello callback (choice.pyx), before libssl looks at tickets.

At most LOADED_MOST contexts of servers are kept; the one that was not used for the longest time goes.

libssl's errors are cleared after each failure: Python's ssl module shares the thread's queue.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from fastgate._core.tls.openssl cimport (
    ERR_clear_error, EVP_PKEY, EVP_PKEY_free, SSL_CTX, SSL_CTX_add1_chain_cert, SSL_CTX_free, SSL_CTX_new,
    SSL_CTX_sess_set_new_cb, SSL_CTX_set1_groups_list, SSL_CTX_set_alpn_protos, SSL_CTX_set_alpn_select_cb,
    SSL_CTX_set_cert_store, SSL_CTX_set_cipher_list, SSL_CTX_set_client_CA_list,
    SSL_CTX_set_info_callback, SSL_CTX_set_min_proto_version, SSL_CTX_set_mode, SSL_CTX_set_options,
    SSL_CTX_set_session_cache_mode, SSL_CTX_set_session_id_context, SSL_CTX_set_session_ticket_cb,
    SSL_CTX_set_timeout, SSL_CTX_set_tlsext_ticket_key_evp_cb, SSL_CTX_set_verify, SSL_CTX_use_PrivateKey,
    SSL_CTX_use_certificate, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_ENABLE_PARTIAL_WRITE,
    SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_PRIORITIZE_CHACHA,
    SSL_SESS_CACHE_CLIENT, SSL_SESS_CACHE_NO_INTERNAL, SSL_SESS_CACHE_OFF, SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
    SSL_VERIFY_NONE, SSL_VERIFY_PEER, TLS_client_method, TLS_server_method, X509, X509_CRL, X509_CRL_free,
    X509_NAME_dup, X509_STORE, X509_STORE_add_cert, X509_STORE_add_crl, X509_STORE_free, X509_STORE_new,
    X509_STORE_set_flags, X509_STORE_up_ref, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_CRL_CHECK_ALL,
    X509_V_FLAG_PARTIAL_CHAIN, X509_V_FLAG_TRUSTED_FIRST, X509_free, X509_get_subject_name, d2i_AutoPrivateKey, d2i_X509,
    d2i_X509_CRL, fg_names_new, fg_names_push, stack_st_X509_NAME)
from fastgate._core.tls.callbacks cimport (
    alpn_challenge, alpn_choose, chain_judged, count_key_updates, session_is_new, ticket_carries, ticket_cipher,
    ticket_is_read, ticket_keys_derive)
from fastgate._core.tls.tables cimport (
    LOADED_MOST, der, tls_authority, tls_certificate, tls_challenge, tls_policy)

cdef enum:
    SESSION_S = 8 * 3600

# TLS 1.2; those of 1.3 are libssl's. Forward secrecy and authenticated encryption only.
cdef const char *CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305")
cdef const char *HTTP_1_1 = b"\x08http/1.1"


cdef X509 *certificate_from(const der *d) noexcept nogil:
    cdef const unsigned char *at = d.at
    return d2i_X509(NULL, &at, d.len)


cdef SSL_CTX *context_new(int server, int min_version) noexcept nogil:
    """What all contexts share."""
    cdef SSL_CTX *ctx = SSL_CTX_new(TLS_server_method() if server else TLS_client_method())
    if ctx is NULL:
        return NULL
    SSL_CTX_set_min_proto_version(ctx, min_version)
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION)
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    SSL_CTX_set_info_callback(ctx, count_key_updates)
    if SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1:
        SSL_CTX_free(ctx)
        return NULL
    if SSL_CTX_set1_groups_list(ctx, b"X25519MLKEM768:X25519:P-256:P-384") != 1:
        SSL_CTX_set1_groups_list(ctx, b"X25519:P-256:P-384")     # libssl before 3.5
    return ctx


cdef int present(SSL_CTX *ctx, const tls_certificate *c) noexcept nogil:
    """Let it present this certificate, beside those with another type of key. 1, or 0."""
    cdef const unsigned char *at = c.key.at
    cdef EVP_PKEY *key = d2i_AutoPrivateKey(NULL, &at, c.key.len)
    cdef X509 *x
    cdef uint32_t i
    cdef int ok = key is not NULL
    for i in range(c.n_chain):
        x = certificate_from(&c.chain[i]) if ok else NULL
        if x is NULL:
            ok = 0
            break
        if i == 0:
            ok = SSL_CTX_use_certificate(ctx, x) == 1 and SSL_CTX_use_PrivateKey(ctx, key) == 1
        else:
            ok = SSL_CTX_add1_chain_cert(ctx, x) == 1
        X509_free(x)
    EVP_PKEY_free(key)
    return ok and c.n_chain != 0


cdef int trust(X509_STORE *store, const tls_authority *a) noexcept nogil:
    """Add an authority's certificates and revocation lists. 1, or 0."""
    cdef X509 *x
    cdef X509_CRL *crl
    cdef const unsigned char *at
    cdef uint32_t i
    cdef int ok = 1
    for i in range(a.n_certificates):
        x = certificate_from(&a.certificates[i])
        ok = ok and x is not NULL and X509_STORE_add_cert(store, x) == 1
        X509_free(x)
    for i in range(a.n_crls):
        at = a.crls[i].at
        crl = d2i_X509_CRL(NULL, &at, a.crls[i].len)
        ok = ok and crl is not NULL and X509_STORE_add_crl(store, crl) == 1
        X509_CRL_free(crl)
    if a.n_crls:
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL)
    return ok


cdef X509_STORE *store_new() noexcept nogil:
    cdef X509_STORE *store = X509_STORE_new()
    if store is not NULL:
        # An authority may be an intermediate one: its own certificate ends the chain.
        X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST)
    return store


cdef int ask(tls_ring *r, SSL_CTX *ctx, const tls_policy *p) noexcept nogil:
    """Ask clients for a certificate of these authorities. 1, or 0."""
    cdef X509_STORE *store = store_new()
    cdef stack_st_X509_NAME *names = fg_names_new()
    cdef tls_authority *a
    cdef X509 *x
    cdef uint32_t i, j
    cdef int ok = store is not NULL and names is not NULL
    for i in range(p.n_authorities):
        a = &r.authorities[p.authorities[i]]
        ok = ok and trust(store, a)
        for j in range(a.n_certificates):
            x = certificate_from(&a.certificates[j]) if ok else NULL
            if x is not NULL:
                fg_names_push(names, X509_NAME_dup(X509_get_subject_name(x)))
                X509_free(x)
    SSL_CTX_set_cert_store(ctx, store)                  # both belong to the context now
    SSL_CTX_set_client_CA_list(ctx, names)
    SSL_CTX_set_verify(
        ctx, SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if p.required else 0), chain_judged)
    return ok


cdef SSL_CTX *server_context(tls_ring *r, tls_context *t) noexcept nogil:
    cdef SSL_CTX *ctx = context_new(1, t.min_version)
    cdef uint32_t i
    cdef int ok = ctx is not NULL
    # A later certificate replaces one with the same type of key: the preferred ones come last.
    for i in range(t.n_certificates):
        ok = ok and present(ctx, &r.certificates[t.certificates[t.n_certificates - 1 - i]])
    if ok and t.policy >= 0:
        ok = ask(r, ctx, &r.policies[t.policy])
    if not ok:
        SSL_CTX_free(ctx)
        return NULL
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
    SSL_CTX_set_session_id_context(ctx, t.digest, 32)
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)      # tickets only
    SSL_CTX_set_timeout(ctx, SESSION_S)
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_cipher)
    SSL_CTX_set_session_ticket_cb(ctx, ticket_carries, ticket_is_read, NULL)
    SSL_CTX_set_alpn_select_cb(ctx, alpn_choose, NULL)
    ticket_keys_derive(r, t)
    return ctx


cdef void unload_oldest(tls_ring *r) noexcept nogil:
    cdef tls_context *oldest = NULL
    cdef uint32_t i
    for i in range(r.n_contexts):
        if r.contexts[i].ssl is not NULL and (oldest is NULL or r.contexts[i].used < oldest.used):
            oldest = &r.contexts[i]
    if oldest is not NULL:
        SSL_CTX_free(oldest.ssl)
        oldest.ssl = NULL
        r.n_loaded -= 1


cdef SSL_CTX *context_of(tls_ring *r, tls_context *t) noexcept nogil:
    if t.ssl is NULL:
        if r.n_loaded >= LOADED_MOST:
            unload_oldest(r)
        t.ssl = server_context(r, t)
        ERR_clear_error()
        if t.ssl is NULL:
            return NULL
        r.n_loaded += 1
    r.uses += 1
    t.used = r.uses
    return t.ssl


cdef SSL_CTX *challenge_context(tls_ring *r, const char *host, size_t n) noexcept nogil:
    cdef tls_certificate c
    cdef const tls_challenge *found = NULL
    cdef SSL_CTX *ctx
    cdef uint32_t i
    for i in range(r.n_challenges):
        if r.challenges[i].len == n and memcmp(r.challenges[i].host, host, n) == 0:
            found = &r.challenges[i]
            break
    if found is NULL:
        return NULL
    c.chain = <der *>&found.certificate
    c.n_chain = 1
    c.key = found.key
    ctx = context_new(1, 0x0303)
    if ctx is not NULL and not present(ctx, &c):
        SSL_CTX_free(ctx)
        ctx = NULL
    if ctx is not NULL:
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
        SSL_CTX_set_alpn_select_cb(ctx, alpn_challenge, NULL)
    ERR_clear_error()
    return ctx


# ---- upstreams --------------------------------------------------------------------------------

cdef X509_STORE *store_of(tls_authority *a) noexcept nogil:
    """An authority's store, shared by all contexts that need it."""
    if a.store is NULL:
        a.store = store_new()
        if a.store is not NULL and not trust(a.store, a):
            X509_STORE_free(a.store)
            a.store = NULL
    return a.store


cdef SSL_CTX *client_context(tls_ring *r, tls_upstream *u) noexcept nogil:
    cdef SSL_CTX *ctx = context_new(0, u.min_version)
    cdef X509_STORE *store = NULL
    cdef int ok = ctx is not NULL
    if ok and u.authority >= 0:
        store = store_of(&r.authorities[u.authority])
        ok = store is not NULL
    if ok and u.certificate >= 0:
        ok = present(ctx, &r.certificates[u.certificate])
    if not ok:
        SSL_CTX_free(ctx)
        return NULL
    if store is not NULL:
        X509_STORE_up_ref(store)
        SSL_CTX_set_cert_store(ctx, store)
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER if store is not NULL else SSL_VERIFY_NONE, NULL)
    SSL_CTX_set_alpn_protos(ctx, <const unsigned char *>HTTP_1_1, 9)
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL)
    SSL_CTX_sess_set_new_cb(ctx, session_is_new)
    return ctx


cdef SSL_CTX *upstream_context(tls_ring *r, tls_upstream *u) noexcept nogil:
    if u.ssl is NULL:
        u.ssl = client_context(r, u)
        ERR_clear_error()
    return u.ssl


cdef void contexts_free(tls_ring *r) noexcept nogil:
    cdef uint32_t i
    for i in range(r.n_contexts):
        SSL_CTX_free(r.contexts[i].ssl)
        r.contexts[i].ssl = NULL
    for i in range(r.n_upstreams):
        SSL_CTX_free(r.upstreams[i].ssl)
        r.upstreams[i].ssl = NULL
    for i in range(r.n_authorities):
        X509_STORE_free(r.authorities[i].store)
        r.authorities[i].store = NULL
    r.n_loaded = 0
