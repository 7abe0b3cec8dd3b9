"""money_file: a mapped file that survives every process: money between wallets and the ledger.

    offset 0      money_header                                              one page
    control_off   area_head | rows of control: credits in progress          one page, then 128 bytes each
    workers_off   area_head | holds of worker 0 | usage ring of worker 0    one page, 128 bytes, 128 bytes
    + area_size   area_head | holds of worker 1 | usage ring of worker 1
    ...

A row of the hold table and a record of the ring have the same 128 bytes, so a settled hold is just
copied. Every word has one writer, or is changed by one atomic operation (holds.pyx,
usage_ring.pyx).

**Why a file.** The segment ends with the supervisor; charges must not. The file is mapped shared,
so data of a process stays after the process is killed, and after all of them are. Its blocks are
allocated when it is created: a full disk is an error at the start, and never a bus error in a
request. Without a path the map is a memfd, for tests and for gateways that keep no state.

**When the machine loses power**, pages that the kernel had not written are lost: the last usage
records, in the customer's favour. Records are checked when they are read back (`word`), and ids are
never reused, since each start has another `boot`.

**Restart** (`open`). At this time, wallets are rebuilt from the ledger, and no worker runs. So
nothing is released: a captured hold becomes PARKED and is drained; a hold that was not captured is
settled by policy (the due amount is charged, which also parks it, or it is dropped); rows of
credits are dropped, since the ledger knows which of them it has. Rings keep records not drained.
The file never shrinks: a gateway with fewer workers also drains the areas of the others.

**One gateway per file**: it is locked (flock) while any process of the gateway has it open.

**Dead owners.** A worker that starts, and the supervisor after it has reaped one, record the last
used sequence in `dead_upto`. Holds up to this sequence have no owner; later ones belong to the
successor. So control may resolve the holds of dead workers while the successors serve.
"""
import fcntl
import os

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MADV_DONTDUMP, MADV_NOHUGEPAGE, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap,
    munmap,
)
from posix.unistd cimport close

from fastgate._core.platform.atomics cimport fg_load, fg_store
from fastgate._core.money.layout cimport (
    AREAS_MAX, CONTROL_AREA, HOLDS_MAX, HOLD_FREE, HOLD_HELD, HOLD_INTENT, HOLD_PARKED,
    HOLD_SETTLED, HOLD_SETTLING, MONEY_VERSION, POLICY_CHARGE, POLICY_RELEASE, USAGE_CAPTURED,
    USAGE_FREE, USAGE_RECOVERED, area_head, area_of, holds_of, money_record, ring_of)
from fastgate._core.shared.layout cimport MAX_WORKERS, PAGE

from fastgate._core.money.layout import POLICIES
from fastgate.errors import SegmentError

if sizeof(money_record) != 128 or sizeof(area_head) != 192 or AREAS_MAX != MAX_WORKERS + 1:
    raise AssertionError("the money map's structs do not have the sizes that its layout needs")

cdef const char *MAGIC = b"FGMONEY\0"
cdef enum:
    RING_MOST = 1 << 24           # records; 2 GiB per worker
    STATE_BITS = 0xFF


cdef uint64_t _pages(uint64_t size) noexcept nogil:
    return (size + PAGE - 1) & ~<uint64_t>(PAGE - 1)


cdef void _lay_out(money_header *h) noexcept nogil:
    """Compute all offsets and the size from the counts."""
    cdef uint64_t table = _pages(h.holds * sizeof(money_record))
    h.control_off = PAGE
    h.holds_at = PAGE
    h.ring_at = PAGE + table
    h.workers_off = h.control_off + PAGE + table
    h.area_size = h.ring_at + _pages(h.ring * sizeof(money_record))
    h.size = h.workers_off + h.workers * h.area_size


cdef _check_counts(const money_header *h):
    if not 1 <= h.workers <= MAX_WORKERS:
        raise SegmentError(f"workers={h.workers}: a money map has 1 to {MAX_WORKERS} workers")
    if not 1 <= h.holds <= HOLDS_MAX:
        raise SegmentError(f"holds={h.holds}: must be between 1 and {HOLDS_MAX}")
    if not 1 <= h.ring <= RING_MOST or h.ring & (h.ring - 1):
        raise SegmentError(f"ring={h.ring}: must be a power of two, at most {RING_MOST}")


cdef money_header _header(uint32_t workers, uint64_t holds, uint64_t ring):
    cdef money_header h
    memset(&h, 0, sizeof(h))
    memcpy(h.magic, MAGIC, 8)
    h.version = MONEY_VERSION
    h.workers = workers
    h.holds = holds
    h.ring = ring
    h.boot = _draw_boot()
    h.boots = 1
    _check_counts(&h)
    _lay_out(&h)
    return h


cdef uint64_t _draw_boot() except? 0:
    return int.from_bytes(os.urandom(8), "little") | 1


cdef _check_header(const money_header *h, uint64_t size, str where):
    """Raises SegmentError unless it is the header of a map of this build and size."""
    cdef money_header same = h[0]
    if memcmp(h.magic, MAGIC, 8) != 0:
        raise SegmentError(f"{where} is not a money map: it begins with other bytes")
    if h.version != MONEY_VERSION:
        raise SegmentError(f"{where} is a money map of version {h.version}, but this build reads version "
                           f"{MONEY_VERSION}: let the build that made it write its records to the "
                           "ledger, then move the file away")
    _check_counts(h)
    _lay_out(&same)
    if memcmp(&same, h, sizeof(same)) != 0 or size < h.size:
        raise SegmentError(f"{where} is a money map that is damaged, or was made by another build")


cdef class MoneyFile:
    """The mapped file. This class is the mapping alone; use `MoneyMap`.

    `fd` is close-on-exec and owned by the object; forked children inherit the mapping.
    """

    def __cinit__(self):
        self.fd = -1
        self.base = NULL
        self.views = <area_view *>calloc(AREAS_MAX, sizeof(area_view))
        if self.views == NULL:
            raise MemoryError

    def __init__(self):
        if self.base == NULL:
            raise TypeError("use MoneyMap.create(), MoneyMap.open() or MoneyMap.attach()")

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.fd >= 0:
            close(self.fd)
        free(self.views)

    @classmethod
    def create(cls, path, uint32_t workers, *, uint64_t holds=HOLDS_MAX, uint64_t ring=2**16):
        """Create a new map: a file at `path`, or a memfd if that is None.

        `holds`: rows of each worker, 1 to 4,096: how many paid requests it may have in progress.
        `ring`: usage records that a worker may have waiting, a power of two. Raises SegmentError,
        also if the file exists already.
        """
        cdef MoneyFile self = cls.__new__(cls)
        cdef money_header h = _header(workers, holds, ring)
        try:
            if path is None:
                self.fd = os.memfd_create("fastgate-money", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                os.ftruncate(self.fd, h.size)
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
                os.pwrite(self.fd, (<char *>&h)[:sizeof(h)], 0)
            else:
                # Under another name until it is complete, so a kill here leaves no incomplete map.
                path = os.fspath(path)
                draft = f"{path}.new"
                self.fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._lock()
                try:
                    os.ftruncate(self.fd, 0)
                    os.posix_fallocate(self.fd, 0, h.size)
                    os.pwrite(self.fd, (<char *>&h)[:sizeof(h)], 0)
                    os.fsync(self.fd)
                    os.link(draft, path)
                finally:
                    os.unlink(draft)
        except FileExistsError as error:
            raise SegmentError(f"there is already a money map at {path}: open() it") from error
        except OSError as error:
            raise SegmentError(f"the money map {path} ({h.size} bytes) cannot be created: {error}") from error
        self._map(h.size, MAP_SHARED)
        self._open_views()
        return self

    @classmethod
    def open(cls, path, uint32_t workers, *, policy="due", uint64_t holds=HOLDS_MAX,
             uint64_t ring=2**16):
        """Map the file of an earlier start, or create it. No worker may run yet.

        What the earlier start left in progress is settled by `policy` (as in `MoneyMap.resolve_dead`; see
        "Restart" in the module), and `drain` returns it. `holds` and `ring` are for a new file.
        Raises SegmentError, also if another gateway has the file open.
        """
        cdef MoneyFile self
        cdef money_header h
        cdef int how = POLICIES[policy]
        path = os.fspath(path)
        if not os.path.exists(path):
            return cls.create(path, workers, holds=holds, ring=ring)
        self = cls.__new__(cls)
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._lock()
            head = os.pread(self.fd, sizeof(money_header), 0)
            if len(head) < <int>sizeof(money_header):
                raise SegmentError(f"{path} is not a money map: it has {len(head)} bytes")
            memcpy(&h, <const char *>head, sizeof(h))
            _check_header(&h, os.fstat(self.fd).st_size, path)
            if workers > h.workers:
                h.workers = workers
                _check_counts(&h)
                _lay_out(&h)
                os.posix_fallocate(self.fd, 0, h.size)
            h.boot = _draw_boot()
            h.boots += 1
            h.owned_until_ns = 0
            os.pwrite(self.fd, (<char *>&h)[:sizeof(h)], 0)
        except OSError as error:
            raise SegmentError(f"the money map {path} cannot be opened: {error}") from error
        self._map(h.size, MAP_SHARED)
        self._open_views()
        for area in range(h.workers + 1):
            _start_again(self.views + <uint32_t>area, how)
        return self

    @classmethod
    def attach(cls, int fd):
        """Map what another process of this gateway created. The descriptor is duplicated.

        Raises SegmentError if it is not a map of this build."""
        cdef MoneyFile self = cls.__new__(cls)
        cdef money_header h
        try:
            self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            head = os.pread(self.fd, sizeof(money_header), 0)
            size = os.fstat(self.fd).st_size
        except OSError as error:
            raise SegmentError(f"descriptor {fd} is not a money map: {error}") from error
        if len(head) < <int>sizeof(money_header):
            raise SegmentError(f"descriptor {fd} is not a money map: it has {len(head)} bytes")
        memcpy(&h, <const char *>head, sizeof(h))
        _check_header(&h, size, f"descriptor {fd}")
        self._map(h.size, MAP_SHARED)
        self._open_views()
        return self

    cdef _lock(self):
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SegmentError("another gateway uses this money map, or processes of an earlier "
                               "one still run") from error

    def private_copy(self, Segment segment not None):
        """A private copy of the map, bound to that segment: no other process sees changes to it (see
        `Segment.private_copy`)."""
        cdef MoneyFile copy = type(self).__new__(type(self))
        cdef int fd = self.fd
        copy.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        copy._map(self.size, MAP_PRIVATE)
        copy._open_views()
        copy.bind(segment)
        return copy

    cdef _map(self, size_t size, int sharing):
        cdef void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing, self.fd, 0)
        if p == MAP_FAILED:
            raise SegmentError(f"the money map ({size} bytes) cannot be mapped: out of memory?")
        self.base = <char *>p
        self.size = size
        self.header = <money_header *>p
        # These are hints: a kernel without them works, too.
        madvise(self.base, size, MADV_NOHUGEPAGE)
        madvise(self.base, size, MADV_DONTDUMP)

    cdef _open_views(self):
        cdef uint32_t area
        cdef area_view *t
        for area in range(self.header.workers + 1):
            t = self.views + area
            t.money = self.header
            t.head = area_of(self.header, area)
            t.holds = holds_of(self.header, area)
            t.area = area
            t.rows = <uint32_t>self.header.holds
            if area != CONTROL_AREA:
                t.ring = ring_of(self.header, area)
                t.ring_mask = self.header.ring - 1

    cdef area_view *worker_view(self, uint32_t worker) noexcept nogil:
        return self.views + (worker + 1)

    cdef area_view *control_view(self) noexcept nogil:
        return self.views

    cdef _check_worker(self, uint32_t worker):
        if worker >= self.header.workers:
            raise IndexError(f"worker {worker} of {self.header.workers}")

    def bind(self, Segment segment not None) -> None:
        """Set the segment that has the wallets. Call it before anything is held, credited or resolved."""
        cdef uint32_t area
        self.segment = segment
        for area in range(self.header.workers + 1):
            self.views[area].segment = segment.header

    @property
    def workers(self) -> int:
        """Areas of workers; more than the number of workers if an earlier start had more."""
        return self.header.workers

    @property
    def boot_id(self) -> str:
        """16 hex digits, different after each start: the beginning of the ids of this start's
        records."""
        return f"{self.header.boot:016x}"

    @property
    def owned_until_ns(self) -> int:
        """CLOCK_MONOTONIC: until when workers of this start may hold money; 0: no limit."""
        return fg_load(&self.header.owned_until_ns)

    @owned_until_ns.setter
    def owned_until_ns(self, uint64_t value):
        fg_store(&self.header.owned_until_ns, value)

    @property
    def boots(self) -> int:
        """How often a gateway was started on this map."""
        return self.header.boots

    @property
    def holds(self) -> int:
        """Rows of each worker's hold table."""
        return self.header.holds

    @property
    def ring(self) -> int:
        """Records of each worker's ring."""
        return self.header.ring

    @property
    def bytes(self) -> int:
        """Size of the mapping."""
        return self.size


cdef void _start_again(area_view *t, int policy) noexcept nogil:
    """Settle the rows of an earlier start, when they no longer affect any wallet."""
    cdef money_record *r
    cdef uint64_t state, sequence
    cdef uint32_t i
    for i in range(t.rows):
        r = t.holds + i
        state = r.word & STATE_BITS
        sequence = r.word >> 8
        if t.area == CONTROL_AREA or state == HOLD_INTENT:
            fg_store(&r.word, sequence << 8 | HOLD_FREE)
            continue
        if state == HOLD_HELD:
            if policy == POLICY_CHARGE:
                r.amount = r.held
            elif policy == POLICY_RELEASE or not 0 <= r.amount <= r.held:
                r.amount = 0
            r.flags = USAGE_RECOVERED | (USAGE_CAPTURED if r.amount else USAGE_FREE)
        elif state == HOLD_SETTLING or state == HOLD_SETTLED:
            r.flags = r.flags | USAGE_RECOVERED if r.flags else 0
        else:
            continue
        fg_store(&r.word, sequence << 8 | (HOLD_PARKED if r.flags else HOLD_FREE))
    fg_store(&t.head.dead_upto, t.head.sequence)
