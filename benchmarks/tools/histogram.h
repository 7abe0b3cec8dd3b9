/* A log-linear histogram of 64-bit values, as HdrHistogram's: constant relative error.
 *
 * Values below 256 have a bucket each. Above, every power of two is cut into 128 buckets of
 * equal width, so a bucket is never wider than 1/128 (0.8 %) of what it holds:
 *
 *      value   0 … 255 | 256 … 511 | 512 … 1023 | …
 *      width   1       | 2         | 4          | 2^(msb - 7)
 *      index   0 … 255 | 256 … 383 | 384 … 511  | …
 *
 * Recording is a count of leading zeros and one increment. benchmarks/histogram.py is the same
 * arithmetic on the reading side; a test holds the two together.
 */
#ifndef FASTGATE_BENCH_HISTOGRAM_H
#define FASTGATE_BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

enum { HIST_BITS = 7, HIST_TOP = 40, HIST_SIZE = ((HIST_TOP - HIST_BITS) << HIST_BITS) + 256 };

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint64_t buckets[HIST_SIZE];
};

static inline unsigned histogram_index(uint64_t v)
{
    const uint64_t top = ((uint64_t)1 << (HIST_TOP + 1)) - 1;
    if (v > top)
        v = top; /* 36 minutes, counted in nanoseconds */
    if (v < 256)
        return (unsigned)v;
    unsigned shift = (unsigned)(63 - __builtin_clzll(v)) - HIST_BITS;
    return (shift << HIST_BITS) + (unsigned)(v >> shift);
}

static inline void histogram_record(struct histogram *h, uint64_t v)
{
    h->count++;
    h->sum += v;
    if (v > h->max)
        h->max = v;
    h->buckets[histogram_index(v)]++;
}

/* {"count": n, "sum": n, "max": n, "buckets": [[index, count], …]}, only what is not zero. */
static inline void histogram_print(const struct histogram *h, FILE *out)
{
    const char *comma = "";
    fprintf(out, "{\"count\": %llu, \"sum\": %llu, \"max\": %llu, \"buckets\": [",
            (unsigned long long)h->count, (unsigned long long)h->sum, (unsigned long long)h->max);
    for (unsigned i = 0; i < HIST_SIZE; i++) {
        if (h->buckets[i]) {
            fprintf(out, "%s[%u, %llu]", comma, i, (unsigned long long)h->buckets[i]);
            comma = ", ";
        }
    }
    fputs("]}", out);
}

/* Record the numbers on stdin, print the histogram. For the tests. */
static inline int histogram_of_stdin(struct histogram *h)
{
    unsigned long long v;
    while (scanf("%llu", &v) == 1)
        histogram_record(h, v);
    histogram_print(h, stdout);
    putchar('\n');
    return 0;
}

#endif
