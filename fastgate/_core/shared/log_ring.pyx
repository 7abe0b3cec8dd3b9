"""log_ring: how a worker passes its access records to control without ever waiting.

    worker's ring area                     (logring_at; logring_count is a power of two)
    +---------+---------+---------+----------------------------------------------------+
    | head    | tail    | dropped | record 0 | record 1 | ...        | record count - 1 |
    +---------+---------+---------+----------------------------------------------------+
      worker    control   worker    512 bytes each, record of position p at p & (count - 1)

`head` and `tail` are positions that only grow: `head` is the total of published records, `tail` of taken
ones, and `head - tail` records wait. Each has one writer and a cache line of its own.

Publication is one release store of `head`. Before it the record does not exist: a worker
that is killed while it fills one leaves garbage in a slot that nobody reads, and its successor,
which finds `head` in the segment, fills the same slot again. After it the record is complete,
whatever happens to its writer. `sequence` is a second check: a record that does not carry its
position + 1 is counted as damaged and ignored.

A full ring drops the newest record and counts it in `dropped`: an access log that is too slow
must not slow down a request.
"""
from libc.string cimport memset

from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.shared.segment cimport Segment
from fastgate._core.shared.layout cimport LOG_RECORD

if sizeof(ring_header) != LOGRING_HEADER or sizeof(log_record) != LOG_RECORD:
    raise AssertionError("the log ring's structs do not have the sizes that its layout needs")

TEXT_NAMES = (
    "method", "host", "path", "route", "service", "consumer", "target", "query", "user_agent", "limit")
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
    r.sequence = 0
    memset(r.lens, 0, sizeof(r.lens))
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


# ---- the border for tools -------------------------------------------------------------

cdef _check(Segment segment, uint32_t worker):
    if worker >= segment.header.workers:
        raise IndexError(f"worker {worker} of {segment.header.workers}")


def ring_state(Segment segment not None, uint32_t worker) -> tuple[int, int, int]:
    """A ring's totals of records (published, taken, dropped), since the segment was created."""
    _check(segment, worker)
    cdef ring_header *h = logring_header(segment.header, worker)
    return fg_load(&h.head), fg_load(&h.tail), fg_load(&h.dropped)
