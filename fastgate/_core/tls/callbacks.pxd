"""callbacks: what libssl asks us during a handshake, apart from the choice by name (choice.pyx)."""
from fastgate._core.tls.openssl cimport (
    EVP_CIPHER_CTX, EVP_MAC_CTX, SSL, SSL_SESSION, X509_STORE_CTX)
from fastgate._core.tls.tables cimport tls_context, tls_ring, tls_session

cdef int alpn_choose(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *offered,
                     unsigned int n, void *arg) noexcept nogil
cdef int alpn_challenge(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *offered,
                        unsigned int n, void *arg) noexcept nogil
cdef int alpn_offers(const unsigned char *offered, size_t n, const char *protocol, size_t length) noexcept nogil
    # whether a protocol is in a list of protocols
cdef int chain_judged(int ok, X509_STORE_CTX *store) noexcept nogil
cdef void count_key_updates(const SSL *ssl, int where, int ret) noexcept nogil
cdef int ticket_cipher(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                       int encrypt) noexcept nogil
cdef int ticket_carries(SSL *ssl, void *arg) noexcept nogil
cdef int ticket_is_read(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t n, int status,
                        void *arg) noexcept nogil
cdef void ticket_keys_derive(tls_ring *r, tls_context *t) noexcept nogil
cdef int session_is_new(SSL *ssl, SSL_SESSION *session) noexcept nogil
