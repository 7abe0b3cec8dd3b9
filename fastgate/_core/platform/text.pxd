"""text: putting bytes, numbers and hex one after another. Inlined; the caller ensures that there is room."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef FASTGATE_TEXT
    #define FASTGATE_TEXT
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif
    /* The library's memcpy and memset. If the compiler knows a bound of n, it uses `rep movs` and
       `rep stos` instead, which take some forty cycles to start. */
    static inline void fg_copy(char *p, const char *s, size_t n) {
        if (!__builtin_constant_p(n)) __asm__("" : "+r"(n));
        memcpy(p, s, n);
    }
    static inline void fg_clear(void *p, size_t n) {
        __asm__("" : "+r"(n));
        memset(p, 0, n);
    }
    static const char fg_hex_digits[] = "0123456789abcdef";
    /* n bytes as 2n hex digits; eight at a time if the processor has SSE2. */
    static inline char *fg_put_hex(char *p, const void *bytes, unsigned n) {
        const uint8_t *b = (const uint8_t *)bytes;
    #ifdef __SSE2__
        const __m128i low = _mm_set1_epi8(15), nine = _mm_set1_epi8(9);
        const __m128i zero = _mm_set1_epi8('0'), letters = _mm_set1_epi8('a' - '0' - 10);
        for (; n >= 8; n -= 8, b += 8, p += 16) {
            __m128i v = _mm_loadl_epi64((const __m128i *)b);
            __m128i digits = _mm_and_si128(_mm_unpacklo_epi8(_mm_srli_epi16(v, 4), v), low);
            __m128i over = _mm_and_si128(_mm_cmpgt_epi8(digits, nine), letters);
            _mm_storeu_si128((__m128i *)p, _mm_add_epi8(_mm_add_epi8(digits, zero), over));
        }
    #endif
        for (; n; n--, b++) {
            *p++ = fg_hex_digits[*b >> 4];
            *p++ = fg_hex_digits[*b & 15];
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
    /* A percent-encoded octet, its digits in upper case (RFC 3986 2.1). */
    static inline char *fg_put_escape(char *p, uint8_t octet) {
        static const char upper[] = "0123456789ABCDEF";
        p[0] = '%';
        p[1] = upper[octet >> 4];
        p[2] = upper[octet & 15];
        return p + 3;
    }
    /* Inlined, so that the literal's length is a compile-time constant. */
    static inline __attribute__((always_inline)) char *fg_put_lit(char *p, const char *s) {
        size_t n = __builtin_strlen(s);
        memcpy(p, s, n);
        return p + n;
    }
    #endif
    """
    void fg_copy(char *p, const char *s, size_t n) noexcept nogil
    void fg_clear(void *p, size_t n) noexcept nogil
    char *put_hex "fg_put_hex"(char *p, const void *data, uint32_t n) noexcept nogil
    char *put_uint "fg_put_uint"(char *p, uint64_t v) noexcept nogil
    char *put_escape "fg_put_escape"(char *p, uint8_t octet) noexcept nogil
    char *put_lit "fg_put_lit"(char *p, const char *literal) noexcept nogil

cdef inline char *put(char *p, const char *s, size_t n) noexcept nogil:
    fg_copy(p, s, n)
    return p + n
