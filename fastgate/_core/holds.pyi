from enum import IntEnum

class HoldPolicy(IntEnum):
    POLICY_DUE = 0
    POLICY_CHARGE = 1
    POLICY_RELEASE = 2
