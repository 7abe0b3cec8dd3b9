"""shm: the shared segment. One memfd made by the supervisor, mapped by every process.

    header | worker rows | accounts | limiter cells | quota cells | targets
           | per worker: counters, concurrency cells, log ring

No locks anywhere: each word has one writer, or is changed by one atomic operation.
Drawing and invariants: see shm.pyx.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    MAX_WORKERS = 64
    SEGMENT_VERSION = 3

cdef struct worker_row:           # 128 bytes; writer: the worker (pid, starts: supervisor)
    uint64_t pid                  # 0: not running
    uint64_t generation           # of the snapshot it serves
    uint64_t heartbeat_ns         # CLOCK_MONOTONIC, refreshed every half second
    uint64_t connections          # downstream connections now
    uint64_t in_flight            # exchanges now
    uint64_t upstream_idle        # pooled connections now
    uint64_t starts               # how often a worker of this index was started
    uint64_t state                # 0 none, 1 starting, 2 serving, 3 draining
    uint64_t credentials_epoch    # of the credential index it uses
    uint64_t upcalls              # handlers now that have not begun to answer
    uint64_t streams              # handlers now that answer as a stream
    uint64_t reserved[5]

cdef struct target_row:           # 64 bytes; shared health of one upstream target
    uint64_t identity             # target_rec.identity it belongs to
    uint64_t health               # 0 unknown (usable), 1 healthy, 2 unhealthy. Writer: control
    uint64_t failures             # in a row, over all workers; a success sets 0
    uint64_t ejected_until_ns     # CLOCK_MONOTONIC; passive ejection
    uint64_t ejections            # without a success since
    uint64_t failing_since_ns     # when the row of failures began
    uint64_t reserved[2]

cdef struct segment_header:       # 4096 bytes
    uint8_t magic[8]              # "FGSHM\0\0\0"
    uint32_t version
    uint32_t workers              # rows in use
    uint64_t size
    uint64_t boot_id[2]
    uint64_t generation           # newest published generation. Writer: control
    uint64_t draining             # 1: readiness is 503. Writer: supervisor
    uint64_t workers_off
    uint64_t limiter_off          # cells, see cells.pxd
    uint64_t limiter_count        # a power of two
    uint64_t quota_off
    uint64_t quota_count
    uint64_t targets_off
    uint64_t targets_count
    uint64_t per_worker_off       # area of worker i: per_worker_off + i * per_worker_size
    uint64_t per_worker_size
    uint64_t counters_at          # within a worker's area
    uint64_t route_rows           # rows of route counters; the last one is "other"
    uint64_t concurrency_at       # a concurrency_head (concurrency.pxd), then the rows
    uint64_t concurrency_count
    uint64_t logring_at           # up to LOGRING_HEAD bytes for the ring's own words, then the records
    uint64_t logring_count        # records, a power of two
    uint64_t accounts_off         # account_row, see wallet.pxd
    uint64_t accounts_count
    uint64_t clock_offset         # three words of clock.pyx. Writers: the workers
    uint64_t clock_jump
    uint64_t clock_since

cdef enum:
    PAGE = 4096
    LOGRING_HEAD = 4096           # bytes set aside in front of the records, at most

cdef class Segment:
    cdef readonly int fd
    cdef char *base
    cdef size_t size
    cdef segment_header *header
    cdef worker_row *worker(self, uint32_t index) noexcept nogil
    cdef target_row *target(self, uint32_t slot) noexcept nogil
    cdef char *worker_area(self, uint32_t index) noexcept nogil
    cdef _map(self, size_t size, int sharing)
    cdef _advise(self)

cdef void zero_pages(char *p, uint64_t size) noexcept nogil
    # They read as zero afterwards, and where p and size are whole pages take no memory any more.
