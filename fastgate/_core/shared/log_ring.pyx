"""log_ring: how a worker hands its access records to control without ever waiting.

    worker's ring area                     (logring_at; logring_count is a power of two)
    +---------+---------+---------+----------------------------------------------------+
    | head    | tail    | dropped | record 0 | record 1 | ...        | record count - 1 |
    +---------+---------+---------+----------------------------------------------------+
      worker    control   worker    512 bytes each, record of position p at p & (count - 1)

`head` and `tail` are positions that only grow: `head` records were ever published, `tail` ever
taken, `head - tail` wait. Each has one writer and a cache line of its own.

Publication is one release store of `head`. Before it the record does not exist: a worker
that is killed while it fills one leaves garbage in a slot that nobody looks at, and the next
worker of that index, which finds `head` in the segment, fills the same slot anew. After it the
record is complete, whatever becomes of its writer. `sequence` is for the reader's peace of
mind: a record that does not carry its position + 1 is counted as damaged, not believed.

A full ring drops the newest record and counts it in `dropped`: an access log that cannot keep
up must not slow down a request.
"""
from libc.string cimport memcpy, memset

from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.shared.segment cimport Segment
from fastgate._core.shared.layout cimport LOG_RECORD
from fastgate._core.platform.text cimport fg_clear

if sizeof(ring_header) != LOGRING_HEADER or sizeof(log_record) != LOG_RECORD:
    raise AssertionError("the log ring's structs do not have the sizes that its layout needs")

TEXT_NAMES = (
    "method", "host", "path", "route", "consumer", "target", "query", "user_agent", "limit")
PHASE_NAMES = tuple(
    name.removeprefix("PHASE_").lower() for name in globals()["Phase"].__members__
)


# ---- the worker's side ----------------------------------------------------------------

cdef ring_header *logring_header(segment_header *s, uint32_t worker) noexcept nogil:
    cdef char *area = <char *>s + s.per_worker_off + worker * s.per_worker_size
    return <ring_header *>(area + s.logring_at)


cdef log_record *logring_records(segment_header *s, uint32_t worker) noexcept nogil:
    return <log_record *>(<char *>logring_header(s, worker) + LOGRING_HEADER)


cdef log_record *logring_reserve(segment_header *s, uint32_t worker) noexcept nogil:
    cdef ring_header *h = logring_header(s, worker)
    cdef uint64_t head = h.head
    cdef log_record *r
    if head - fg_load(&h.tail) >= s.logring_count:
        fg_store(&h.dropped, h.dropped + 1)
        return NULL
    r = logring_records(s, worker) + (head & (s.logring_count - 1))
    fg_clear(r, sizeof(log_record) - LOG_TEXT)
    memset(r.phase_us, 0xFF, sizeof(r.phase_us))
    return r


cdef void logring_commit(segment_header *s, uint32_t worker, log_record *r) noexcept nogil:
    cdef ring_header *h = logring_header(s, worker)
    cdef uint64_t next_head = h.head + 1
    r.sequence = next_head
    fg_store(&h.head, next_head)


cdef uint32_t log_cut(uint32_t used, int which, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t room = LOG_TEXT - used
    room = room - LEAVE[which] if room > LEAVE[which] else 0
    if room > 255:
        room = 255
    if n > room:
        n = room
        while n and (<uint8_t>p[n] & 0xC0) == 0x80:     # inside a UTF-8 sequence
            n -= 1
    return n


# ---- the border for tests and tools ---------------------------------------------------

cdef _check(Segment segment, uint32_t worker):
    if worker >= segment.header.workers:
        raise IndexError(f"worker {worker} of {segment.header.workers}")


cdef _copy_bytes(uint8_t *to, bytes value, Py_ssize_t n, str name):
    if len(value) != n:
        raise ValueError(f"{name} is {n} bytes, not {len(value)}")
    memcpy(to, <const char *>value, n)


def write_record(Segment segment not None, uint32_t worker, *, int64_t started_unix_ns=0,
                 bytes request_id=bytes(16), bytes trace_id=bytes(16), bytes span_id=bytes(8),
                 bytes address=bytes(16), uint16_t port=0, uint16_t status=0, uint16_t reason=0,
                 uint16_t fault=0, uint16_t attempts=0, uint8_t flags=0, uint64_t bytes_in=0,
                 uint64_t bytes_out=0, uint64_t duration_ns=0, uint64_t upstream_ns=0,
                 uint64_t amount_micros=0, uint32_t generation=0, uint32_t route_slot=0,
                 dict phases=None, **texts) -> bool:
    """Write and publish one record as a worker does; False when the ring was full.

    `phases`: phase name → microseconds after the start. `texts`: method, host, path, route,
    consumer, target, query, user_agent, limit, each str or bytes (bytes need not be UTF-8).
    """
    cdef log_record *r
    cdef uint32_t used = 0
    cdef bytes raw
    _check(segment, worker)
    if unknown := set(texts) - set(TEXT_NAMES):
        raise TypeError(f"no such field of a log record: {', '.join(sorted(unknown))}")
    r = logring_reserve(segment.header, worker)
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
            r = logring_reserve(segment.header, worker)
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
    """Fill the next record with rubbish and leave it: a worker killed half-way. False: full."""
    _check(segment, worker)
    cdef log_record *r = logring_reserve(segment.header, worker)
    if r == NULL:
        return False
    memset(r, 0xA5, sizeof(log_record))
    return True


def ring_state(Segment segment not None, uint32_t worker) -> tuple[int, int, int]:
    """A ring's (published, taken, dropped): records ever, since the segment was made."""
    _check(segment, worker)
    cdef ring_header *h = logring_header(segment.header, worker)
    return fg_load(&h.head), fg_load(&h.tail), fg_load(&h.dropped)
