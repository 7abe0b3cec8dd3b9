from enum import IntEnum

POLICIES: dict[str, int]

class HoldState(IntEnum):
    HOLD_FREE = 0
    HOLD_INTENT = 1
    HOLD_HELD = 2
    HOLD_SETTLING = 3
    HOLD_SETTLED = 4
    HOLD_PARKED = 5

class UsageFlag(IntEnum):
    USAGE_CAPTURED = 1
    USAGE_FREE = 2
    USAGE_REFUNDED = 4
    USAGE_RECOVERED = 8

class HoldPolicy(IntEnum):
    POLICY_DUE = 0
    POLICY_CHARGE = 1
    POLICY_RELEASE = 2
