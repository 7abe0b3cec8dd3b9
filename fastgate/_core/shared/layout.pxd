"""layout: what is in the shared segment, and where: all of its structs, and no code.

    header | worker rows | accounts | limiter cells | quota cells | targets
           | per worker: counters, concurrency cells, log ring

There are no locks: each word has one writer, or is changed by one atomic operation. Drawing and
invariants: segment.pyx. The records of the log ring are in log_ring.pxd.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.reason cimport REASON_COUNT

cdef enum:
    MAX_WORKERS = 64
    SEGMENT_VERSION = 7
    PAGE = 4096
    LOGRING_HEAD = 4096           # bytes reserved before the log ring's records, at most
    LOG_RECORD = 512              # bytes: sizeof(log_record)

cdef struct worker_row:           # 128 bytes; writer: the worker (pid, starts: supervisor)
    uint64_t pid                  # 0: not running
    uint64_t generation           # of the snapshot that it serves
    uint64_t heartbeat_ns         # CLOCK_MONOTONIC, refreshed every half second
    uint64_t connections          # downstream connections now
    uint64_t in_flight            # exchanges now
    uint64_t upstream_idle        # pooled connections now
    uint64_t starts               # how often a worker with this index was started
    uint64_t state                # 0 none, 1 starting, 2 serving, 3 draining
    uint64_t credentials_epoch    # of the credential index that it uses
    uint64_t upcalls              # handlers that have not begun to answer
    uint64_t streams              # handlers that answer as a stream
    uint64_t load_permille        # of its marks for shedding
    uint64_t reserved[4]

cdef struct target_row:           # 64 bytes; shared health of one upstream target
    uint64_t identity             # target_rec.identity that it belongs to
    uint64_t health               # 0 unknown (usable), 1 healthy, 2 unhealthy. Writer: control
    uint64_t failures             # in a row, over all workers; a success resets it
    uint64_t ejected_until_ns     # CLOCK_MONOTONIC; passive ejection
    uint64_t ejections            # since the last success
    uint64_t failing_since_ns     # when the series of failures began
    uint64_t ejected              # how often it was ejected since it got this row
    uint64_t started_ns           # since when it is usable, for slow start; 0: always. Writer: control

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

# ---- limits: cells.pyx -----------------------------------------------------------------
cdef enum:
    GROUP = 8                 # adjacent cells: two cache lines
    WINDOW = 16               # cells that a key may be in: two groups

cdef struct cell:
    uint64_t key              # 0: empty
    uint64_t state

cdef struct cells_head:       # the 64 bytes before a table's first cell
    uint64_t ticket           # the next claim's number
    uint64_t full             # how often there was no free cell, over all processes
    uint64_t reserved[6]

# ---- requests in flight: concurrency.pyx ------------------------------------------------
cdef struct concurrency_head:     # 64 bytes, before a worker's rows; writer: the worker
    uint64_t bound                # a key in use is at most bound - 1 rows after its home
    uint64_t used                 # rows in use
    uint64_t full                 # entries refused because the table was full
    uint64_t reserved[5]

cdef struct concurrency_row:      # 16 bytes
    uint64_t key                  # 0: free
    uint64_t word                 # in flight | entering << 32

# ---- counters: counters.pyx -------------------------------------------------------------
cdef enum:
    STATUS_SLOTS = 64
    OUTCOMES = STATUS_SLOTS + REASON_COUNT
    BUCKETS = 28              # histogram: bucket i counts durations < 2^i * 16 microseconds; last: the rest

cdef struct histogram:
    uint64_t buckets[BUCKETS]
    uint64_t sum_ns
    uint64_t count

cpdef enum MirrorResult:
    MIRROR_SENT = 0               # it was answered
    MIRROR_FAILED = 1             # no answer came
    MIRROR_DROPPED = 2            # too many were in progress
    MIRROR_TOO_LONG = 3           # its body is
    MIRROR_RESULTS = 4

cdef struct route_counters:
    uint64_t outcomes[OUTCOMES]   # without a Reason: by status; else STATUS_SLOTS + Reason
    histogram gateway             # accept of the head → last byte handed to the kernel, less upstream
    histogram total
    histogram upstream            # request sent → response head
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t delays               # faults that were injected
    uint64_t aborts
    uint64_t validated            # requests that passed validation
    uint64_t mirrored[MIRROR_RESULTS]
    uint64_t turn                 # of a service in a split: where its turns stand (split.pyx); no count
    uint64_t shed                 # requests that were refused under load

cdef enum:
    TOKEN_ROWS = 16
    TOKEN_RESULTS = 4

cpdef enum TokenResult:
    TOKEN_KNOWN = 0               # good, as was known
    TOKEN_VERIFIED = 1            # good, as was found out
    TOKEN_REFUSED = 2
    TOKEN_FOUND_REVOKED = 3

cdef struct worker_counters:
    uint64_t accepted
    uint64_t closed
    uint64_t requests
    uint64_t refused
    uint64_t upstream_connects
    uint64_t upstream_connect_failures
    uint64_t upstream_reused
    uint64_t retries
    uint64_t limiter_allowed
    uint64_t limiter_refused
    uint64_t quota_allowed
    uint64_t quota_refused
    uint64_t concurrency_refused
    uint64_t ring_drops
    uint64_t upcalls
    uint64_t upcalls_rejected
    uint64_t parse_errors
    uint64_t tunnels
    uint64_t polls
    uint64_t ejections
    uint64_t streams
    uint64_t streams_rejected
    uint64_t rows_used            # route rows below this one may hold counts (set by counters_route)
    uint64_t beyond_micros        # price of what handlers reported beyond what they held
    uint64_t connections_refused  # by a listener's limit of connections
    uint64_t connections_uncounted    # let in past it: the table of counts was crowded
    uint64_t handshakes_refused   # by a listener's limit of TLS handshakes
    uint64_t handshakes_dropped   # by caps.handshakes
    uint64_t bad_proxy_headers
    uint64_t handshakes[2][2][2]  # of TLS: with clients, upstreams; version 1.2, 1.3; full, resumed
    uint64_t handshakes_failed[2]
    uint64_t tokens[TOKEN_ROWS][TOKEN_RESULTS]    # by their issuer's row, the first for those of no issuer; TokenResult
    uint64_t queued               # requests that waited for room at a target
    uint64_t queue_refused        # that found the queue full
    uint64_t queue_timeouts       # that waited in vain
    uint64_t reserved[46]
    histogram upcall_lag          # how long each step of a handler kept the worker from polling

# ---- accounts: money/wallet.pyx ----------------------------------------------------------
cdef enum:
    WALLETS = 4
    SUBSCRIPTIONS = 8
    ACCOUNT_LIMITS = 2
    ANY_SERVICE = 0xFFFFFFFF
    SUBSCRIPTION_USED = 1
    BILL_NUMBER = 39

cdef struct wallet:               # 16 bytes, aligned to 16; changed as a whole by one fg_cas16
    int64_t available             # micro-units of the wallet's currency; negative: owed
    uint64_t tag                  # the last change: see holds.pyx

cdef struct subscription:         # 16 bytes, two words, each replaced by one store
    uint32_t service              # slot, or ANY_SERVICE
    uint32_t plan                 # slot
    uint16_t access               # the Reason for refusing it; 0: none
    uint16_t flags                # SUBSCRIPTION_USED; the rest is for control
    uint32_t ended                # Unix seconds since when it is refused; 0: not known

cdef struct owed_bill:                # 64 bytes: the bill that an account owes first, for its refusals to show
    uint64_t version              # odd while it is being written
    int64_t micros                # 0: nothing is open
    uint32_t currency             # as in account_row
    uint32_t due                  # Unix seconds
    uint8_t number_len
    char number[BILL_NUMBER]      # of the invoice

cdef struct account_row:          # 320 bytes. Writer: control, except for `wallets`
    uint64_t identity             # hash of the account's id; 0: a free row
    uint64_t access               # low 16 bits: the Reason for refusing all its requests
    wallet wallets[WALLETS]
    uint32_t currencies[WALLETS]  # three ASCII letters, the first in the lowest byte; 0: no such wallet
    subscription subscriptions[SUBSCRIPTIONS]
    uint64_t limits[ACCOUNT_LIMITS]         # spending limits, as caps in credentials.pxd; 0: none
    uint32_t reserved
    uint32_t slot                 # the row's own number
    uint64_t spare
    owed_bill owed                     # read by refusals only
