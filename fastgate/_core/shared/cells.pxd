"""cells: a lock-free table of {key, state} double words in shared memory.

The limiter and the quotas keep their state here. A cell is 16 bytes, changed as a whole by one
compare-and-swap, so a key's cell can be reused for another key without a lock. The theory (why a
key never gets two cells, and why a kill is harmless) is in cells.pyx.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.platform.atomics cimport fg_load
from fastgate._core.shared.layout cimport GROUP, cell, segment_header

cdef extern from *:
    """
    #ifndef FASTGATE_FOLD
    #define FASTGATE_FOLD
    #include <stdint.h>
    #include <string.h>
    /* The 128-bit product's halves, exclusive-or: every bit depends on all bits of both. */
    static inline uint64_t fg_fold(uint64_t a, uint64_t b) {
        unsigned __int128 r = (unsigned __int128)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    static inline uint64_t fg_read64(const char *p) {
        uint64_t v; memcpy(&v, p, 8);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        return v;
    }
    static inline uint32_t fg_read32(const char *p) {
        uint32_t v; memcpy(&v, p, 4);
    #if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        v = __builtin_bswap32(v);
    #endif
        return v;
    }
    #define FG_K0 0x6a09e667f3bcc909ULL
    #define FG_K1 0xbb67ae8584caa73bULL
    #define FG_K2 0x3c6ef372fe94f82bULL
    #define FG_K3 0xa54ff53a5f1d36f1ULL
    #define FG_K4 0x510e527fade682d1ULL
    #define FG_K5 0x9b05688c2b3e6c1fULL
    #define FG_K6 0x1f83d9abfb41bd6bULL
    #define FG_K7 0x5be0cd19137e2179ULL
    #endif
    """
    uint64_t fg_fold(uint64_t a, uint64_t b) noexcept nogil
    uint64_t fg_read64(const char *p) noexcept nogil
    uint32_t fg_read32(const char *p) noexcept nogil
    uint64_t FG_K0, FG_K1, FG_K2, FG_K3, FG_K4, FG_K5, FG_K6, FG_K7

cdef struct cells:            # a view; lives in the process, points into the segment
    cell *base
    uint64_t mask             # count - 1
    uint64_t full             # how often there was no cell (the request is allowed), for metrics

cdef struct decision:
    uint64_t remaining        # requests left now
    uint64_t used
    uint64_t reset_s          # seconds until the limit is full again (rate) or the window ends (quota)
    uint64_t retry_s          # refused: whole seconds until a retry can succeed, >= 1
    uint64_t resets_at        # Unix time, seconds (rate: 0, the caller adds reset_s to its clock)

# The differences between the tables of the limiter and the quotas.
ctypedef bint (*expired_fn)(uint64_t state, uint64_t now) noexcept nogil
    # whether the state no longer matters: then its cell may be given to another key

cdef struct cells_rule:
    uint64_t key_mask         # bits of the key word that are the key
    uint64_t claim_mask       # a state with these bits ...
    uint64_t claim            # ... equal to this is a claim; its other bits are the claim's number
    expired_fn expired

cdef cells cells_of_limiter(segment_header *s) noexcept nogil
cdef cells cells_of_quota(segment_header *s) noexcept nogil

cdef cell *cells_claim(cells *t, uint64_t hash, uint64_t key, const cells_rule *rule, uint64_t now,
                       uint64_t *claim) noexcept nogil
    # For a key that cell_live did not find. key: the hash under key_mask, not 0. NULL: there is no cell
    # (counted). *claim == 0: the cell was found live for this key. Otherwise: a claim of this key; it
    # becomes live by one fg_cas16 from {key, *claim}; if that fails, start again.

cdef inline uint64_t cells_first(const cells *t, uint64_t hash) noexcept nogil:
    """Index of the first group's first cell. The upper 16 bits, which key_mask may drop, come
    first, so that they still distinguish keys."""
    return ((hash << 16) | (hash >> 48)) & t.mask & ~<uint64_t>(GROUP - 1)

cdef inline uint64_t cells_second(const cells *t, uint64_t hash) noexcept nogil:
    """The same for the second group: any group but the first."""
    return (cells_first(t, hash) ^ (((hash * FG_K1) >> 16) | GROUP)) & t.mask & ~<uint64_t>(GROUP - 1)

cdef inline cell *cell_live(const cells *t, uint64_t hash, uint64_t key, const cells_rule *rule,
                            uint64_t *word, uint64_t *state) noexcept nogil:
    """The cell of the window where the key is live, and what was read there; NULL: not found.

    The two words are read one after the other: trust them only after an fg_cas16 from them or, if a
    rare wrong answer does no harm, after finding the key word unchanged."""
    cdef cell *c = t.base + cells_first(t, hash)
    cdef int i, group
    for group in range(2):
        for i in range(GROUP):
            word[0] = fg_load(&c[i].key)
            if (word[0] & rule.key_mask) == key:
                state[0] = fg_load(&c[i].state)
                if (state[0] & rule.claim_mask) != rule.claim:
                    return c + i
        c = t.base + cells_second(t, hash)
    return NULL

# ---- keys -----------------------------------------------------------------------------
cdef uint64_t mix_key(uint64_t a, uint64_t b) noexcept nogil   # never 0
cdef uint64_t hash_bytes(const void *p, uint32_t length, uint64_t seed) noexcept nogil
    # The same in every process and after a restart (saved quotas depend on it).
cdef uint64_t address_hash(const uint8_t *address) noexcept nogil
    # 16 bytes, IPv4 mapped. IPv6 by its /64, since a client owns all of it. Never 0.
cdef uint64_t limit_key(uint64_t identity, uint64_t address_hash, uint64_t route, uint64_t consumer,
                        uint64_t plan, uint64_t service, uint64_t credential) noexcept nogil
    # The key that a limit is counted under. identity: of the limit. The rest: the elements of its
    # scope; 0 for those not in the scope. Never 0. The one function for this, in C and Python.
