"""clock: the clock for the windows of quotas and spending limits.

A window begins at a time of the clock. With the system's clock, a jump to tomorrow and back would give
every caller tomorrow's quota today, and today's quota again. So a jump, a sudden change of more than
STEP_S, is accepted only after it has lasted HOLD_S; until then windows continue on the old time. Small
corrections are followed at once. Relative to CLOCK_BOOTTIME, a machine that slept has not jumped.

    clock_offset   what is added to CLOCK_BOOTTIME; 0: no worker has read the clock yet
    clock_jump     the offset after a jump
    clock_since    CLOCK_BOOTTIME when the jump was first seen; 0: there is no jump

The three words are in the segment, so that workers agree, and a new worker does not accept a jump that the
others do not. Each writes what it sees with plain stores: at worst a jump is seen a second later.
"""
from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.shared.segment cimport Segment
from fastgate._core.platform.sys cimport boottime_ns, realtime_ns

cdef int64_t SECOND = 1000000000


cdef inline int near(int64_t a, int64_t b) noexcept nogil:
    return -STEP_S * SECOND <= a - b <= STEP_S * SECOND


cdef int64_t window_offset(segment_header *s, int64_t real_ns, uint64_t boot_ns) noexcept nogil:
    cdef int64_t seen = real_ns - <int64_t>boot_ns
    cdef int64_t used = <int64_t>fg_load(&s.clock_offset)
    cdef uint64_t since = fg_load(&s.clock_since)
    if used == 0 or near(seen, used):
        fg_store(&s.clock_offset, <uint64_t>seen)
        if since:
            fg_store(&s.clock_since, 0)
        return seen
    if since == 0 or not near(seen, <int64_t>fg_load(&s.clock_jump)):
        fg_store(&s.clock_jump, <uint64_t>seen)
        fg_store(&s.clock_since, boot_ns)
        return used
    if <int64_t>(boot_ns - since) < HOLD_S * SECOND:
        return used
    fg_store(&s.clock_offset, <uint64_t>seen)
    fg_store(&s.clock_since, 0)
    return seen


# ---- the border -----------------------------------------------------------------------------

JUMP_SECONDS = STEP_S
HOLD_SECONDS = HOLD_S


def held_seconds(Segment segment not None) -> int:
    """By how much the system's clock is ahead of the time in force; 0 unless a jump is being held."""
    cdef int64_t used = <int64_t>fg_load(&segment.header.clock_offset)
    cdef int64_t seen = realtime_ns() - <int64_t>boottime_ns()
    return 0 if used == 0 or near(seen, used) else (seen - used) // SECOND
