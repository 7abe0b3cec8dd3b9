"""log_records: log records written as a worker does (see log_records.pyx)."""

from typing import Any

from fastgate._core.shared.segment import Segment

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
