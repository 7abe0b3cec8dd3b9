from fastgate._core.shared.segment import Segment

JUMP_SECONDS: int
HOLD_SECONDS: int

def held_seconds(segment: Segment) -> int:
    """By how much the system's clock is ahead of the time in force; 0 unless a jump is held."""
