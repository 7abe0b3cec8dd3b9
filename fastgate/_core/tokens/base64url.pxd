"""base64url: octets from text for URLs (RFC 7515, 2): no padding, no other characters, no spare bits."""
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #ifndef FASTGATE_BASE64URL
    #define FASTGATE_BASE64URL
    #include <stdint.h>
    #include <sys/types.h>
    static inline int fg_digit64(uint8_t c) {
        if (c >= 'A' && c <= 'Z') return c - 'A';
        if (c >= 'a' && c <= 'z') return c - 'a' + 26;
        if (c >= '0' && c <= '9') return c - '0' + 52;
        if (c == '-') return 62;
        return c == '_' ? 63 : -1;
    }
    /* How many octets there are now at `out`, which has room for n * 3 / 4; -1: it is not base64url. */
    static ssize_t fg_take_base64url(uint8_t *out, const char *p, size_t n) {
        uint8_t *o = out;
        size_t i = 0;
        int a, b, c, d;
        if (n % 4 == 1) return -1;
        for (; i + 4 <= n; i += 4) {
            a = fg_digit64((uint8_t)p[i]); b = fg_digit64((uint8_t)p[i + 1]);
            c = fg_digit64((uint8_t)p[i + 2]); d = fg_digit64((uint8_t)p[i + 3]);
            if ((a | b | c | d) < 0) return -1;
            *o++ = (uint8_t)(a << 2 | b >> 4); *o++ = (uint8_t)(b << 4 | c >> 2); *o++ = (uint8_t)(c << 6 | d);
        }
        if (n - i >= 2) {
            a = fg_digit64((uint8_t)p[i]); b = fg_digit64((uint8_t)p[i + 1]);
            if ((a | b) < 0) return -1;
            *o++ = (uint8_t)(a << 2 | b >> 4);
            if (n - i == 2) return b & 15 ? -1 : o - out;
            c = fg_digit64((uint8_t)p[i + 2]);
            if (c < 0 || c & 3) return -1;
            *o++ = (uint8_t)(b << 4 | c >> 2);
        }
        return o - out;
    }
    #endif
    """
    ssize_t take_base64url "fg_take_base64url"(uint8_t *out, const char *p, size_t n) noexcept nogil
