"""counters: what each worker counts, and a quick way to read all of it.

    a worker's counter area                       one route_counters row
    +----------------------------+ counters_at    +--------------------------------+
    | worker_counters            |                | outcomes[0..63]  by status     |
    +----------------------------+                | outcomes[64..]   by reason     |
    | route row 0                |                | gateway, total, upstream       |
    | route row 1                |                | bytes_in, bytes_out            |
    | ...                        |                +--------------------------------+
    | route row route_rows - 1   |  "other": routes without a row, requests without a route
    +----------------------------+

Every word has one writer, its worker, which adds with a plain load and store: no bus lock, no
shared line, and a reader never sees half a word. The area is in the segment, not in the
worker, so the counts of a killed worker remain and its successor adds to them: nothing that is
exported ever decreases. A request is counted in several words; a scrape in between may see
some of them before others, for no longer than that.

Rows are assigned from 0 upwards, so `rows_used` (the highest used row, plus one) limits what a
scrape has to read. It also keeps the scrape from touching, and so from allocating, shared memory
that no worker ever used.

**Outcomes.** An exchange without a Reason is counted by its status: the common statuses have
a slot each, the others share one slot per class ("2xx"), and an invalid status is "other". An
exchange with a Reason is counted by the reason alone, which implies the status: its slot is
STATUS_SLOTS plus the number. Slot numbers never change while a segment lives, even under newer code:
statuses are appended, and reasons keep their numbers.

**Histograms.** Bucket i counts durations below 16 us * 2^i: its number is the bit length of
the duration in units of 16 us. Powers of two lose less precision than people expect: quantiles are
interpolated, and latency is judged by its order of magnitude.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memset

from fastgate._core.platform.atomics cimport fg_load
from fastgate._core.reason cimport REASON_COUNT
from fastgate._core.shared.segment cimport Segment
from fastgate._core.shared.layout cimport (
    BUCKETS, MIRROR_RESULTS, OUTCOMES, STATUS_SLOTS, TOKEN_RESULTS, TOKEN_ROWS, worker_row)

cdef enum:
    STATUS_END = 600
    BUCKET_UNIT_NS = 16000
    ROUTE_WORDS = sizeof(route_counters) // 8

# Slot 0 is "other", 1 to 5 the classes 1xx to 5xx, then these in order. Append only.
STATUSES = (
    101, 200, 201, 202, 204, 206, 207, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425,
    426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 507, 508, 511, 499, 203, 205, 300,
    100, 103, 226, 529,
)

cdef uint8_t STATUS_SLOT[STATUS_END]
SLOT_LABELS = []        # outcome slot → (status text, reason number)


cdef _fill():
    cdef int status
    labels = [("other", 0)] + [(f"{c}xx", 0) for c in range(1, 6)]
    for status in range(STATUS_END):
        STATUS_SLOT[status] = <uint8_t>(status // 100)
    for code in STATUSES:
        STATUS_SLOT[<int>code] = <uint8_t>len(labels)
        labels.append((str(code), 0))
    if len(labels) > STATUS_SLOTS:
        raise AssertionError("more statuses than slots")
    labels += [("other", 0)] * (STATUS_SLOTS - len(labels))
    labels.append(("", -1))             # REASON_NONE has no count: those newer than this code
    labels += [("", number) for number in range(1, REASON_COUNT)]
    SLOT_LABELS.extend(labels)


_fill()


# ---- the writing side -----------------------------------------------------------------

cdef worker_counters *counters_worker(segment_header *s, uint32_t worker) noexcept nogil:
    cdef char *area = <char *>s + s.per_worker_off + worker * s.per_worker_size
    return <worker_counters *>(area + s.counters_at)


cdef route_counters *counters_route(segment_header *s, uint32_t worker, uint32_t slot) noexcept nogil:
    cdef worker_counters *w = counters_worker(s, worker)
    cdef route_counters *rows = <route_counters *>(w + 1)
    cdef uint64_t other = s.route_rows - 1
    if slot >= other:
        return rows + other
    if slot >= w.rows_used:
        fg_count(&w.rows_used, slot + 1 - w.rows_used)
    return rows + slot


cdef void count_outcome(route_counters *r, uint32_t status, uint32_t reason) noexcept nogil:
    cdef uint32_t slot
    if reason != 0:
        slot = STATUS_SLOTS + (reason if reason < REASON_COUNT else 0)
    else:
        slot = STATUS_SLOT[status] if status < STATUS_END else 0
    fg_count(&r.outcomes[slot], 1)


cdef void observe(histogram *h, uint64_t ns) noexcept nogil:
    cdef uint32_t bucket = fg_bit_length(ns // BUCKET_UNIT_NS)
    if bucket > BUCKETS - 1:
        bucket = BUCKETS - 1
    fg_count(&h.buckets[bucket], 1)
    fg_count(&h.sum_ns, ns)
    fg_count(&h.count, 1)


# ---- the reading side -----------------------------------------------------------------

cdef class Histogram:
    """Durations, counted by size. `buckets[i]` holds those below 16 µs * 2**i, the last one the rest.

    `count` is the sum of the buckets as they were read; `sum_ns` the sum of the durations.
    """

    cdef readonly tuple buckets
    cdef readonly object sum_ns
    cdef readonly object count


cdef class RouteCounts:
    """One route's counts, over all workers.

    `delays`, `aborts`: faults that were injected. `outcomes`: (status, reason, count) for each that occurred. Without a reason (0), status
    is a number, a class ("2xx") or "other". With one, status is "", as the reason implies it;
    -1 is any reason newer than this code. `validated`: requests that passed validation. `shed`:
    those refused under load.
    """

    cdef readonly object slot          # None: the row for everything without a row of its own
    cdef readonly tuple outcomes
    cdef readonly Histogram gateway
    cdef readonly Histogram total
    cdef readonly Histogram upstream
    cdef readonly object bytes_in
    cdef readonly object bytes_out
    cdef readonly object delays
    cdef readonly object aborts
    cdef readonly object validated
    cdef readonly tuple mirrored       # by MirrorResult
    cdef readonly object shed


cdef class CountersSnapshot:
    """What all workers have counted, and their state, read once.

    `workers`: a dict for each worker: its counters (the fields of worker_counters) and its
    row in the segment (pid, generation, heartbeat_ns, connections, in_flight, upstream_idle,
    upcalls_now, streams_now, starts, state, credentials_epoch). `routes`: the rows in which anything was
    counted, in the order of their slots; the row "other" comes last, with slot None.
    `generation`: the newest published one. `draining`: 1 while the gateway shuts down.
    """

    cdef readonly list workers
    cdef readonly list routes
    cdef readonly Histogram upcall_lag
    cdef readonly object generation
    cdef readonly object draining


cdef void _add(uint64_t *sums, const uint64_t *words, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        sums[i] += words[i]


cdef bint _sum_row(segment_header *s, uint64_t row, route_counters *out) noexcept nogil:
    """The row summed over the workers that may have used it; 0: nothing was counted."""
    cdef uint32_t worker
    cdef worker_counters *w
    cdef route_counters *rows
    cdef uint64_t any_word = 0
    cdef uint64_t *words = <uint64_t *>out
    cdef uint32_t i
    memset(out, 0, sizeof(route_counters))
    for worker in range(s.workers):
        w = counters_worker(s, worker)
        if row < fg_load(&w.rows_used) or row == s.route_rows - 1:
            rows = <route_counters *>(w + 1)
            _add(words, <uint64_t *>(rows + row), ROUTE_WORDS)
    out.turn = 0                         # no count
    for i in range(ROUTE_WORDS):
        any_word |= words[i]
    return any_word != 0


cdef Histogram _histogram(const histogram *h):
    cdef Histogram out = Histogram.__new__(Histogram)
    buckets = [h.buckets[i] for i in range(BUCKETS)]
    out.buckets = tuple(buckets)
    out.sum_ns = h.sum_ns
    out.count = sum(buckets)
    return out


cdef RouteCounts _route(object slot, const route_counters *r):
    cdef RouteCounts out = RouteCounts.__new__(RouteCounts)
    cdef uint32_t i
    outcomes = []
    for i in range(OUTCOMES):
        if r.outcomes[i]:
            status, reason = SLOT_LABELS[i]
            outcomes.append((status, reason, r.outcomes[i]))
    out.slot = slot
    out.outcomes = tuple(outcomes)
    out.gateway = _histogram(&r.gateway)
    out.total = _histogram(&r.total)
    out.upstream = _histogram(&r.upstream)
    out.bytes_in = r.bytes_in
    out.bytes_out = r.bytes_out
    out.delays = r.delays
    out.aborts = r.aborts
    out.validated = r.validated
    out.mirrored = tuple([r.mirrored[i] for i in range(MIRROR_RESULTS)])
    out.shed = r.shed
    return out


cdef dict _worker(const worker_counters *c, const worker_row *row):
    return {
        "accepted": c.accepted,
        "closed": c.closed,
        "requests": c.requests,
        "refused": c.refused,
        "upstream_connects": c.upstream_connects,
        "upstream_connect_failures": c.upstream_connect_failures,
        "upstream_reused": c.upstream_reused,
        "retries": c.retries,
        "limiter_allowed": c.limiter_allowed,
        "limiter_refused": c.limiter_refused,
        "quota_allowed": c.quota_allowed,
        "quota_refused": c.quota_refused,
        "concurrency_refused": c.concurrency_refused,
        "ring_drops": c.ring_drops,
        "upcalls": c.upcalls,
        "upcalls_rejected": c.upcalls_rejected,
        "parse_errors": c.parse_errors,
        "tunnels": c.tunnels,
        "polls": c.polls,
        "ejections": c.ejections,
        "beyond_micros": c.beyond_micros,
        "streams": c.streams,
        "streams_rejected": c.streams_rejected,
        "connections_refused": c.connections_refused,
        "connections_uncounted": c.connections_uncounted,
        "handshakes_refused": c.handshakes_refused,
        "handshakes_dropped": c.handshakes_dropped,
        "bad_proxy_headers": c.bad_proxy_headers,
        "handshakes_client_1.2_full": c.handshakes[0][0][0],
        "handshakes_client_1.2_resumed": c.handshakes[0][0][1],
        "handshakes_client_1.3_full": c.handshakes[0][1][0],
        "handshakes_client_1.3_resumed": c.handshakes[0][1][1],
        "handshakes_upstream_1.2_full": c.handshakes[1][0][0],
        "handshakes_upstream_1.2_resumed": c.handshakes[1][0][1],
        "handshakes_upstream_1.3_full": c.handshakes[1][1][0],
        "handshakes_upstream_1.3_resumed": c.handshakes[1][1][1],
        "handshakes_client_failed": c.handshakes_failed[0],
        "handshakes_upstream_failed": c.handshakes_failed[1],
        "queued": c.queued,
        "queue_refused": c.queue_refused,
        "queue_timeouts": c.queue_timeouts,
        "pid": row.pid,
        "generation": row.generation,
        "heartbeat_ns": row.heartbeat_ns,
        "connections": row.connections,
        "in_flight": row.in_flight,
        "upstream_idle": row.upstream_idle,
        "upcalls_now": row.upcalls,
        "streams_now": row.streams,
        "load_permille": row.load_permille,
        "starts": row.starts,
        "state": row.state,
        "credentials_epoch": row.credentials_epoch,
    }


def counters_snapshot(Segment segment not None) -> CountersSnapshot:
    """Read all counters of all workers, summed by route. Only rows in use cost time."""
    cdef segment_header *s = segment.header
    cdef CountersSnapshot out = CountersSnapshot.__new__(CountersSnapshot)
    cdef worker_counters *w
    cdef route_counters row
    cdef histogram lag
    cdef uint32_t worker
    cdef uint64_t used = 0, slot
    memset(&lag, 0, sizeof(lag))
    out.workers = []
    out.routes = []
    for worker in range(s.workers):
        w = counters_worker(s, worker)
        used = max(used, fg_load(&w.rows_used))
        _add(<uint64_t *>&lag, <uint64_t *>&w.upcall_lag, sizeof(histogram) // 8)
        out.workers.append(_worker(w, segment.worker(worker)))
    for slot in range(min(used, s.route_rows - 1)):
        if _sum_row(s, slot, &row):
            out.routes.append(_route(slot, &row))
    if _sum_row(s, s.route_rows - 1, &row):
        out.routes.append(_route(None, &row))
    out.upcall_lag = _histogram(&lag)
    out.generation = fg_load(&s.generation)
    out.draining = fg_load(&s.draining)
    return out


def token_counts(Segment segment not None) -> list[tuple[int, ...]]:
    """Tokens of callers, by the row of their issuer: a number for each TokenResult, of all workers together."""
    cdef segment_header *s = segment.header
    cdef worker_counters *w
    cdef uint32_t worker, row, result
    cdef uint64_t sums[TOKEN_ROWS][TOKEN_RESULTS]
    memset(sums, 0, sizeof(sums))
    for worker in range(s.workers):
        w = counters_worker(s, worker)
        for row in range(TOKEN_ROWS):
            for result in range(TOKEN_RESULTS):
                sums[row][result] += fg_load(&w.tokens[row][result])
    return [tuple([sums[row][result] for result in range(TOKEN_RESULTS)]) for row in range(TOKEN_ROWS)]
