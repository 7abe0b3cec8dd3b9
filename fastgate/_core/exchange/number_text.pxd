"""number_text: numbers, times and limits as refusals show them to people; money and times also for programs."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.snapshot.snapshot cimport limit_rec

# Each writes at p, at most 160 bytes, and returns the position after it.
cdef char *put_money(char *p, int64_t micros) noexcept nogil
    # Micro-units as a decimal number without needless zeros: 0.002, 12, -1.5
cdef char *put_amount(char *p, int64_t micros, uint32_t currency) noexcept nogil
    # The same, with at least as many decimals as the currency's coins have: 5.00
cdef char *put_time(char *p, uint64_t unix_s) noexcept nogil
    # RFC 3339: 2026-11-30T00:00:00Z
cdef char *put_http_date(char *p, uint64_t unix_s) noexcept nogil
    # RFC 9110, 5.6.7, always 29 bytes: Mon, 30 Nov 2026 00:00:00 GMT
cdef char *put_moment(char *p, uint64_t unix_s) noexcept nogil
    # 30 November 2026, 00:00 UTC
cdef char *put_duration(char *p, uint64_t seconds) noexcept nogil
    # In its two largest units, rounded up: 3 hours 20 minutes
cdef char *put_limit_words(char *p, const limit_rec *l) noexcept nogil
    # What a limit allows: 5 requests a month for each consumer
