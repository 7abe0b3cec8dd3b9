"""text: putting bytes, numbers and hex one after another. Inlined; the caller saw to the room."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #ifndef FASTGATE_TEXT
    #define FASTGATE_TEXT
    #include <stdint.h>
    #include <string.h>
    static const char fg_hex_digits[] = "0123456789abcdef";
    static inline char *fg_put_hex(char *p, const void *bytes, unsigned n) {
        const uint8_t *b = (const uint8_t *)bytes;
        for (unsigned i = 0; i < n; i++) {
            *p++ = fg_hex_digits[b[i] >> 4];
            *p++ = fg_hex_digits[b[i] & 15];
        }
        return p;
    }
    static inline char *fg_put_uint(char *p, uint64_t v) {
        char tmp[20];
        int i = 20;
        do { tmp[--i] = (char)('0' + v % 10); v /= 10; } while (v);
        memcpy(p, tmp + i, 20 - i);
        return p + (20 - i);
    }
    /* Inlined, so that the literal's length is known when it is compiled. */
    static inline __attribute__((always_inline)) char *fg_put_lit(char *p, const char *s) {
        size_t n = __builtin_strlen(s);
        memcpy(p, s, n);
        return p + n;
    }
    #endif
    """
    char *put_hex "fg_put_hex"(char *p, const void *data, uint32_t n) noexcept nogil
    char *put_uint "fg_put_uint"(char *p, uint64_t v) noexcept nogil
    char *put_lit "fg_put_lit"(char *p, const char *literal) noexcept nogil

cdef inline char *put(char *p, const char *s, size_t n) noexcept nogil:
    memcpy(p, s, n)
    return p + n
