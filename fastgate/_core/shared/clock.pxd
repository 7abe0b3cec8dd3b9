"""clock: the clock for the windows of quotas and spending limits."""
from libc.stdint cimport int64_t, uint64_t

from fastgate._core.shared.layout cimport segment_header

cdef enum:
    STEP_S = 60               # a larger sudden change of the system's clock is a jump
    HOLD_S = 600              # a jump is accepted once it has lasted this long

cdef int64_t window_offset(segment_header *s, int64_t real_ns, uint64_t boot_ns) noexcept nogil
    # What to add to boot_ns (CLOCK_BOOTTIME) for that clock; real_ns: CLOCK_REALTIME at the same moment.
    # Call it about every second; all workers use the same clock.
