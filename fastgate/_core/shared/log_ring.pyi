from enum import IntEnum

from fastgate._core.shared.segment import Segment

class Phase(IntEnum):
    PHASE_READ_HEAD = 0
    PHASE_ROUTE = 1
    PHASE_AUTHENTICATE = 2
    PHASE_ADMIT = 3
    PHASE_HOLD = 4
    PHASE_FILTER_REQUEST = 5
    PHASE_SELECT = 6
    PHASE_CONNECT = 7
    PHASE_FORWARD = 8
    PHASE_FILTER_RESPONSE = 9
    PHASE_RELAY = 10
    PHASE_SETTLE = 11
    PHASE_LOG = 12

class LogFlag(IntEnum):
    LOG_UPSTREAM_REUSED = 1
    LOG_KEEP_ALIVE = 2
    LOG_UPCALL = 4
    LOG_TUNNEL = 8
    LOG_ABORTED = 16
    LOG_SAMPLED = 32
    LOG_HTTP_1_0 = 64
    LOG_TLS = 128
    LOG_CERTIFICATE = 256
    LOG_DELAYED = 512

class LogText(IntEnum):
    TEXT_METHOD = 0
    TEXT_HOST = 1
    TEXT_PATH = 2
    TEXT_ROUTE = 3
    TEXT_SERVICE = 4
    TEXT_CONSUMER = 5
    TEXT_TARGET = 6
    TEXT_QUERY = 7
    TEXT_USER_AGENT = 8
    TEXT_LIMIT = 9
    TEXTS = 10

TEXT_NAMES: tuple[str, ...]
PHASE_NAMES: tuple[str, ...]

def ring_state(segment: Segment, worker: int) -> tuple[int, int, int]: ...
