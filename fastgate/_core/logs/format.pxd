"""format: one log record → one line of text, JSON or the combined log format. No Python."""
from libc.stdint cimport int64_t, uint32_t

from fastgate._core.shared.log_ring cimport log_record

cdef enum:
    LINE_MAX = 4096           # room that a line may need; the longest possible is shorter

cdef struct line_clock:       # the date, rendered once a second; zero it before the first use
    int64_t second            # + 1, so that zero is "none yet"
    char rfc3339[20]          # 2026-11-20T12:00:00.
    char clf[26]              # 20/Nov/2026:12:00:00 +0000

cdef uint32_t format_json(const log_record *r, char *out, line_clock *clock, bint phases) noexcept nogil
cdef uint32_t format_combined(const log_record *r, char *out, line_clock *clock) noexcept nogil
    # bytes written, with the newline; `out` has room for LINE_MAX
cdef uint32_t format_address(const log_record *r, char *out) noexcept nogil
    # the client's address as text, at most 45 bytes
