"""jwt: reading and checking a JSON Web Token (see jwt.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.tokens.issuers cimport claim_path, issuer_ring, token_issuer, token_key
from fastgate._core.tokens.json_reader cimport json_text, json_value

cdef enum:
    TOKEN_MOST = 8192         # octets of a token
    PART_MOST = 6144          # octets of a decoded part
    SUBJECT_MOST = 255        # octets of a subject

cdef struct jwt:              # one at a time: a worker's scratch memory
    const char *token
    uint32_t length
    uint32_t signed           # octets of it that are signed
    uint32_t header_len
    uint32_t claims_len
    uint32_t signature_len
    uint8_t asked             # 1: the claims are the issuer's answer; 0: the token's own
    int algorithm             # index in ALGORITHM_NAMES; -1: none of them
    token_issuer *issuer
    token_key *key            # that made the signature
    int64_t expires           # Unix seconds
    int64_t when              # of a fault that is about time: what the claim says
    uint32_t subject_len
    char subject[SUBJECT_MOST]
    json_text header
    json_text claims
    uint8_t header_text[PART_MOST]
    uint8_t claims_text[PART_MOST]
    uint8_t signature[PART_MOST]

# Each returns 0, or the TokenFault.
cdef int jwt_read(jwt *t, const char *token, uint32_t length) noexcept nogil
cdef int jwt_find_issuer(jwt *t, issuer_ring *ring, const uint64_t *ids, uint32_t n) noexcept nogil
    # Which of these issuers it claims to be from: t.issuer.
cdef int jwt_verify(jwt *t) noexcept nogil               # its signature: t.key
cdef int jwt_check_claims(jwt *t, int64_t now_s) noexcept nogil       # t.expires, t.subject; or t.when

cdef int jwt_check_answer(jwt *t, int64_t now_s, int64_t most_s) noexcept nogil
    # The issuer's answer about a token (RFC 7662), in t.claims: as jwt_check_claims, for at most so many seconds.

cdef int is_jwt(const char *text, uint32_t length) noexcept nogil     # whether it looks like one: three parts
cdef const json_value *claim_at(const json_text *j, const claim_path *path) noexcept nogil        # NULL: it has none
