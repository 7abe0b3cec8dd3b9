"""tables: a keyring as C sees it.

    tls_ring ──┬── listeners[] ── names[], sorted by hash ──▶ contexts[] (certificates + policy of clients)
               ├── upstreams[] (one context each)
               ├── certificates[], authorities[], policies[]: DER in the keyring's mapping
               └── tickets[], challenges[]

A context's SSL_CTX is made when it is first used (contexts.pyx). Connections hold references to the SSL_CTX
by libssl's count, and to the ring by `refs` until their handshake is over.

Only struct definitions belong here.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.tls.openssl cimport SSL, SSL_CTX, SSL_SESSION, X509_STORE

cdef enum:
    TICKETS = 3
    AUTHORITIES_MOST = 8      # whose client certificates one connection asks for
    CHAIN_MOST = 8            # certificates between a client's own and the authority
    LOADED_MOST = 1024        # contexts of servers that are kept, 13 KB each

cdef struct der:
    const uint8_t *at
    uint32_t len

cdef struct tls_certificate:
    der *chain                # the leaf first
    uint32_t n_chain
    der key

cdef struct tls_authority:
    uint64_t id
    der *certificates
    uint32_t n_certificates
    der *crls
    uint32_t n_crls
    X509_STORE *store         # NULL: not made yet

cdef struct tls_policy:       # which certificates a client is asked for
    uint32_t authorities[AUTHORITIES_MOST]     # indexes
    uint32_t n_authorities
    uint8_t required

cdef struct tls_context:
    SSL_CTX *ssl              # NULL: not made yet
    uint64_t used             # when, in uses of contexts of the ring
    uint32_t *certificates    # indexes: the preferred ones first
    uint32_t n_certificates
    int32_t policy            # index; -1: clients are not asked
    uint16_t min_version
    uint8_t digest[32]        # of what a ticket must not be carried over to
    uint8_t keys[TICKETS][64] # for tickets: AES-256, then HMAC-SHA-256

cdef struct tls_name:
    uint64_t hash
    const char *text          # lower case; "*.example.com" for a wildcard
    uint32_t len
    int32_t context           # index: for this name, or one label in place of the star; -1: refused
    int32_t deep              # for a wildcard: index for several labels in place of the star

cdef struct tls_listener:
    const char *key           # Listener.key
    uint32_t key_len
    tls_name *names
    uint32_t n_names
    uint32_t base             # index of the context that a handshake begins with
    int32_t other             # index of the context for all other names, and none; -1: refused

cdef struct tls_upstream:
    uint64_t id
    const char *name          # SNI and the name to verify; NULL: the target's host
    SSL_CTX *ssl              # NULL: not made yet
    int32_t authority         # -1: not verified
    int32_t certificate       # -1: none is presented
    uint8_t *pins             # n_pins times 32 bytes
    uint32_t n_pins
    uint16_t min_version

cdef struct tls_ticket:
    uint8_t name[16]
    der secret

cdef struct tls_challenge:
    const char *host
    uint32_t len
    der certificate
    der key

cdef struct tls_ring:
    uint64_t refs             # of handshakes in progress
    uint64_t uses             # of contexts
    uint64_t serial
    tls_certificate *certificates
    tls_authority *authorities
    tls_policy *policies
    tls_context *contexts
    tls_listener *listeners
    tls_upstream *upstreams
    tls_challenge *challenges
    tls_ticket tickets[TICKETS]
    uint32_t n_certificates
    uint32_t n_authorities
    uint32_t n_policies
    uint32_t n_contexts
    uint32_t n_listeners
    uint32_t n_upstreams
    uint32_t n_challenges
    uint32_t n_tickets
    uint32_t n_loaded         # contexts with an SSL_CTX

# What a handshake established about client certificates. Ids: keyring.authority_id. Certificates: DER.
cdef struct tls_peer:
    uint64_t asked[AUTHORITIES_MOST]       # whose certificates were asked for
    uint64_t verified[AUTHORITIES_MOST]    # who of them issued the client's, which is valid
    uint8_t n_asked
    uint8_t n_verified
    uint8_t n_chain
    uint32_t leaf_len
    const uint8_t *leaf                    # the client's certificate; leaf_len 0: there is none
    const uint8_t *chain[CHAIN_MOST]       # its issuer, the issuer's, ...
    uint32_t chain_len[CHAIN_MOST]
    uint8_t has_key                        # whether `key` is known: 1; 2: it cannot be read
    uint8_t key[32]                        # SHA-256 of the leaf's SubjectPublicKeyInfo

# What libssl's callbacks find by the SSL.
cdef struct tls_session:
    SSL *ssl
    tls_ring *ring            # NULL after the handshake
    tls_listener *listener    # of a server
    tls_context *context      # that was chosen; NULL after the handshake
    tls_upstream *upstream    # of a client
    SSL_SESSION *fresh        # of a client: for the next connection; NULL: none came
    tls_peer peer
    uint8_t learned           # whether what `peer` says of the client's certificate is known
    uint8_t challenge         # an acme-tls/1 handshake
    uint8_t key_updates       # since the last data
    uint8_t *sent             # the client's certificates, the leaf first: 4 bytes of length, then DER; NULL: none
    uint32_t sent_len
