"""log_records: log records written as a worker does, whole, torn or many, without a worker."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastgate._core.shared.log_ring cimport (
    TEXT_METHOD, TEXT_PATH, log_record, log_text, logring_commit, logring_reserve)
from fastgate._core.shared.segment cimport Segment

from fastgate._core.shared.log_ring import PHASE_NAMES, TEXT_NAMES


cdef _check(Segment segment, uint32_t worker):
    if worker >= segment.header.workers:
        raise IndexError(f"worker {worker} of {segment.header.workers}")


cdef _copy_bytes(uint8_t *to, bytes value, Py_ssize_t n, str name):
    if len(value) != n:
        raise ValueError(f"{name} is {n} bytes, not {len(value)}")
    memcpy(to, <const char *>value, n)


cdef log_record *_reserve(Segment segment, uint32_t worker) noexcept nogil:
    """The next record, all of it zero and its phases PHASE_NEVER; NULL: the ring is full."""
    cdef log_record *r = logring_reserve(segment.header, worker)
    if r is not NULL:
        memset(r, 0, sizeof(log_record))
        memset(r.phase_us, 0xFF, sizeof(r.phase_us))
    return r


def write_record(Segment segment not None, uint32_t worker, *, int64_t started_unix_ns=0,
                 bytes request_id=bytes(16), bytes trace_id=bytes(16), bytes span_id=bytes(8),
                 bytes address=bytes(16), uint16_t port=0, uint16_t status=0, uint16_t reason=0,
                 uint16_t fault=0, uint16_t attempts=0, uint32_t flags=0, uint64_t bytes_in=0,
                 uint64_t bytes_out=0, uint64_t duration_ns=0, uint64_t upstream_ns=0,
                 uint64_t amount_micros=0, uint32_t generation=0, uint32_t route_slot=0,
                 dict phases=None, **texts) -> bool:
    """Write and publish one record as a worker does; False if the ring was full.

    `phases`: phase name → microseconds after the start. `texts`: method, host, path, route,
    consumer, target, query, user_agent, limit, each str or bytes (bytes need not be UTF-8).
    """
    cdef log_record *r
    cdef uint32_t used = 0
    cdef bytes raw
    _check(segment, worker)
    if unknown := set(texts) - set(TEXT_NAMES):
        raise TypeError(f"no such field of a log record: {', '.join(sorted(unknown))}")
    r = _reserve(segment, worker)
    if r == NULL:
        return False
    _copy_bytes(r.request_id, request_id, 16, "request_id")
    _copy_bytes(r.trace_id, trace_id, 16, "trace_id")
    _copy_bytes(r.span_id, span_id, 8, "span_id")
    _copy_bytes(r.address, address, 16, "address")
    r.started_unix_ns = started_unix_ns
    r.bytes_in = bytes_in
    r.bytes_out = bytes_out
    r.duration_ns = duration_ns
    r.upstream_ns = upstream_ns
    r.amount_micros = amount_micros
    r.generation = generation
    r.route_slot = route_slot
    r.status = status
    r.reason = reason
    r.port = port
    r.attempts = attempts
    r.fault = fault
    r.worker = <uint8_t>worker
    r.flags = flags
    for name, at in (phases or {}).items():
        r.phase_us[<int>PHASE_NAMES.index(name)] = at
    for which, name in enumerate(TEXT_NAMES):
        value = texts.get(name, b"")
        raw = value.encode() if isinstance(value, str) else value
        used = log_text(r, used, which, raw, <uint32_t>len(raw))
    logring_commit(segment.header, worker, r)
    return True


def write_numbered(Segment segment not None, uint32_t worker, uint64_t first, uint64_t n) -> int:
    """Publish up to n records in C, as fast as a worker could; returns how many fitted.

    Record k carries k in request_id (twice, little-endian), bytes_in, bytes_out and its path, so
    that a reader can tell a torn record from a whole one.
    """
    cdef uint64_t k
    cdef uint32_t used
    cdef log_record *r
    _check(segment, worker)
    with nogil:
        for k in range(first, first + n):
            r = _reserve(segment, worker)
            if r == NULL:
                n = k - first
                break
            r.started_unix_ns = <int64_t>k
            memcpy(r.request_id, &k, 8)
            memcpy(r.request_id + 8, &k, 8)
            r.bytes_in = k
            r.status = 200
            r.worker = <uint8_t>worker
            used = log_text(r, 0, TEXT_METHOD, b"GET", 3)
            used = log_text(r, used, TEXT_PATH, <const char *>r.request_id, 16)
            r.bytes_out = k
            logring_commit(segment.header, worker, r)
    return n


def tear_record(Segment segment not None, uint32_t worker) -> bool:
    """Fill the next record with garbage and do not publish it, like a worker killed half-way. False: full."""
    _check(segment, worker)
    cdef log_record *r = logring_reserve(segment.header, worker)
    if r == NULL:
        return False
    memset(r, 0xA5, sizeof(log_record))
    return True
