"""random: fast random numbers."""
from libc.stdint cimport uint64_t

cdef inline uint64_t random64(uint64_t *s) noexcept nogil:
    """xoshiro256** (Blackman and Vigna, public domain algorithm), for choices that need no secrecy.

    s: its state, four words, seeded by the kernel."""
    cdef uint64_t x = s[1] * 5
    cdef uint64_t result = ((x << 7) | (x >> 57)) * 9
    cdef uint64_t t = s[1] << 17
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = (s[3] << 45) | (s[3] >> 19)
    return result
