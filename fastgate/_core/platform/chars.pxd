"""chars: character classes of HTTP, and the scanners that run over them.

A class is a set of octets. One constant table gives each octet its classes as bits; a `cset`
is one class prepared for vector scanning. A scanner answers one question: where is the
first octet in [p, end) that is not in the set? (`end`, if all are.)

How the vector scanners work. Split an octet into its high and low nibble. For each of the
16 high nibbles, the members of the set form a row of 16 low nibbles. Equal rows share one of
eight bits (no class here has more than eight different non-empty rows), so

    low[l]   bits of the rows that contain low nibble l
    high[h]  the one bit of row h (0: the row is empty)
    member   low[l] & high[h] != 0

and the two look-ups are one byte shuffle each for 16 or 32 octets at a time. Nothing is read at
or after `end`; the last octets, which fill no vector, are looked up in the table.

Scanners: avx2 and sse4.2 (chosen by what the processor reports), neon (any arm64), word
(eight octets at a time for text, portable), table. All give the same answers.
"""
from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #ifndef FASTGATE_CHARS
    #define FASTGATE_CHARS
    #include <stdint.h>
    #include <string.h>

    enum {
        CH_TOKEN = 1,        /* tchar, RFC 9110 5.6.2 */
        CH_TEXT = 2,         /* field-vchar, SP, HTAB: what a line may contain */
        CH_PATH = 4,         /* raw in a path, including '/', not '%' */
        CH_QUERY = 8,        /* raw in a query, not '%' */
        CH_UNRESERVED = 16,  /* RFC 3986 2.3: escaping them changes nothing */
        CH_HOST = 32,        /* a registered name */
        CH_NAME = 64,        /* letters, digits, '-': what nearly all names of fields consist of */
        CH_DIGIT = 128
    };
    #define FG_ALNUM (CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY | CH_UNRESERVED | CH_HOST | CH_NAME)
    static const uint8_t FG_CLASS[256] = {
        ['A' ... 'Z'] = FG_ALNUM, ['a' ... 'z'] = FG_ALNUM,
        ['0' ... '9'] = FG_ALNUM | CH_DIGIT,
        ['-'] = FG_ALNUM, ['.'] = FG_ALNUM & ~CH_NAME, ['~'] = FG_ALNUM & ~CH_NAME, ['_'] = FG_ALNUM & ~CH_NAME,
        ['!'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['$'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['&'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['\\''] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['*'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['+'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['|'] = CH_TOKEN | CH_TEXT | CH_PATH | CH_QUERY,
        ['^'] = CH_TOKEN | CH_TEXT | CH_QUERY,
        ['`'] = CH_TOKEN | CH_TEXT | CH_QUERY,
        ['%'] = CH_TOKEN | CH_TEXT, ['#'] = CH_TOKEN | CH_TEXT,
        ['('] = CH_TEXT | CH_PATH | CH_QUERY, [')'] = CH_TEXT | CH_PATH | CH_QUERY,
        [','] = CH_TEXT | CH_PATH | CH_QUERY, [';'] = CH_TEXT | CH_PATH | CH_QUERY,
        ['='] = CH_TEXT | CH_PATH | CH_QUERY, [':'] = CH_TEXT | CH_PATH | CH_QUERY,
        ['@'] = CH_TEXT | CH_PATH | CH_QUERY, ['/'] = CH_TEXT | CH_PATH | CH_QUERY,
        ['['] = CH_TEXT | CH_PATH | CH_QUERY, [']'] = CH_TEXT | CH_PATH | CH_QUERY,
        ['?'] = CH_TEXT | CH_QUERY, ['{'] = CH_TEXT | CH_QUERY, ['}'] = CH_TEXT | CH_QUERY,
        ['\\\\'] = CH_TEXT | CH_QUERY,
        ['"'] = CH_TEXT, ['<'] = CH_TEXT, ['>'] = CH_TEXT, [' '] = CH_TEXT, ['\\t'] = CH_TEXT,
        [0x80 ... 0xff] = CH_TEXT,
    };
    /* Value of a hexadecimal digit, 0xff for anything else. */
    static inline uint8_t fg_hex(uint8_t c) {
        uint8_t d = (uint8_t)(c - '0'), a = (uint8_t)((c | 0x20) - 'a');
        return d < 10 ? d : a < 6 ? (uint8_t)(a + 10) : 0xff;
    }

    /* Both tables twice, so that a 32-octet vector is one load. */
    typedef struct { uint8_t low[32], high[32], nibble[32], bit; } fg_cset;
    typedef const char *(*fg_scanner)(const char *, const char *, const fg_cset *);

    /* Fill a cset from one class of the table; 0: the class has too many different rows. */
    static int fg_cset_make(fg_cset *s, uint8_t bit) {
        uint16_t rows[8];
        int used = 0, h, l, r;
        memset(s, 0, sizeof *s);
        s->bit = bit;
        for (h = 0; h < 16; h++) {
            uint16_t row = 0;
            for (l = 0; l < 16; l++)
                if (FG_CLASS[h << 4 | l] & bit) row |= (uint16_t)(1 << l);
            if (!row) continue;
            for (r = 0; r < used && rows[r] != row; r++) {}
            if (r == used) {
                if (used == 8) return 0;
                rows[used++] = row;
                for (l = 0; l < 16; l++)
                    if (row >> l & 1) s->low[l] |= (uint8_t)(1 << r);
            }
            s->high[h] = (uint8_t)(1 << r);
        }
        memcpy(s->low + 16, s->low, 16);
        memcpy(s->high + 16, s->high, 16);
        memset(s->nibble, 15, sizeof s->nibble);   /* one instruction when loaded; three as a constant */
        return 1;
    }

    static const char *fg_scan_table(const char *p, const char *end, const fg_cset *s) {
        while (p < end && FG_CLASS[(uint8_t)*p] & s->bit) p++;
        return p;
    }

    /* Text only: a word without an octet below 0x20 and without 0x7f is all text. A word with
       one (HTAB is below 0x20, but text) is checked octet by octet. */
    static const char *fg_scan_word(const char *p, const char *end, const fg_cset *s) {
        const uint64_t ones = 0x0101010101010101ull;
        uint64_t w, x;
        int i;
        if (s->bit != CH_TEXT) return fg_scan_table(p, end, s);
        while (end - p >= 8) {
            memcpy(&w, p, 8);
            x = w ^ (ones * 0x7f);
            if ((((w - ones * 0x20) & ~w) | ((x - ones) & ~x)) & (ones * 0x80)) {
                for (i = 0; i < 8; i++)
                    if (!(FG_CLASS[(uint8_t)p[i]] & CH_TEXT)) return p + i;
            }
            p += 8;
        }
        return fg_scan_table(p, end, s);
    }

    #if defined(__x86_64__)
    #include <immintrin.h>
    __attribute__((target("sse4.2"), aligned(64)))
    static const char *fg_scan_sse(const char *p, const char *end, const fg_cset *s) {
        const __m128i low = _mm_loadu_si128((const __m128i *)s->low);
        const __m128i high = _mm_loadu_si128((const __m128i *)s->high);
        const __m128i nibble = _mm_loadu_si128((const __m128i *)s->nibble), zero = _mm_setzero_si128();
        while (end - p >= 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)p);
            __m128i l = _mm_shuffle_epi8(low, _mm_and_si128(x, nibble));
            __m128i h = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi16(x, 4), nibble));
            unsigned m = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(l, h), zero));
            if (m) return p + (unsigned)__builtin_ctz(m);
            p += 16;
        }
        return fg_scan_table(p, end, s);
    }
    __attribute__((target("avx2"), aligned(64)))
    static const char *fg_scan_avx2(const char *p, const char *end, const fg_cset *s) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)s->low);
        const __m256i high = _mm256_loadu_si256((const __m256i *)s->high);
        const __m256i nibble = _mm256_loadu_si256((const __m256i *)s->nibble), zero = _mm256_setzero_si256();
        if (end - p >= 32) do {      /* one jump less than a while, since most lines are short */
            __m256i x = _mm256_loadu_si256((const __m256i *)p);
            __m256i l = _mm256_shuffle_epi8(low, _mm256_and_si256(x, nibble));
            __m256i h = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
            unsigned m = (unsigned)_mm256_movemask_epi8(
                _mm256_cmpeq_epi8(_mm256_and_si256(l, h), zero));
            if (m) return p + (unsigned)__builtin_ctz(m);
            p += 32;
        } while (end - p >= 32);
        return fg_scan_sse(p, end, s);
    }
    static fg_scanner fg_scanner_named(const char *name) {
        __builtin_cpu_init();
        if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") ? fg_scan_avx2 : 0;
        if (!strcmp(name, "sse4.2")) return __builtin_cpu_supports("sse4.2") ? fg_scan_sse : 0;
        if (!strcmp(name, "word")) return fg_scan_word;
        return strcmp(name, "table") ? 0 : fg_scan_table;
    }
    #elif defined(__aarch64__)
    #include <arm_neon.h>
    static const char *fg_scan_neon(const char *p, const char *end, const fg_cset *s) {
        const uint8x16_t low = vld1q_u8(s->low), high = vld1q_u8(s->high);
        while (end - p >= 16) {
            uint8x16_t x = vld1q_u8((const uint8_t *)p);
            uint8x16_t l = vqtbl1q_u8(low, vandq_u8(x, vdupq_n_u8(15)));
            uint8x16_t h = vqtbl1q_u8(high, vshrq_n_u8(x, 4));
            uint8x16_t bad = vceqzq_u8(vandq_u8(l, h));
            /* four bits an octet: narrow each 16-bit lane by a shift of four */
            uint64_t m = vget_lane_u64(vreinterpret_u64_u8(
                vshrn_n_u16(vreinterpretq_u16_u8(bad), 4)), 0);
            if (m) return p + (__builtin_ctzll(m) >> 2);
            p += 16;
        }
        return fg_scan_table(p, end, s);
    }
    static fg_scanner fg_scanner_named(const char *name) {
        if (!strcmp(name, "neon")) return fg_scan_neon;
        if (!strcmp(name, "word")) return fg_scan_word;
        return strcmp(name, "table") ? 0 : fg_scan_table;
    }
    #else
    static fg_scanner fg_scanner_named(const char *name) {
        if (!strcmp(name, "word")) return fg_scan_word;
        return strcmp(name, "table") ? 0 : fg_scan_table;
    }
    #endif

    /* Whether n octets at p equal, ignoring case, the lower-case literal `lit` of letters, digits
       and '-'. Setting bit 5 lowers letters and leaves digits and '-' unchanged. An octet that only
       becomes one of them by it is not a tchar, and p must hold tchars. */
    static inline int fg_same(const char *p, const char *lit, size_t n) {
        uint64_t a, b, diff = 0;
        const uint64_t lower = 0x2020202020202020ull;
        size_t i = 0;
        for (; i + 8 <= n; i += 8) {
            memcpy(&a, p + i, 8); memcpy(&b, lit + i, 8);
            diff |= (a | lower) ^ b;
        }
        if (i < n && n >= 8) {
            memcpy(&a, p + n - 8, 8); memcpy(&b, lit + n - 8, 8);
            diff |= (a | lower) ^ b;
        } else {
            for (; i < n; i++) diff |= (uint64_t)((uint8_t)(p[i] | 0x20) ^ (uint8_t)lit[i]);
        }
        return diff == 0;
    }

    /* A token prepared for comparison with many literals: its first and its last eight octets
       with bit 5 set, as words; for a shorter one all octets, in both. */
    typedef struct { const char *p; uint64_t first, last; } fg_token;
    static inline __attribute__((always_inline)) fg_token fg_token_of(const char *p, size_t n) {
        const uint64_t lower = 0x2020202020202020ull;
        fg_token t = {p, 0, 0};
        uint32_t a, b;
        if (n >= 8) {
            memcpy(&t.first, p, 8); memcpy(&t.last, p + n - 8, 8);
        } else if (n >= 4) {
            memcpy(&a, p, 4); memcpy(&b, p + n - 4, 4);
            t.first = t.last = a | (uint64_t)b << 32;
        } else if (n) {
            t.first = t.last = (uint8_t)p[0] | (uint8_t)p[n / 2] << 8 | (uint8_t)p[n - 1] << 16;
        }
        t.first |= lower; t.last |= lower;
        return t;
    }
    /* fg_same for a token of n octets; the literal's words are constants to the compiler. */
    static inline __attribute__((always_inline))
    int fg_token_is(const fg_token *t, const char *lit, size_t n) {
        const fg_token l = fg_token_of(lit, n);
        return t->first == l.first && t->last == l.last
            && (n <= 16 || fg_same(t->p + 8, lit + 8, n - 16));
    }
    /* Whether a token of at least n octets begins with a literal of n, eight or more. */
    static inline __attribute__((always_inline))
    int fg_token_begins(const fg_token *t, const char *lit, size_t n) {
        return t->first == fg_token_of(lit, n).first && fg_same(t->p + 8, lit + 8, n - 8);
    }

    /* Eight octets, with the ASCII capitals lowered. */
    static inline uint64_t fg_lower8(uint64_t w) {
        const uint64_t ones = 0x0101010101010101ull, low = w & ones * 0x7f;
        const uint64_t from_a = low + ones * (0x80 - 'A'), past_z = low + ones * (0x80 - 'Z' - 1);
        return w | ((from_a & ~past_z & ~w & ones * 0x80) >> 2);
    }
    static inline int fg_same8(const char *p, const char *lowered) {
        uint64_t a, b;
        memcpy(&a, p, 8); memcpy(&b, lowered, 8);
        return fg_lower8(a) == b;
    }
    /* Whether n octets at p equal those at `lowered`, ignoring case. */
    static inline int fg_same_lowered(const char *p, const char *lowered, size_t n) {
        size_t i = 0;
        if (n < 8) {
            while (i < n && (uint8_t)fg_lower8((uint8_t)p[i]) == (uint8_t)lowered[i]) i++;
            return i == n;
        }
        for (; i + 8 < n; i += 8)
            if (!fg_same8(p + i, lowered + i)) return 0;
        return fg_same8(p + n - 8, lowered + n - 8);
    }
    #endif
    """
    enum:
        CH_TOKEN
        CH_TEXT
        CH_PATH
        CH_QUERY
        CH_UNRESERVED
        CH_HOST
        CH_NAME
        CH_DIGIT
    const uint8_t *FG_CLASS
    ctypedef struct fg_cset:
        uint8_t bit
    ctypedef const char *(*fg_scanner)(const char *, const char *, const fg_cset *) noexcept nogil
    uint8_t fg_hex(uint8_t c) noexcept nogil
    int fg_cset_make(fg_cset *s, uint8_t bit) noexcept nogil
    fg_scanner fg_scanner_named(const char *name) noexcept nogil
    ctypedef struct fg_token:
        pass
    bint fg_same(const char *p, const char *lit, size_t n) noexcept nogil
    fg_token fg_token_of(const char *p, size_t n) noexcept nogil
    bint fg_token_is(const fg_token *t, const char *lit, size_t n) noexcept nogil
    bint fg_token_begins(const fg_token *t, const char *lit, size_t n) noexcept nogil
    bint fg_same_lowered(const char *p, const char *lowered, size_t n) noexcept nogil


cdef inline bint is_class(char c, uint8_t bits) noexcept nogil:
    return (FG_CLASS[<uint8_t>c] & bits) != 0


cdef inline bint same_ci(const char *a, const char *b, uint32_t n) noexcept nogil:
    """Whether two runs of n octets are equal, ignoring the case of ASCII letters."""
    cdef uint32_t i
    cdef uint8_t x, y
    for i in range(n):
        x = <uint8_t>a[i]
        y = <uint8_t>b[i]
        if x != y and (x ^ y != 0x20 or <uint8_t>((x | 0x20) - 97) > 25):
            return False
    return True
