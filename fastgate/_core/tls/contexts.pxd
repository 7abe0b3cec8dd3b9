"""contexts: SSL_CTXs, made from a keyring's entries when they are first used."""
from fastgate._core.tls.openssl cimport SSL_CTX
from fastgate._core.tls.tables cimport tls_context, tls_ring, tls_upstream

cdef SSL_CTX *context_of(tls_ring *r, tls_context *t) noexcept nogil     # NULL: it cannot be made
cdef SSL_CTX *upstream_context(tls_ring *r, tls_upstream *u) noexcept nogil
cdef SSL_CTX *challenge_context(tls_ring *r, const char *host, size_t n) noexcept nogil
    # a new one, which the caller owns; NULL: there is no challenge for this host
cdef void contexts_free(tls_ring *r) noexcept nogil
