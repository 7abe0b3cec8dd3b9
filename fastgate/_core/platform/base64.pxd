"""base64: octets as text (RFC 4648). The caller ensures that there is room."""
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #ifndef FASTGATE_BASE64
    #define FASTGATE_BASE64
    #include <stddef.h>
    #include <stdint.h>
    /* Without padding; `last`: the digits for 62 and 63. */
    static char *fg_put_digits64(char *p, const uint8_t *s, size_t n, const char *last) {
        char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        size_t i = 0;
        digits[62] = last[0]; digits[63] = last[1];
        for (; i + 3 <= n; i += 3) {
            uint32_t v = (uint32_t)s[i] << 16 | (uint32_t)s[i + 1] << 8 | s[i + 2];
            *p++ = digits[v >> 18]; *p++ = digits[v >> 12 & 63];
            *p++ = digits[v >> 6 & 63]; *p++ = digits[v & 63];
        }
        if (n - i == 1) {
            *p++ = digits[s[i] >> 2]; *p++ = digits[(s[i] & 3) << 4];
        } else if (n - i == 2) {
            *p++ = digits[s[i] >> 2]; *p++ = digits[(s[i] & 3) << 4 | s[i + 1] >> 4];
            *p++ = digits[(s[i + 1] & 15) << 2];
        }
        return p;
    }
    /* For URLs: "-" and "_", no padding. */
    static inline char *fg_put_base64url(char *p, const uint8_t *s, size_t n) {
        return fg_put_digits64(p, s, n, "-_");
    }
    /* The common alphabet, with padding. */
    static inline char *fg_put_base64(char *p, const uint8_t *s, size_t n) {
        p = fg_put_digits64(p, s, n, "+/");
        for (size_t used = n % 3; used && used < 3; used++) *p++ = '=';
        return p;
    }
    #endif
    """
    char *put_base64url "fg_put_base64url"(char *p, const uint8_t *s, size_t n) noexcept nogil
    char *put_base64 "fg_put_base64"(char *p, const uint8_t *s, size_t n) noexcept nogil

cdef inline size_t base64_size(size_t n) noexcept nogil:
    """Characters of n octets, with padding."""
    return (n + 2) // 3 * 4
