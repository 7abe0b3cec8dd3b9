"""choice: which certificates, and which policy for clients, a connection gets: by listener and name."""
from libc.stdint cimport uint64_t

from fastgate._core.tls.openssl cimport SSL_CTX
from fastgate._core.tls.tables cimport tls_listener, tls_ring, tls_upstream

cdef uint64_t name_hash(const char *text, size_t n) noexcept nogil
cdef tls_listener *listener_of(tls_ring *r, const char *key, size_t n) noexcept nogil     # NULL: it has no TLS
cdef tls_upstream *upstream_of(tls_ring *r, uint64_t id) noexcept nogil                   # NULL: not in this keyring
cdef SSL_CTX *base_context(tls_ring *r, tls_listener *l) noexcept nogil
    # what a handshake begins with, until the client has named a host; NULL: it cannot be made
