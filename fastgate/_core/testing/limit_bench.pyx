"""limit_bench: how long it takes to take from a rate limit or to count a quota, as in a request.

One process and a segment of its own with tables of the default size. The keys exist beforehand, and
are taken in random order.
"""
from libc.stdint cimport int64_t, uint64_t

from fastgate._core.shared.cells cimport cells, cells_of_limiter, cells_of_quota, decision, mix_key
from fastgate._core.shared.limiter cimport limiter_take
from fastgate._core.shared.quota cimport quota_take
from fastgate._core.shared.segment cimport Segment
from fastgate._core.snapshot.snapshot cimport PERIOD_MONTH

import time
from array import array

cdef enum:
    ORDER = 1 << 18           # length of the random sequence


cdef object in_random_order(uint64_t keys):
    return array("Q", [mix_key(mix_key(i, 2) % keys, 1) for i in range(ORDER)])


def bench_limiter(uint64_t n, uint64_t keys=65536) -> float:
    """Take `n` times, all allowed: nanoseconds per operation."""
    cdef Segment segment = Segment.create(1)
    cdef cells t = cells_of_limiter(segment.header)
    cdef uint64_t[::1] order = in_random_order(keys)
    cdef decision d
    cdef uint64_t i, allowed = 0, now = 1 << 40
    with nogil:
        for i in range(keys):
            limiter_take(&t, mix_key(i, 1), now, 1000, 1000000, 1, &d)
    begin = time.perf_counter_ns()
    with nogil:
        for i in range(n):
            allowed += limiter_take(&t, order[i % ORDER], now + i * 1000, 1000, 1000000, 1, &d)
    spent = time.perf_counter_ns() - begin
    if allowed != n:
        raise AssertionError(f"{n - allowed} of {n} refused")
    return spent / n


def bench_quota(uint64_t n, uint64_t keys=65536) -> float:
    """Count `n` times for a month, all allowed: nanoseconds per operation. The number of keys is half
    of what the table holds comfortably."""
    cdef Segment segment = Segment.create(1)
    cdef cells t = cells_of_quota(segment.header)
    cdef uint64_t[::1] order = in_random_order(keys)
    cdef decision d
    cdef uint64_t i, allowed = 0
    cdef int64_t now = 1800000000
    with nogil:
        for i in range(keys):
            quota_take(&t, mix_key(i, 1), PERIOD_MONTH, now, 1 << 27, 1, &d)
    begin = time.perf_counter_ns()
    with nogil:
        for i in range(n):
            allowed += quota_take(&t, order[i % ORDER], PERIOD_MONTH, now, 1 << 27, 1, &d)
    spent = time.perf_counter_ns() - begin
    if allowed != n:
        raise AssertionError(f"{n - allowed} of {n} refused")
    return spent / n
