/* Chance, strings of bytes, and messages that are damaged: for the fuzzer of connections. */
#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CORPUS_REQUESTS, CORPUS_ANSWERS, CORPUS_WORDS, CORPORA };
typedef struct { char *p; size_t n, at, cap; } bytes;           /* `at`: how many of the n are used up */
typedef struct { const char *p; size_t n; } text;
typedef struct { text *texts; int n; } corpus;

static corpus corpora[CORPORA];
static uint64_t state;                                          /* of chance: set from a seed */

/* ---- chance ------------------------------------------------------------------------------- */

static uint64_t draw(void) {                                    /* splitmix64 */
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static size_t below(size_t n) { return (size_t)(((draw() >> 32) * (uint64_t)n) >> 32); }
static int chance(int thousandths) { return (int)below(1000) < thousandths; }

/* ---- bytes -------------------------------------------------------------------------------- */

static void put(bytes *b, const void *p, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2 + 256;
        b->p = realloc(b->p, b->cap);
        if (!b->p) abort();
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void putf(bytes *b, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put(b, line, (size_t)n);
}

static void clear(bytes *b) { b->n = b->at = 0; }

/* Take `gone` bytes at `at` away and put `n` others there. */
static void replace(bytes *b, size_t at, size_t gone, const char *p, size_t n) {
    static bytes tail;
    clear(&tail);
    put(&tail, b->p + at + gone, b->n - at - gone);
    b->n = at;
    put(b, p, n);
    put(b, tail.p, tail.n);
}

/* A text of a corpus; large ones are rarer. */
static text picked(int which) {
    text t;
    do t = corpora[which].texts[below((size_t)corpora[which].n)]; while (t.n > 10000 && chance(800));
    return t;
}

static void mutate(bytes *b, size_t from, text other) {
    static const int times[] = {0, 1, 1, 1, 2, 2, 3, 5, 8}, lengths[] = {1, 1, 2, 4, 8, 32};
    for (int i = times[below(9)]; i > 0; i--) {
        size_t at = from + below(b->n - from + 1), gone = (size_t)lengths[below(6)], half;
        char octet;
        if (gone > b->n - at) gone = b->n - at;
        text word = picked(CORPUS_WORDS);
        switch (below(7)) {
        case 0: if (at < b->n) b->p[at] ^= (char)(1 << below(8)); break;
        case 1: if (at < b->n) b->p[at] = (char)below(256); break;
        case 2: replace(b, at, gone, "", 0); break;
        case 3: {
            char copy[32];
            memcpy(copy, b->p + at, gone);
            replace(b, at, 0, copy, gone);
            break;
        }
        case 4: replace(b, at, gone, word.p, word.n); break;
        case 5: replace(b, at, 0, word.p, word.n); break;
        default:
            half = below(other.n);
            octet = other.p[half];
            b->n = at;
            put(b, &octet, 1);
            put(b, other.p + half + 1, other.n - half - 1);
        }
    }
}

/* Bytes as a person can read them; twenty equal ones or more as a count. */
static void escaped(FILE *to, const char *p, size_t n) {
    for (size_t i = 0, same; i < n; i += same) {
        for (same = 1; i + same < n && p[i + same] == p[i]; same++) {}
        if (same < 20) same = 1;
        if (p[i] == '\r') fputs("\\r", to);
        else if (p[i] == '\n') fputs("\\n", to);
        else if (p[i] == '\\' || p[i] == '\'') fprintf(to, "\\%c", p[i]);
        else if (isprint((unsigned char)p[i])) fputc(p[i], to);
        else fprintf(to, "\\x%02x", (unsigned char)p[i]);
        if (same > 1) fprintf(to, "{%zu times}", same);
    }
}
