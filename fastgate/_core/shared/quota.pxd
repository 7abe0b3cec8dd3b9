"""quota: counts per calendar window (UTC), {window, count} in one word, in `cells`."""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from fastgate._core.shared.cells cimport cells, decision

cdef uint64_t window_of(uint8_t period, int64_t unix_s, int64_t *ends_at) noexcept nogil
    # index of the calendar window (minute, hour, day, ISO week, month, year; UTC) and its end
cdef int quota_take(cells *t, uint64_t key, uint8_t period, int64_t unix_s,
                    uint64_t amount, uint64_t cost, decision *d) noexcept nogil
    # 1: counted; 0: refused, nothing consumed.
cdef void quota_give_back(cells *t, uint64_t key, uint8_t period, int64_t unix_s, uint64_t cost) noexcept nogil
    # unix_s: of the take. Does nothing if its window is over.
cdef void quota_peek(const cells *t, uint64_t key, uint8_t period, int64_t unix_s,
                     uint64_t amount, decision *d) noexcept nogil
