from enum import IntEnum

class ConsumerFlag(IntEnum):
    CONSUMER_SUSPENDED_FLAG = 1
