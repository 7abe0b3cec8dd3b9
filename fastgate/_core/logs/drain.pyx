"""drain: the consumer of the log rings. It keeps the newest records and renders the lines.

    ring of worker 0 --+                 +--> RecentRequests   the last N records, raw
    ring of worker 1 --+--> LogDrain ----+
    ring of worker 2 --+    (no GIL)     +--> one buffer of lines --> write(2), or bytes

Records are taken in runs of up to RUN: copied into `RecentRequests` (which brings them into the
cache), rendered from the ring into the buffer, and only then is the ring's `tail` moved. If control
is killed, the lines in the buffer are lost, at most BUFFER bytes; no line is ever written twice.

`write` waits at most WRITE_PATIENCE_MS for the reader of a pipe or terminal, so a stuck reader
cannot delay the end of the process. After an error, the lines that could not be written are counted
and dropped, since the rings must still be emptied. A line that was cut off is closed with a newline
before the next one, so only that line is damaged.

Both classes may be used from several threads: control drains in an executor thread while its
event loop looks requests up.
"""
import socket

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)

from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.logs.format cimport LINE_MAX, format_address, format_combined, format_json
from fastgate._core.shared.log_ring cimport (
    LOG_ABORTED, LOG_CERTIFICATE, LOG_DELAYED, LOG_HTTP_1_0, LOG_KEEP_ALIVE, LOG_SAMPLED, LOG_TEXT, LOG_TLS, LOG_TUNNEL,
    LOG_UPCALL, LOG_UPSTREAM_REUSED, PHASE_NEVER, TEXTS, logring_header, logring_records, ring_header)
from fastgate._core.reason cimport (
    CLIENT_CLOSED, CLIENT_TIMEOUT, RESPONSE_TRUNCATED, TUNNEL_CLOSED, failed_here)

from datetime import UTC, datetime

from fastgate._core.logs.format import fault_name
from fastgate._core.shared.log_ring import PHASE_NAMES, TEXT_NAMES
from fastgate._core.reason import reason_name

cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <sys/stat.h>
    #include <unistd.h>
    /* 1: writing to it may block for long (a pipe, a socket, a terminal). */
    static int fg_may_block(int fd) {
        struct stat st;
        return fstat(fd, &st) == 0 && !S_ISREG(st.st_mode);
    }
    /* Write all of it. Returns 0 or an errno; *written is how much was written. */
    static int fg_write_all(int fd, const char *p, size_t n, int patience_ms, size_t *written) {
        int paced = fg_may_block(fd);
        *written = 0;
        while (*written < n) {
            size_t part = n - *written;
            ssize_t w;
            if (paced) {
                /* Ready means: room for 4096 bytes without blocking (PIPE_BUF). */
                struct pollfd ready = {.fd = fd, .events = POLLOUT};
                int r = poll(&ready, 1, patience_ms);
                if (r == 0) return ETIMEDOUT;
                if (r < 0 && errno != EINTR) return errno;
                if (r < 0) continue;
                if (part > 4096) part = 4096;
            }
            w = write(fd, p + *written, part);
            if (w >= 0) *written += (size_t)w;
            else if (errno != EINTR && errno != EAGAIN) return errno;
        }
        return 0;
    }
    static uint64_t fg_count_lines(const char *p, size_t n) {
        uint64_t lines = 0;
        for (size_t i = 0; i < n; i++) lines += p[i] == '\\n';
        return lines;
    }
    """
    int fg_write_all(int fd, const char *p, size_t n, int patience_ms, size_t *written) nogil
    uint64_t fg_count_lines(const char *p, size_t n) nogil

cdef enum:
    RUN = 16                      # records per run: with their copies well within a core's first-level cache
    BUFFER = 262144
    WRITE_PATIENCE_MS = 1000
    KIND_NONE = 0
    KIND_JSON = 1
    KIND_COMBINED = 2

FORMATS = {"none": KIND_NONE, "json": KIND_JSON, "combined": KIND_COMBINED}


cdef inline size_t used_size(const log_record *r) noexcept nogil:
    """Bytes of a record up to the end of its texts; at most its size, whatever is in it."""
    cdef uint32_t i, used = 0
    for i in range(<uint32_t>TEXTS):
        used += r.lens[i]
    return sizeof(log_record) - LOG_TEXT + min(used, <uint32_t>LOG_TEXT)


cdef class RecentRequests:
    """The last `capacity` complete records, in memory: 512 bytes each.

    The memory (`capacity` * 512 bytes; 5 MB for the default of 10,000) is reserved with the first
    record and becomes resident as it fills, so an idle gateway does not use it.
    """

    def __cinit__(self, uint32_t capacity=20_000):
        if not 1 <= capacity <= 10_000_000:
            raise ValueError(f"capacity={capacity}: between 1 and 10,000,000")
        self.capacity = capacity
        self.records = NULL
        self.kept = 0
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        if self.records != NULL:
            munmap(self.records, <size_t>self.capacity * sizeof(log_record))
        pthread_mutex_destroy(&self.mutex)

    cdef void keep(self, const log_record *r, uint32_t n) noexcept nogil:
        """Copy n adjacent records. If there is no memory for them, nothing is kept.

        Only the used part of the texts' room is copied: the rest of a record is not in the cache yet.
        """
        cdef uint32_t at, i
        cdef void *p
        pthread_mutex_lock(&self.mutex)
        if self.records == NULL:
            p = mmap(NULL, <size_t>self.capacity * sizeof(log_record), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            if p == MAP_FAILED:
                pthread_mutex_unlock(&self.mutex)
                return
            self.records = <log_record *>p
        at = <uint32_t>(self.kept % self.capacity)
        for i in range(n):
            memcpy(self.records + at, r + i, used_size(r + i))
            at += 1
            if at == self.capacity:
                at = 0
        self.kept += n
        pthread_mutex_unlock(&self.mutex)

    def __len__(self):
        return min(self.kept, self.capacity)

    def find(self, str request_id not None) -> dict | None:
        """The newest request with this id (32 hex digits, any case), phase by phase, or None.

        Raises ValueError if it is not a request id.
        """
        cdef bytes wanted = bytes.fromhex(request_id)
        cdef const char *id = wanted
        cdef log_record found
        cdef uint64_t back, position
        cdef bint ok = False
        if len(wanted) != 16:
            raise ValueError(f"a request id is 32 hex digits, not {request_id!r}")
        with nogil:
            pthread_mutex_lock(&self.mutex)
            position = self.kept
            for back in range(min(self.kept, <uint64_t>self.capacity)):
                position -= 1
                if memcmp(self.records[position % self.capacity].request_id, id, 16) == 0:
                    found = self.records[position % self.capacity]
                    ok = True
                    break
            pthread_mutex_unlock(&self.mutex)
        return _explain(&found) if ok else None

    def latest(self, uint32_t n) -> list[dict]:
        """The last n requests that ended, newest first."""
        cdef log_record *copy
        cdef uint32_t have, i
        have = min(n, <uint32_t>len(self))
        copy = <log_record *>malloc(max(have, 1) * sizeof(log_record))
        if copy == NULL:
            raise MemoryError
        try:
            pthread_mutex_lock(&self.mutex)
            for i in range(have):
                copy[i] = self.records[(self.kept - 1 - i) % self.capacity]
            pthread_mutex_unlock(&self.mutex)
            out = [_explain(&copy[i]) for i in range(have)]
        finally:
            free(copy)
        # Rings are drained one after another; sorting by time puts the records of all in order.
        out.sort(key=_ended, reverse=True)
        return out


def _ended(request):
    return request["started_unix_ns"] + request["duration_us"] * 1000


cdef str _outcome(const log_record *r):
    """The outcome, in one word."""
    if r.reason == CLIENT_CLOSED or r.reason == CLIENT_TIMEOUT or r.flags & LOG_ABORTED:
        return "aborted"            # the client left, or did not read
    if r.reason == RESPONSE_TRUNCATED:
        return "truncated"          # the answer was incomplete
    if r.reason == TUNNEL_CLOSED:
        return "tunnelled"
    if r.reason == 0:
        return "answered"
    return "failed" if failed_here(r.reason, r.status) else "refused"


cdef list _phases(const log_record *r):
    """The phases that were entered, in order of time, each up to the beginning of the next one."""
    cdef int i
    begun = [(r.phase_us[i], i) for i in range(len(PHASE_NAMES)) if r.phase_us[i] != PHASE_NEVER]
    begun.sort()
    ends = [at for at, _ in begun[1:]] + [r.duration_ns // 1000]
    return [
        {"name": PHASE_NAMES[i], "start_us": at, "duration_us": max(end - at, 0)}
        for (at, i), end in zip(begun, ends)
    ]


cdef dict _explain(const log_record *r):
    cdef char address[64]
    cdef uint32_t n = format_address(r, address)
    cdef const char *t = &r.text[0]
    cdef int i
    texts = {}
    for i in range(<int>TEXTS):
        raw = t[:r.lens[i]]
        texts[TEXT_NAMES[i]] = raw.decode("utf-8", "replace") or None
        t += r.lens[i]
    seconds, ns = divmod(max(r.started_unix_ns, 0), 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=ns // 1000)
    trace = (<const char *>r.trace_id)[:16].hex()
    return {
        "id": (<const char *>r.request_id)[:16].hex(),
        "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "started_unix_ns": r.started_unix_ns,
        "outcome": _outcome(r),
        "status": r.status,
        "reason": reason_name(r.reason) or None,
        "fault": fault_name(r.fault) or None,
        "client": address[:n].decode("ascii"),
        "port": r.port,
        **texts,
        "route_slot": r.route_slot,
        "attempts": r.attempts,
        "reused": bool(r.flags & LOG_UPSTREAM_REUSED),
        "keep_alive": bool(r.flags & LOG_KEEP_ALIVE),
        "tls": bool(r.flags & LOG_TLS),
        "client_certificate": bool(r.flags & LOG_CERTIFICATE),
        "delayed": bool(r.flags & LOG_DELAYED),
        "http_1_0": bool(r.flags & LOG_HTTP_1_0),
        "upcall": bool(r.flags & LOG_UPCALL),
        "tunnel": bool(r.flags & LOG_TUNNEL),
        "aborted": bool(r.flags & LOG_ABORTED),
        "bytes_in": r.bytes_in,
        "bytes_out": r.bytes_out,
        "duration_us": r.duration_ns // 1000,
        "upstream_us": r.upstream_ns // 1000,
        "amount_micros": r.amount_micros,
        "trace": trace if int(trace, 16) else None,
        "span": (<const char *>r.span_id)[:8].hex() if int(trace, 16) else None,
        "sampled": bool(r.flags & LOG_SAMPLED),
        "worker": r.worker,
        "generation": r.generation,
        "phases": _phases(r),
    }


cdef class LogDrain:
    """Empties the rings of a segment: records into `recent`, lines to a descriptor or as bytes.

    `format`: "json", "combined", or "none" (nothing is rendered, records are only kept).
    `phases`: whether JSON lines include when each phase began.
    """

    def __cinit__(self, Segment segment not None, *, str format="json",
                  RecentRequests recent=None, bint phases=True):
        if format not in FORMATS:
            raise ValueError(f"format={format!r}: one of {', '.join(FORMATS)}")
        self.segment = segment
        self.recent = recent
        self.format = format
        self.phases = phases
        self.kind = FORMATS[format]
        self.taken = 0
        self.damaged = 0
        self.buffer = NULL
        memset(&self.clock, 0, sizeof(line_clock))
        pthread_mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        free(self.buffer)
        pthread_mutex_destroy(&self.mutex)

    cdef uint32_t take(self, uint32_t worker, uint32_t most, uint32_t *used) noexcept nogil:
        """Take up to `most` records, as long as the buffer has room; returns how many."""
        cdef segment_header *s = self.segment.header
        cdef ring_header *h = logring_header(s, worker)
        cdef log_record *records = logring_records(s, worker)
        cdef uint64_t mask = s.logring_count - 1
        cdef uint64_t tail = h.tail
        cdef uint64_t waiting = fg_load(&h.head) - tail
        cdef uint32_t n, i, done = 0
        cdef log_record *r
        if waiting > s.logring_count:       # not written by any worker of ours
            self.damaged += waiting
            fg_store(&h.tail, tail + waiting)
            return 0
        most = <uint32_t>min(<uint64_t>most, waiting)
        while done < most:
            # A run crosses neither the end of the ring nor the room left in the buffer.
            n = min(min(<uint32_t>RUN, most - done), <uint32_t>(s.logring_count - (tail & mask)))
            if self.kind != KIND_NONE:
                n = min(n, (BUFFER - used[0]) // LINE_MAX)
                if n == 0:
                    break
            r = records + (tail & mask)
            if self.recent is not None:
                self.recent.keep(r, n)
            for i in range(n):
                if r[i].sequence != tail + i + 1:
                    self.damaged += 1
                elif self.kind == KIND_JSON:
                    used[0] += format_json(r + i, self.buffer + used[0], &self.clock, self.phases)
                elif self.kind == KIND_COMBINED:
                    used[0] += format_combined(r + i, self.buffer + used[0], &self.clock)
            tail += n
            done += n
            fg_store(&h.tail, tail)
        self.taken += done
        return done

    cdef uint64_t waiting(self, uint32_t worker) noexcept nogil:
        """How many records wait in a worker's ring; at most the size of a ring."""
        cdef ring_header *h = logring_header(self.segment.header, worker)
        return min(fg_load(&h.head) - h.tail, self.segment.header.logring_count)

    cdef _ready(self):
        if self.buffer == NULL:
            self.buffer = <char *>malloc(BUFFER)
            if self.buffer == NULL:
                raise MemoryError

    def pending(self) -> int:
        """How many records wait in all rings. Takes nanoseconds."""
        cdef uint64_t n = 0
        cdef uint32_t worker
        cdef ring_header *h
        for worker in range(self.segment.header.workers):
            h = logring_header(self.segment.header, worker)
            n += fg_load(&h.head) - fg_load(&h.tail)
        return n

    def drain(self, uint32_t worker, uint32_t most=0xFFFFFFFF) -> bytes:
        """Take up to `most` of the waiting records of one worker's ring; returns their lines."""
        cdef uint32_t used, n
        cdef uint64_t left
        if worker >= self.segment.header.workers:
            raise IndexError(f"worker {worker} of {self.segment.header.workers}")
        parts = []
        with nogil:
            pthread_mutex_lock(&self.mutex)
        try:
            self._ready()
            # Only the records that wait now: continuing while more arrive would take ever smaller
            # pieces.
            left = min(<uint64_t>most, self.waiting(worker))
            while left:
                used = 0
                with nogil:
                    n = self.take(worker, <uint32_t>left, &used)
                if n == 0:
                    break
                parts.append(self.buffer[:used])
                left -= n
        finally:
            pthread_mutex_unlock(&self.mutex)
        return b"".join(parts)

    def write(self, int fd, bint close_line=False) -> tuple[int, int, int, bool]:
        """Take the waiting records of all rings, one pass, and write the lines to fd. Runs without
        the GIL.

        Returns (records taken, lines lost, errno or 0, whether the last line was cut off).
        `close_line`: what the last call returned for that; if true, a newline is written first.
        """
        cdef uint64_t left, taken = 0, lost = 0
        cdef uint32_t worker, n, used
        cdef int error = 0
        cdef bint cut = close_line
        with nogil:
            pthread_mutex_lock(&self.mutex)
        try:
            self._ready()
            with nogil:
                for worker in range(self.segment.header.workers):
                    left = self.waiting(worker)
                    while left:
                        used = 0
                        if cut:
                            self.buffer[0] = c'\n'
                            used = 1
                        n = self.take(worker, <uint32_t>left, &used)
                        if n == 0:
                            break
                        left -= n
                        taken += n
                        if self.kind != KIND_NONE:
                            self.send(fd, used, &lost, &error, &cut)
        finally:
            pthread_mutex_unlock(&self.mutex)
        return taken, lost, error, cut

    cdef void send(self, int fd, uint32_t used, uint64_t *lost, int *error, bint *cut) noexcept nogil:
        """Write the buffer; after an error in the same call, only count its lines."""
        cdef size_t written = 0
        cdef uint32_t first = 1 if cut[0] else 0      # the newline that closes a cut line
        if error[0] == 0:
            error[0] = fg_write_all(fd, self.buffer, used, WRITE_PATIENCE_MS, &written)
        if written > 0:
            cut[0] = self.buffer[written - 1] != c'\n'
        # Lines not written completely; a line that was cut off is one of them.
        first = first if written < first else <uint32_t>written
        lost[0] += fg_count_lines(self.buffer + first, used - first)
