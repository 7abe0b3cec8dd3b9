from fastgate._core.shared.segment import Segment

JUMP_SECONDS: int
HOLD_SECONDS: int

def window_time(segment: Segment, real_ns: int, boot_ns: int) -> int:
    """Read the clock, as each worker does: nanoseconds of the time in force."""

def held_seconds(segment: Segment) -> int:
    """By how much the system's clock is ahead of the time in force; 0 unless a jump is held."""
