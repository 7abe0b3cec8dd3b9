from enum import IntEnum
from typing import Any

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

class LogText(IntEnum):
    TEXT_METHOD = 0
    TEXT_HOST = 1
    TEXT_PATH = 2
    TEXT_ROUTE = 3
    TEXT_CONSUMER = 4
    TEXT_TARGET = 5
    TEXT_QUERY = 6
    TEXT_USER_AGENT = 7
    TEXT_LIMIT = 8
    TEXTS = 9

TEXT_NAMES: tuple[str, ...]
PHASE_NAMES: tuple[str, ...]

def write_record(
    segment: Segment,
    worker: int,
    *,
    started_unix_ns: int = 0,
    request_id: bytes = ...,
    trace_id: bytes = ...,
    span_id: bytes = ...,
    address: bytes = ...,
    port: int = 0,
    status: int = 0,
    reason: int = 0,
    fault: int = 0,
    attempts: int = 0,
    flags: int = 0,
    bytes_in: int = 0,
    bytes_out: int = 0,
    duration_ns: int = 0,
    upstream_ns: int = 0,
    amount_micros: int = 0,
    generation: int = 0,
    route_slot: int = 0,
    phases: dict[str, int] | None = None,
    **texts: Any,
) -> bool: ...
def write_numbered(segment: Segment, worker: int, first: int, n: int) -> int: ...
def tear_record(segment: Segment, worker: int) -> bool: ...
def ring_state(segment: Segment, worker: int) -> tuple[int, int, int]: ...
