"""layout: the file-backed memory for money in progress: holds and usage records.

    header | control's area: head, holds | worker 0: head, holds, usage ring | worker 1 ...

Layout, file and recovery: money_file.pyx. The life of a hold: holds.pyx. The ring: usage_ring.pyx.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.platform.atomics cimport fg_load, fg_store, fg_write_after
from fastgate._core.shared.layout cimport segment_header

cdef extern from *:
    int fg_lowest "__builtin_ctzll" (uint64_t bits) noexcept nogil

cdef enum:
    MONEY_VERSION = 1
    AREAS_MAX = 65                # control and 64 workers
    CONTROL_AREA = 0              # worker w has area w + 1
    HOLDS_MAX = 4096              # rows of an area, at most
    NUMBER_BITS = 56              # of a usage id's second word; the area is above them

cpdef enum HoldState:             # transitions: holds.pyx
    HOLD_FREE = 0
    HOLD_INTENT = 1
    HOLD_HELD = 2
    HOLD_SETTLING = 3
    HOLD_SETTLED = 4
    HOLD_PARKED = 5

cpdef enum HoldPolicy:            # what happens to a hold whose worker died before settling it
    POLICY_DUE = 0                # charge what hold_due recorded, give back the rest
    POLICY_CHARGE = 1             # charge all of it
    POLICY_RELEASE = 2            # charge nothing

cpdef enum UsageFlag:
    USAGE_CAPTURED = 1            # it was charged for
    USAGE_FREE = 2                # it was free
    USAGE_REFUNDED = 4            # set by control, never here
    USAGE_RECOVERED = 8           # its worker died before it could settle it

cdef struct money_record:         # 128 bytes: a row of the hold table, and a record of the ring
    uint64_t word                 # hold: sequence << 8 | HoldState. Ring: position + 1
    uint64_t boot                 # id, first word: of the boot in which it began
    uint64_t number               # id, second word: area << 56 | sequence
    int64_t time_ns               # Unix time: of opening, then of settling
    int64_t held                  # micro-units taken from the wallet. Credits: the delta, negated
    int64_t amount                # micro-units charged; while HELD: what is due if the worker dies
    uint64_t account              # identities
    uint64_t consumer
    uint64_t credential
    uint32_t account_slot
    uint32_t route_slot           # slots, or NONE32
    uint32_t service_slot
    uint32_t plan_slot
    uint32_t currency             # as in account_row; 0: no money
    uint16_t status               # of the answer
    uint8_t flags                 # UsageFlag; 0 in a settling hold: released, without a record
    uint8_t wallet                # index of the wallet
    uint64_t units                # of the meter; for the request itself: 1, or what its handler reported
    uint8_t request_id[16]        # credits: the key of the ledger's entry
    uint64_t meter                # identity of the meter; 0: the request itself

cdef struct area_head:            # one page; a cache line for each writer
    # the worker's
    uint64_t sequence             # the last one given to a hold or a record
    uint64_t ring_head            # records ever published
    uint64_t parked               # holds ever parked because the ring was full
    uint64_t dropped              # usage records for which there was no room at all
    uint64_t refused              # holds that found no free row
    uint64_t top                  # rows from this one on have not been used since the table was scanned
    uint64_t _1[2]
    # control's
    uint64_t ring_tail            # records that the ledger has
    uint64_t returned             # rows that processes other than the worker freed
    uint64_t _2[6]
    # the supervisor's, and the worker's when it begins
    uint64_t dead_upto            # holds up to this sequence belong to dead workers
    uint64_t _3[7]

cdef struct money_header:         # 4096 bytes
    uint8_t magic[8]              # "FGMONEY\0"
    uint32_t version
    uint32_t workers
    uint64_t size
    uint64_t boot                 # random, new each time a gateway starts; never 0
    uint64_t boots                # how often a gateway started
    uint64_t holds                # rows of each area
    uint64_t ring                 # records of each ring, a power of two
    uint64_t control_off          # control's area
    uint64_t workers_off          # worker w's: workers_off + w * area_size
    uint64_t area_size
    uint64_t holds_at             # within an area
    uint64_t ring_at
    uint64_t owned_until_ns       # CLOCK_MONOTONIC: after it, nothing may be held; 0: no limit

cdef struct area_view:                 # a process's view of one area; only its owner may open and settle holds
    money_header *money
    segment_header *segment       # NULL: not bound
    area_head *head
    money_record *holds
    money_record *ring            # NULL: control's
    uint64_t ring_mask
    uint32_t area
    uint32_t rows
    int begun                     # the bits below are valid
    uint64_t returned             # head.returned when the bits were built
    uint64_t some                 # bit i: free[i] is not 0
    uint64_t free[64]

cdef inline area_head *area_of(money_header *m, uint32_t area) noexcept nogil:
    if area == CONTROL_AREA:
        return <area_head *>(<char *>m + m.control_off)
    return <area_head *>(<char *>m + m.workers_off + (area - 1) * m.area_size)

cdef inline money_record *holds_of(money_header *m, uint32_t area) noexcept nogil:
    return <money_record *>(<char *>area_of(m, area) + m.holds_at)

cdef inline money_record *ring_of(money_header *m, uint32_t area) noexcept nogil:
    return <money_record *>(<char *>area_of(m, area) + m.ring_at)

# ---- rows of the hold table, for the owner of the view -------------------------------------------
cdef void rows_scan(area_view *t) noexcept nogil

cdef inline money_record *row_take(area_view *t) noexcept nogil:
    """The lowest free row, so that the same few stay in the caches; NULL: all are in use.

    Rows that control freed are looked for when the others are used up: rarely, and then once."""
    cdef int i, j
    if t.some == 0:
        if fg_load(&t.head.returned) == t.returned:
            return NULL
        rows_scan(t)
        if t.some == 0:
            return NULL
    i = fg_lowest(t.some)
    j = fg_lowest(t.free[i])
    t.free[i] &= t.free[i] - 1
    if t.free[i] == 0:
        t.some &= t.some - 1
    if <uint64_t>(i * 64 + j) >= t.head.top:
        fg_store(&t.head.top, <uint64_t>(i * 64 + j + 1))
    fg_write_after()       # a reader of what is filled in now finds the word that freed the row, or a later one
    return t.holds + (i * 64 + j)

cdef inline void row_give(area_view *t, money_record *r) noexcept nogil:
    cdef uint64_t n = <uint64_t>(r - t.holds)
    t.free[n >> 6] |= <uint64_t>1 << (n & 63)
    t.some |= <uint64_t>1 << (n >> 6)

cdef inline uint64_t next_sequence(area_view *t) noexcept nogil:
    """Recorded before it is used, so a successor never uses it again."""
    cdef uint64_t sequence = t.head.sequence + 1
    fg_store(&t.head.sequence, sequence)
    return sequence

cdef inline void number_record(area_view *t, money_record *r, uint64_t sequence) noexcept nogil:
    r.boot = t.money.boot
    r.number = <uint64_t>t.area << NUMBER_BITS | sequence
