"""issuers: who issues tokens, and their keys, as the core uses them (see issuers.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.tls.openssl cimport EVP_PKEY, EVP_PKEY_CTX

cdef enum:
    ALGORITHMS = 13           # how many there are: bits of `token_key.algorithms`
    PATH_MOST = 8             # names of a claim's path

cdef struct token_text:
    const char *at
    uint32_t len

cdef struct token_key:
    uint64_t fingerprint      # of the key itself
    token_text kid            # len 0: it has none
    uint32_t algorithms       # that it may verify: 1 << index in ALGORITHM_NAMES
    EVP_PKEY *public          # NULL: a secret
    token_text secret
    EVP_PKEY_CTX *ready[ALGORITHMS]       # prepared to verify; NULL: not yet

cdef struct claim_path:
    token_text names[PATH_MOST]
    uint32_t n                # 0: no claim

cdef struct claim_header:
    token_text name           # as it is sent
    claim_path claim

cdef struct token_issuer:
    uint64_t id
    uint32_t row              # of counters
    token_text name
    token_text issuer
    token_text *audiences
    token_text *types
    claim_path subject
    claim_path plan
    claim_path *scopes
    claim_header *headers
    token_key *keys
    uint32_t n_audiences
    uint32_t n_types
    uint32_t n_scopes
    uint32_t n_headers
    uint32_t n_keys
    int64_t leeway_s
    int64_t lifetime_s
    uint8_t unknown           # UnknownSubject
    uint8_t fetches
    int64_t cache_s           # for how long its answers are believed at most
    token_text default_plan   # of tokens that name none
    token_text authorization
    token_text introspection

cpdef enum UnknownSubject:
    UNKNOWN_REFUSE = 0
    UNKNOWN_ANONYMOUS = 1
    UNKNOWN_CREATE = 2

cdef struct issuer_ring:
    uint64_t serial           # the keyring's
    token_issuer *issuers
    uint32_t n

cdef class IssuerRing:
    cdef issuer_ring ring
    cdef object keyring       # whose mapping the tables point into
    cdef list kept            # bytes objects that the tables point into

cdef token_issuer *issuer_of(issuer_ring *ring, uint64_t id) noexcept nogil       # NULL: there is none
