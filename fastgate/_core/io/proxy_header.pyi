from enum import IntFlag

class ProxyFault(IntFlag):
    PROXY_ABSENT = 1
    PROXY_BAD_LINE = 2
    PROXY_BAD_COMMAND = 3
    PROXY_BAD_FAMILY = 4
    PROXY_BAD_LENGTH = 5
    PROXY_BAD_TLV = 6
    PROXY_BAD_CHECKSUM = 7
    PROXY_TOO_LONG = 8
    PROXY_CUT = 9
    PROXY_LATE = 10
    PROXY_FAULTS = 11
