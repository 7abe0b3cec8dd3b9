"""segment: the shared segment, the memory that all processes of a gateway share.

    offset 0        segment_header                      one page
    workers_off     worker_row[MAX_WORKERS]             each worker and its state
    accounts_off    account_row[accounts_count]         access, wallets           (wallet.pyx)
                    ---- page: head of the limiter's table in its last 64 bytes ----
    limiter_off     cell[limiter_count]                 token buckets             (limiter.pyx)
                    ---- page: head of the quota table in its last 64 bytes ----
    quota_off       cell[quota_count]                   calendar windows          (quota.pyx)
    targets_off     target_row[targets_count]           health of upstream targets
    per_worker_off  worker 0   counters_at     counters and histograms            (counters.pyx)
                               concurrency_at  in-flight counts                   (concurrency.pyx)
                               logring_at      head, then log records             (log_ring.pyx)
    + per_worker_size          worker 1 ...

Every area begins on its own page. The supervisor creates the segment as a memfd before it forks;
children inherit the mapping, others `attach` to the descriptor. The file is sealed against
growing and shrinking, so that no mapping can be truncated under a reader.

Invariants

- **No locks.** A word either has one writer, or any process changes it by one atomic operation. A
  process that is killed between any two instructions leaves nothing locked and nothing half-written.
  The supervisor clears the counts of a dead *worker* (in flight, connections): `worker_stopped`.
- **The layout follows from the counts** in the header alone; `attach` computes it again and
  refuses a segment with any different offset, such as one of another build.
- **Untouched pages take no memory.** Sizes are generous (the defaults map 30 MiB for two workers),
  and a page becomes resident when it is first touched, even by reading. Huge pages are
  declined, since they would make all of it resident at once. So code that walks an area
  reads only the used part.
- The segment ends with the gateway. Control exports what must survive it (quotas).

Worker indexes and target slots are checked at the Python border; the C methods trust their caller.
"""
import fcntl
import os

from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MADV_DONTDUMP, MADV_NOHUGEPAGE, MADV_REMOVE, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE,
    madvise, mmap, munmap,
)
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport _SC_PAGESIZE, close, sysconf

from fastgate._core.platform.atomics cimport fg_cas, fg_load, fg_store
from fastgate._core.shared.layout cimport (
    LOGRING_HEAD, LOG_RECORD, MAX_WORKERS, PAGE, SEGMENT_VERSION, WINDOW, account_row, cell,
    concurrency_head, concurrency_row, route_counters, worker_counters)

from fastgate.errors import SegmentError

cdef const char *MAGIC = b"FGSHM\0\0\0"
cdef enum:
    LARGEST = 1 << 30             # of any count; keeps all offsets far from overflow

STATES = ("down", "starting", "serving", "draining")    # worker_row.state, in words


cdef void zero_pages(char *p, uint64_t size) noexcept nogil:
    # A punched hole reads as zeros; if the kernel refuses, zeros are written. The kernel rounds the size up to
    # its own pages, which are larger than ours on some arm64: prevent that.
    cdef uint64_t part = <uint64_t>sysconf(_SC_PAGESIZE) - 1
    if (<uint64_t>p | size) & part or madvise(p, size, MADV_REMOVE) != 0:
        memset(p, 0, size)


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef uint64_t _pages(uint64_t size) noexcept nogil:
    return (size + PAGE - 1) & ~<uint64_t>(PAGE - 1)


cdef void _lay_out(segment_header *h) noexcept nogil:
    """Compute all offsets and the size from the counts."""
    cdef uint64_t at = PAGE
    h.workers_off = at
    at += _pages(MAX_WORKERS * sizeof(worker_row))
    h.accounts_off = at
    at += _pages(h.accounts_count * sizeof(account_row)) + PAGE
    h.limiter_off = at
    at += _pages(h.limiter_count * sizeof(cell)) + PAGE
    h.quota_off = at
    at += _pages(h.quota_count * sizeof(cell))
    h.targets_off = at
    at += _pages(h.targets_count * sizeof(target_row))
    h.per_worker_off = at
    at = 0
    h.counters_at = at
    at += _pages(sizeof(worker_counters) + h.route_rows * sizeof(route_counters))
    h.concurrency_at = at
    at += _pages(sizeof(concurrency_head) + h.concurrency_count * sizeof(concurrency_row))
    h.logring_at = at
    at += LOGRING_HEAD + _pages(h.logring_count * LOG_RECORD)
    h.per_worker_size = at
    h.size = h.per_worker_off + h.workers * h.per_worker_size


cdef _check_counts(const segment_header *h):
    if not 1 <= h.workers <= MAX_WORKERS:
        raise SegmentError(f"workers={h.workers}: a segment has 1 to {MAX_WORKERS} workers")
    for name, count, least in (
        ("limiter_cells", h.limiter_count, WINDOW),
        ("quota_cells", h.quota_count, WINDOW),
        ("concurrency_cells", h.concurrency_count, 4),
        ("log_records", h.logring_count, 2),
    ):
        if not least <= count <= LARGEST or count & (count - 1):
            raise SegmentError(f"{name}={count}: must be a power of two, at least {least}")
    for name, count in (("targets", h.targets_count), ("route_rows", h.route_rows),
                        ("accounts", h.accounts_count)):
        if not 1 <= count <= LARGEST:
            raise SegmentError(f"{name}={count}: must be between 1 and {LARGEST}")


cdef class WorkerRow:
    """One worker's row, live: reading an attribute reads the segment, setting it stores there.

    Writers: the supervisor sets `pid` and `starts`, the worker itself everything else. Times
    are nanoseconds of CLOCK_MONOTONIC. `state`: 0 down, 1 starting, 2 serving, 3 draining.
    """

    cdef readonly Segment segment
    cdef readonly uint32_t index
    cdef worker_row *row

    @property
    def pid(self):
        return fg_load(&self.row.pid)

    @pid.setter
    def pid(self, uint64_t value):
        fg_store(&self.row.pid, value)

    @property
    def generation(self):
        return fg_load(&self.row.generation)

    @generation.setter
    def generation(self, uint64_t value):
        fg_store(&self.row.generation, value)

    @property
    def heartbeat_ns(self):
        return fg_load(&self.row.heartbeat_ns)

    @heartbeat_ns.setter
    def heartbeat_ns(self, uint64_t value):
        fg_store(&self.row.heartbeat_ns, value)

    @property
    def connections(self):
        return fg_load(&self.row.connections)

    @connections.setter
    def connections(self, uint64_t value):
        fg_store(&self.row.connections, value)

    @property
    def in_flight(self):
        return fg_load(&self.row.in_flight)

    @in_flight.setter
    def in_flight(self, uint64_t value):
        fg_store(&self.row.in_flight, value)

    @property
    def upstream_idle(self):
        return fg_load(&self.row.upstream_idle)

    @upstream_idle.setter
    def upstream_idle(self, uint64_t value):
        fg_store(&self.row.upstream_idle, value)

    @property
    def upcalls(self):
        return fg_load(&self.row.upcalls)

    @upcalls.setter
    def upcalls(self, uint64_t value):
        fg_store(&self.row.upcalls, value)

    @property
    def streams(self):
        return fg_load(&self.row.streams)

    @streams.setter
    def streams(self, uint64_t value):
        fg_store(&self.row.streams, value)

    @property
    def load_permille(self):
        return fg_load(&self.row.load_permille)

    @load_permille.setter
    def load_permille(self, uint64_t value):
        fg_store(&self.row.load_permille, value)

    @property
    def starts(self):
        return fg_load(&self.row.starts)

    @starts.setter
    def starts(self, uint64_t value):
        fg_store(&self.row.starts, value)

    @property
    def state(self):
        return fg_load(&self.row.state)

    @state.setter
    def state(self, uint64_t value):
        if value >= len(STATES):
            raise ValueError(f"state {value} of a worker: 0 to {len(STATES) - 1}")
        fg_store(&self.row.state, value)

    @property
    def state_name(self):
        """down, starting, serving or draining."""
        return STATES[min(fg_load(&self.row.state), len(STATES) - 1)]

    @property
    def credentials_epoch(self):
        return fg_load(&self.row.credentials_epoch)

    @credentials_epoch.setter
    def credentials_epoch(self, uint64_t value):
        fg_store(&self.row.credentials_epoch, value)


cdef class TargetRow:
    """One upstream target's shared health, live.

    `health`: 0 unknown (usable), 1 healthy, 2 unhealthy; `started_ns`: since when it is usable (CLOCK_MONOTONIC; 0:
    always), for slow start. Their writer is control. `failures` (in a row,
    over all workers), `ejected_until_ns` (CLOCK_MONOTONIC), `ejections` (since the last success) and
    `ejected` (total of ejections) are written by workers. `identity`: the target that has the row; `claim`
    it before using the rest.
    """

    cdef readonly Segment segment
    cdef readonly uint32_t slot
    cdef target_row *row

    def claim(self, uint64_t identity):
        """Assign the row to this target; an earlier owner's values are cleared. Writer: control."""
        if fg_load(&self.row.identity) != identity:
            fg_store(&self.row.health, 0)
            fg_store(&self.row.failures, 0)
            fg_store(&self.row.ejected_until_ns, 0)
            fg_store(&self.row.ejections, 0)
            fg_store(&self.row.failing_since_ns, 0)
            fg_store(&self.row.ejected, 0)
            fg_store(&self.row.started_ns, 0)
            fg_store(&self.row.identity, identity)

    @property
    def identity(self):
        return fg_load(&self.row.identity)

    @property
    def health(self):
        return fg_load(&self.row.health)

    @health.setter
    def health(self, uint64_t value):
        if value > 2:
            raise ValueError(f"health {value} of a target: 0 unknown, 1 healthy, 2 unhealthy")
        fg_store(&self.row.health, value)

    @property
    def failures(self):
        return fg_load(&self.row.failures)

    @failures.setter
    def failures(self, uint64_t value):
        fg_store(&self.row.failures, value)

    @property
    def ejected_until_ns(self):
        return fg_load(&self.row.ejected_until_ns)

    @ejected_until_ns.setter
    def ejected_until_ns(self, uint64_t value):
        fg_store(&self.row.ejected_until_ns, value)

    @property
    def started_ns(self):
        return fg_load(&self.row.started_ns)

    @started_ns.setter
    def started_ns(self, uint64_t value):
        fg_store(&self.row.started_ns, value)

    @property
    def ejections(self):
        return fg_load(&self.row.ejections)

    @property
    def ejected(self):
        return fg_load(&self.row.ejected)


cdef class Segment:
    """The mapped segment. Created by `create` or `attach`; the mapping lives as long as the object.

    `fd` is the memfd, close-on-exec; forked children inherit the mapping itself.
    """

    def __cinit__(self):
        self.fd = -1
        self.base = NULL
        self.header = NULL

    def __init__(self):
        if self.header is NULL:
            raise TypeError("use Segment.create() or Segment.attach()")

    def __dealloc__(self):
        if self.base is not NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            close(self.fd)

    @classmethod
    def create(cls, uint32_t workers, *, uint64_t limiter_cells=2**18, uint64_t quota_cells=2**17,
               uint64_t targets=4096, uint64_t route_rows=1024,
               uint64_t concurrency_cells=4096, uint64_t log_records=4096,
               uint64_t accounts=65536):
        """Create a segment, all zero, for this many workers (1 to 64).

        The counts of cells and log records are powers of two; use twice as many cells as there are keys
        alive at once. `concurrency_cells` and `log_records` are per worker. Raises SegmentError.
        """
        cdef segment_header h
        cdef Segment self = Segment.__new__(Segment)
        memset(&h, 0, sizeof(h))
        memcpy(h.magic, MAGIC, 8)
        h.version = SEGMENT_VERSION
        h.workers = workers
        h.limiter_count = limiter_cells
        h.quota_count = quota_cells
        h.targets_count = targets
        h.route_rows = route_rows
        h.concurrency_count = concurrency_cells
        h.logring_count = log_records
        h.accounts_count = accounts
        _check_counts(&h)
        _lay_out(&h)
        boot = os.urandom(16)
        memcpy(h.boot_id, <const char *>boot, 16)
        try:
            self.fd = os.memfd_create("fastgate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, h.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS,
                        fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError as error:
            raise SegmentError(f"the shared segment ({h.size} bytes) cannot be created: {error}") from error
        self._map(h.size, MAP_SHARED)
        memcpy(self.base, &h, sizeof(h))
        self._advise()
        return self

    @classmethod
    def attach(cls, int fd):
        """Map the segment behind a descriptor. The descriptor is duplicated, not taken over.

        Raises SegmentError if it is not a segment, is incomplete, or is of another build.
        """
        cdef Segment self = Segment.__new__(Segment)
        cdef segment_header h
        try:
            self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            size = os.fstat(self.fd).st_size
        except OSError as error:
            raise SegmentError(f"descriptor {fd} is not a shared segment: {error}") from error
        if size < PAGE:
            raise SegmentError(f"descriptor {fd} is not a shared segment: it has {size} bytes")
        self._map(size, MAP_SHARED)
        memcpy(&h, self.base, sizeof(h))
        if memcmp(h.magic, MAGIC, 8) != 0:
            raise SegmentError(f"descriptor {fd} is not a shared segment: it begins with other bytes")
        if h.version != SEGMENT_VERSION:
            raise SegmentError(
                f"the shared segment is of version {h.version}, but this build reads version {SEGMENT_VERSION}")
        _check_counts(&h)
        _lay_out(&h)
        if memcmp(&h, self.base, sizeof(h)) != 0:
            # Generation and draining may have changed since; only the layout counts.
            memcpy(&h.generation, &self.header.generation, 16)
            if memcmp(&h, self.base, sizeof(h)) != 0:
                raise SegmentError("the shared segment has another layout: it was made by another build")
        if h.size != <uint64_t>size:
            raise SegmentError(f"the shared segment has {size} bytes instead of {h.size}")
        self._advise()
        return self

    def private_copy(self):
        """The segment as it is now, for one process alone: pages are shared until this object's owner
        writes to them, and no other process sees the changes. Freed with the object."""
        cdef Segment copy = Segment.__new__(Segment)
        copy.fd = fcntl.fcntl(self.fd, fcntl.F_DUPFD_CLOEXEC, 3)
        copy._map(self.size, MAP_PRIVATE)
        copy._advise()
        return copy

    cdef _map(self, size_t size, int sharing):
        cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing, self.fd, 0)
        if p == MAP_FAILED:
            raise SegmentError(f"the shared segment ({size} bytes) cannot be mapped: out of memory?")
        self.base = <char *>p
        self.size = size
        self.header = <segment_header *>p

    cdef _advise(self):
        # Both are hints: a kernel without them works, too.
        madvise(self.base, self.size, MADV_NOHUGEPAGE)
        madvise(self.base, self.size, MADV_DONTDUMP)

    cdef worker_row *worker(self, uint32_t index) noexcept nogil:
        return <worker_row *>(self.base + self.header.workers_off) + index

    cdef target_row *target(self, uint32_t slot) noexcept nogil:
        return <target_row *>(self.base + self.header.targets_off) + slot

    cdef char *worker_area(self, uint32_t index) noexcept nogil:
        return self.base + self.header.per_worker_off + index * self.header.per_worker_size

    # ---- the header ---------------------------------------------------------------------

    @property
    def bytes(self):
        """Size of the mapping. Far less of it is resident."""
        return self.size

    @property
    def workers(self):
        return self.header.workers

    @property
    def boot_id(self):
        """16 random bytes, in hex, different for each start of a gateway."""
        return (<char *>self.header.boot_id)[:16].hex()

    @property
    def limiter_cells(self):
        return self.header.limiter_count

    @property
    def quota_cells(self):
        return self.header.quota_count

    @property
    def targets(self):
        return self.header.targets_count

    @property
    def route_rows(self):
        return self.header.route_rows

    @property
    def concurrency_cells(self):
        return self.header.concurrency_count

    @property
    def log_records(self):
        return self.header.logring_count

    @property
    def accounts(self):
        return self.header.accounts_count

    @property
    def generation(self):
        """The newest published generation. Writer: control."""
        return fg_load(&self.header.generation)

    @generation.setter
    def generation(self, uint64_t value):
        fg_store(&self.header.generation, value)

    @property
    def draining(self):
        """1 while the gateway shuts down: readiness answers 503. Writer: supervisor."""
        return fg_load(&self.header.draining)

    @draining.setter
    def draining(self, uint64_t value):
        fg_store(&self.header.draining, value)

    @property
    def layout(self):
        """Where the areas begin: offset in the segment by name. Worker i's own areas are
        i * "per_worker_size" further."""
        cdef segment_header *h = self.header
        return {
            "workers": h.workers_off,
            "accounts": h.accounts_off,
            "limiter": h.limiter_off,
            "quota": h.quota_off,
            "targets": h.targets_off,
            "counters": h.per_worker_off + h.counters_at,
            "concurrency": h.per_worker_off + h.concurrency_at,
            "logring": h.per_worker_off + h.logring_at,
            "per_worker_size": h.per_worker_size,
        }

    # ---- rows ---------------------------------------------------------------------------

    def worker_row(self, uint32_t index):
        """The live view of a worker's row. Raises IndexError."""
        cdef WorkerRow view
        if index >= self.header.workers:
            raise IndexError(f"worker {index} of {self.header.workers}")
        view = WorkerRow.__new__(WorkerRow)
        view.segment = self
        view.index = index
        view.row = self.worker(index)
        return view

    def target_row(self, uint32_t slot):
        """The live view of a target's row. Raises IndexError."""
        cdef TargetRow view
        if slot >= self.header.targets_count:
            raise IndexError(f"target {slot} of {self.header.targets_count}")
        view = TargetRow.__new__(TargetRow)
        view.segment = self
        view.slot = slot
        view.row = self.target(slot)
        return view

    # ---- for the supervisor ---------------------------------------------------------------

    def worker_started(self, uint32_t index, uint64_t pid):
        """Record a worker's start. It may already be running: its own words are not changed.

        Its heartbeat counts from now on, so that a worker that hangs before its first one is noticed.
        """
        cdef worker_row *row
        cdef uint64_t none = 0
        if index >= self.header.workers:
            raise IndexError(f"worker {index} of {self.header.workers}")
        row = self.worker(index)
        fg_store(&row.starts, fg_load(&row.starts) + 1)
        fg_cas(&row.heartbeat_ns, &none, now_ns())
        none = 0
        fg_cas(&row.state, &none, 1)
        fg_store(&row.pid, pid)

    def worker_stopped(self, uint32_t index):
        """Drop the state that a dead worker (reaped: it cannot write any more) counted as its own.

        Its in-flight counts, connections, generation and heartbeat become zero; counters,
        histograms, log records and `starts` stay, and its successor continues them.
        """
        cdef worker_row *row
        if index >= self.header.workers:
            raise IndexError(f"worker {index} of {self.header.workers}")
        row = self.worker(index)
        fg_store(&row.pid, 0)
        fg_store(&row.state, 0)
        fg_store(&row.generation, 0)
        fg_store(&row.heartbeat_ns, 0)
        fg_store(&row.connections, 0)
        fg_store(&row.in_flight, 0)
        fg_store(&row.upstream_idle, 0)
        fg_store(&row.upcalls, 0)
        fg_store(&row.streams, 0)
        fg_store(&row.credentials_epoch, 0)
        zero_pages(self.worker_area(index) + self.header.concurrency_at,
                   self.header.logring_at - self.header.concurrency_at)

    def clear_worker(self, uint32_t index):
        """The same as `worker_stopped`."""
        self.worker_stopped(index)

    def heartbeat_age(self, uint32_t index):
        """Seconds since the worker's last heartbeat; None: there is no worker, or no heartbeat since its start."""
        cdef uint64_t beat, now = now_ns()
        if index >= self.header.workers:
            raise IndexError(f"worker {index} of {self.header.workers}")
        beat = fg_load(&self.worker(index).heartbeat_ns)
        if beat == 0:
            return None
        return (now - beat) / 1e9 if now > beat else 0.0
