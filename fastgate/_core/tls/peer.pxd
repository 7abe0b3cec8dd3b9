"""peer: what a handshake showed about the peer: which authorities its certificate leads to, its chain, its key."""
from libc.stdint cimport uint8_t

from fastgate._core.tls.openssl cimport stack_st_X509
from fastgate._core.tls.tables cimport tls_authority, tls_peer, tls_session

cdef int chain_has(const stack_st_X509 *chain, const tls_authority *a) noexcept nogil
    # whether one of an authority's certificates is in this chain
cdef void peer_learn(tls_session *s) noexcept nogil                # a client's `verified`, `leaf` and `chain`
cdef size_t peer_pack(const tls_session *s, uint8_t *out, size_t room) noexcept nogil
    # both for a ticket; 0: too long
cdef int peer_pinned(const tls_session *s) noexcept nogil          # whether an upstream's chain has one of its pins
cdef const uint8_t *peer_key(tls_peer *p) noexcept nogil          # its `key`, found when first asked for; NULL: it has none
cdef void peer_forget(tls_session *s) noexcept nogil
