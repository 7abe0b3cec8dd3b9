"""clock: the time that windows of quotas and of spending limits go by."""
from libc.stdint cimport int64_t, uint64_t

from fastgate._core.shared.layout cimport segment_header

cdef enum:
    STEP_S = 60               # a larger change of the system's clock at once is a jump
    HOLD_S = 600              # a jump is believed once it has lasted so long

cdef int64_t window_offset(segment_header *s, int64_t real_ns, uint64_t boot_ns) noexcept nogil
    # What to add to boot_ns (CLOCK_BOOTTIME) for that time; real_ns: CLOCK_REALTIME at the same moment.
    # To be called every second or so; all workers go by the same time.
