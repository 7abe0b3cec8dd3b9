"""verdicts: what a worker has found out about tokens (see verdicts.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.tokens.issuers cimport issuer_ring, token_issuer
from fastgate._core.tokens.jwt cimport jwt

cdef enum:
    VERDICTS = 16384          # that a worker remembers
    TOGETHER = 8              # places where one token's may be
    BAD_S = 60                # seconds for which a bad token is remembered
    DIGEST = 32

cdef struct verdict:          # followed by its texts, in this order
    uint64_t hash             # of the token
    uint64_t issuer           # id; 0: it was not found
    uint64_t key              # fingerprint of the key that made the signature; 0: none did
    uint64_t ring             # serial of the keyring in which that key was last seen
    int64_t until             # Unix seconds
    int64_t when              # of a fault that is about time
    uint64_t checked          # the index's count of revocations when the token was not among them
    uint64_t index            # the index's epoch then
    uint32_t row              # of counters: the issuer's
    uint32_t uses             # exchanges that hold it, and the table
    uint16_t fault            # TokenFault; 0: it is good
    uint8_t unknown           # UnknownSubject
    uint8_t has_token_id
    uint8_t default_plan      # its plan is for consumers that have none
    uint8_t asked             # 1: its issuer's answer about it; 0: by its signature
    uint8_t subject[DIGEST]   # as in the index
    uint8_t digest[DIGEST]    # of what is signed of the token, as in the index
    uint8_t token_id[DIGEST]  # of its `jti`, as in the index
    uint32_t token_len
    uint32_t name_len         # of the subject
    uint32_t scopes_len       # separated by spaces
    uint32_t plan_len
    uint32_t lines_len        # header lines for upstreams

cdef struct verdict_table:
    uint64_t seed
    verdict *rows[VERDICTS]

cdef inline const char *token_of(const verdict *v) noexcept nogil:
    return <const char *>(v + 1)

cdef inline const char *name_in(const verdict *v) noexcept nogil:
    return token_of(v) + v.token_len

cdef inline const char *scopes_of(const verdict *v) noexcept nogil:
    return name_in(v) + v.name_len

cdef inline const char *plan_in(const verdict *v) noexcept nogil:
    return scopes_of(v) + v.scopes_len

cdef inline const char *lines_of(const verdict *v) noexcept nogil:
    return plan_in(v) + v.plan_len

cdef verdict *verdict_known(verdict_table *t, const char *token, uint32_t length, const uint64_t *ids, uint32_t n,
                            issuer_ring *ring, int64_t now_s, uint8_t asked) noexcept nogil
    # What is known about a token that one of these issuers may have issued, by its signature or because its issuer
    # was asked; NULL: nothing (any more).
cdef verdict *verdict_make(verdict_table *t, jwt *j, int fault, int64_t now_s, uint64_t serial) noexcept nogil
    # Remember the result of checking a token. NULL: no memory. Held by the caller, who lets go of it.
cdef void digest_of(uint8_t *out, const char *kind, uint32_t kind_len, const char *a, size_t n, const char *b,
                    size_t m) noexcept nogil
    # The digest of a credential that is no API key, as in model/digests.py. b NULL: there is one part only.
cdef void verdict_hold(verdict *v) noexcept nogil
cdef void verdict_let_go(verdict *v) noexcept nogil
cdef void verdicts_forget(verdict_table *t) noexcept nogil        # all of them
