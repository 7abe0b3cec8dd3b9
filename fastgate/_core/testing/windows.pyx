"""windows: the calendar windows of quotas, and their clock, at explicit times."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgate._core.shared.clock cimport window_offset
from fastgate._core.shared.quota cimport window_of
from fastgate._core.shared.segment cimport Segment
from fastgate._core.snapshot.snapshot cimport PERIOD_YEAR


def window_of_py(int period, int64_t unix_s):
    """(number, end in Unix seconds) of the calendar window that contains a moment, UTC. Raises ValueError
    if `period` is not a Period."""
    cdef int64_t ends
    cdef uint64_t window
    if not 0 <= period <= PERIOD_YEAR:
        raise ValueError(f"period {period} does not exist")
    window = window_of(<uint8_t>period, unix_s, &ends)
    return window, ends


def window_time(Segment segment not None, int64_t real_ns, uint64_t boot_ns) -> int:
    """Read the clock, as each worker does every second: nanoseconds of the time in force."""
    return <int64_t>boot_ns + window_offset(segment.header, real_ns, boot_ns)
