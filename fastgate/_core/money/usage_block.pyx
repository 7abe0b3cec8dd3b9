"""usage_block: usage records of one drain, grouped by what they have in common.

A consumer calls the same route with the same key again and again, so the records of a moment differ in
little. What they share is stored once, in the block; the rest of each record is a *line*:

    block   boot, area, day, account, consumer, credential, route, service, plan, currency, meter | sums
    lines   number | time_us | amount | units | status, flags | request id 16
            number ...

Lines are in the order of the ring. Each number is written as the difference from the line before (for the
first line: from 0). The differences are small: most take one octet, and most lines 22. A difference is taken
modulo 2^64, its sign moved to the lowest bit (0, -1, 1, -2 ... become 0, 1, 2, 3), and written seven bits
per octet, the lowest first; the highest bit of an octet means that more follow. Status and flags are one
number, status << 16 | flags.

The ledger stores blocks, not records: a charged request costs control a fraction of a microsecond instead
of a row. A day is in UTC, so that a block belongs to one day.
"""
from typing import NamedTuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint16_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastgate._core.snapshot.currency cimport currency_text
from fastgate._core.platform.atomics cimport fg_prefetch
from fastgate._core.money.layout cimport NUMBER_BITS, USAGE_CAPTURED, USAGE_RECOVERED

cdef enum:
    FAILED = 500                  # statuses from this one on
    LINE_MOST = 64                # octets of a line: at most four differences of 10, one of 5, an id of 16
    LINES_FIRST = 256             # initial octets of a block
    AHEAD = 8                     # how many records ahead memory is prefetched
    ID_SIZE = 16

cdef int64_t DAY_US = 86_400_000_000


class Line(NamedTuple):
    """The part of a record that is not shared.

    `number`: the second word of its id. `time_us`: Unix time in microseconds. `amount`: micro-units
    charged; `units`: of the meter. `request`: the request's id, 16 octets. `status`: of the answer;
    `flags`: UsageFlag.
    """

    number: int
    time_us: int
    amount: int
    units: int
    request: bytes
    status: int
    flags: int


class UsageBlock(NamedTuple):
    """Records that have all of this in common, and their sums.

    `boot`, and `low` to `high`: their ids are the boot (16 hex digits) and a number between these
    (16 more). `first_us`, `last_us`: Unix times in microseconds; `day`: days since 1970. `account`,
    `consumer`, `credential`, `meter`: identities, 0: none. `route`, `service`, `plan`: slots.
    `records`: how many; `failed`: how many were answered with 500 or more; `recovered`: how many are of
    dead workers. `amount`: micro-units. `lines`: see the module.
    """

    boot: int
    low: int
    high: int
    day: int
    first_us: int
    last_us: int
    account: int
    consumer: int
    credential: int
    route: int
    service: int
    plan: int
    currency: str
    meter: int
    records: int
    failed: int
    recovered: int
    units: int
    amount: int
    lines: bytes


cdef struct line:
    uint64_t number               # id, second word: area << 56 | sequence
    uint64_t time_us
    uint64_t amount
    uint64_t units
    uint64_t marks                # status << 16 | UsageFlag
    uint8_t request[ID_SIZE]


cdef struct group:
    const money_record *like      # its first record, for what all have in common
    uint64_t hash
    int64_t day
    uint64_t low
    uint64_t high
    int64_t first_us
    int64_t last_us
    uint64_t records
    uint64_t failed
    uint64_t recovered
    uint64_t units
    int64_t amount
    line before                   # the last line that was written
    uint8_t *lines
    size_t size                   # octets of the lines
    size_t room                   # octets allocated for them


cdef inline uint64_t _mix(uint64_t h, uint64_t value) noexcept nogil:
    h = (h ^ value) * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 29)


cdef inline int64_t _time_us(const money_record *r) noexcept nogil:
    return r.time_ns // 1000


cdef inline uint64_t _hash(const money_record *r, int64_t day) noexcept nogil:
    cdef uint64_t h = _mix(r.boot, r.number >> NUMBER_BITS)
    h = _mix(h, <uint64_t>day)
    h = _mix(h, r.account)
    h = _mix(h, r.consumer)
    h = _mix(h, r.credential)
    h = _mix(h, <uint64_t>r.route_slot << 32 | r.service_slot)
    h = _mix(h, <uint64_t>r.plan_slot << 32 | r.currency)
    return _mix(h, r.meter)


cdef inline bint _alike(const money_record *a, const money_record *b) noexcept nogil:
    return (a.boot == b.boot and a.number >> NUMBER_BITS == b.number >> NUMBER_BITS
            and a.account == b.account and a.consumer == b.consumer and a.credential == b.credential
            and a.route_slot == b.route_slot and a.service_slot == b.service_slot
            and a.plan_slot == b.plan_slot and a.currency == b.currency and a.meter == b.meter)


cdef inline int64_t _charged(const money_record *r) noexcept nogil:
    return r.amount if r.flags & USAGE_CAPTURED else 0


cdef inline void _count(group *g, const money_record *r, int64_t time_us) noexcept nogil:
    if g.records == 0:
        g.low = g.high = r.number
        g.first_us = g.last_us = time_us
    g.low = min(g.low, r.number)
    g.high = max(g.high, r.number)
    g.first_us = min(g.first_us, time_us)
    g.last_us = max(g.last_us, time_us)
    g.records += 1
    g.failed += r.meter == 0 and r.status >= FAILED
    g.recovered += (r.flags & USAGE_RECOVERED) != 0
    g.units += r.units
    g.amount += _charged(r)


# ---- lines ------------------------------------------------------------------------------

cdef inline uint8_t *_put(uint8_t *p, uint64_t value, uint64_t before) noexcept nogil:
    """Write a difference; returns the position after it."""
    cdef int64_t signed = <int64_t>(value - before)
    cdef uint64_t left = <uint64_t>signed << 1 ^ <uint64_t>(signed >> 63)
    while left >= 0x80:
        p[0] = <uint8_t>(left | 0x80)
        p += 1
        left >>= 7
    p[0] = <uint8_t>left
    return p + 1


cdef inline uint8_t *_put_line(uint8_t *p, const line *l, const line *before) noexcept nogil:
    """Write a line, at most LINE_MOST octets; returns the position after it."""
    p = _put(p, l.number, before.number)
    p = _put(p, l.time_us, before.time_us)
    p = _put(p, l.amount, before.amount)
    p = _put(p, l.units, before.units)
    p = _put(p, l.marks, before.marks)
    memcpy(p, l.request, ID_SIZE)
    return p + ID_SIZE


cdef inline const uint8_t *_get(const uint8_t *p, const uint8_t *end, uint64_t *value) noexcept nogil:
    """Add a difference to the value; returns the position after it. NULL: it is invalid."""
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef uint8_t octet
    while p != NULL and p < end and shift < 64:
        octet = p[0]
        p += 1
        if shift == 63 and octet > 1:
            return NULL
        found |= <uint64_t>(octet & 0x7F) << shift
        if octet < 0x80:
            value[0] += found >> 1 ^ (0 - (found & 1))
            return p
        shift += 7
    return NULL


cdef inline const uint8_t *_get_line(const uint8_t *p, const uint8_t *end, line *l) noexcept nogil:
    """Turn the line before this one into the next; returns the position after it. NULL: it is invalid."""
    p = _get(p, end, &l.number)
    p = _get(p, end, &l.time_us)
    p = _get(p, end, &l.amount)
    p = _get(p, end, &l.units)
    p = _get(p, end, &l.marks)
    if p == NULL or end - p < ID_SIZE or l.marks >> 32:
        return NULL
    memcpy(l.request, p, ID_SIZE)
    return p + ID_SIZE


cdef int _write(group *g, const money_record *r, int64_t time_us) except -1 nogil:
    """Write the record's line. Raises MemoryError."""
    cdef line l
    cdef size_t room
    cdef void *more
    if g.room - g.size < LINE_MOST:
        room = max(<size_t>LINES_FIRST, 2 * g.room)
        more = realloc(g.lines, room)
        if more == NULL:
            raise MemoryError
        g.lines = <uint8_t *>more
        g.room = room
    l.number = r.number
    l.time_us = <uint64_t>time_us
    l.amount = <uint64_t>_charged(r)
    l.units = r.units
    l.marks = <uint64_t>r.status << 16 | r.flags
    memcpy(l.request, r.request_id, ID_SIZE)
    g.size = _put_line(g.lines + g.size, &l, &g.before) - g.lines
    g.before = l
    return 0


# ---- blocks -----------------------------------------------------------------------------

cdef list _finished(group *groups, size_t used):
    cdef group *g
    cdef const money_record *r
    cdef size_t i
    blocks = []
    for i in range(used):
        g = groups + i
        r = g.like
        blocks.append(UsageBlock(
            r.boot, g.low, g.high, g.day, g.first_us, g.last_us, r.account, r.consumer, r.credential,
            r.route_slot, r.service_slot, r.plan_slot, currency_text(r.currency), r.meter,
            g.records, g.failed, g.recovered, g.units, g.amount,
            PyBytes_FromStringAndSize(<const char *>g.lines, g.size)))
    return blocks


cdef inline bint _belongs(const group *g, const money_record *r, int64_t day) noexcept nogil:
    return g.day == day and _alike(g.like, r)


cdef list pack_blocks(const money_record **records, size_t count):
    """The records as blocks, in the order of their first records. Raises MemoryError."""
    cdef size_t slots = 16, used = 0, i, at
    cdef uint32_t *table
    cdef group *groups
    cdef group *g = NULL
    cdef uint64_t h
    cdef int64_t time_us, day
    if count == 0:
        return []
    while slots < 2 * count:
        slots *= 2
    table = <uint32_t *>PyMem_Malloc(slots * sizeof(uint32_t))       # index of a group + 1
    groups = <group *>PyMem_Malloc(count * sizeof(group))
    try:
        if table == NULL or groups == NULL:
            raise MemoryError
        memset(table, 0, slots * sizeof(uint32_t))
        with nogil:
            for i in range(count):
                if i + AHEAD < count:
                    fg_prefetch(records[i + AHEAD])
                    fg_prefetch(&records[i + AHEAD].units)          # its second cache line
                time_us = _time_us(records[i])
                day = time_us // DAY_US
                if g == NULL or not _belongs(g, records[i], day):     # not in the last record's block
                    h = _hash(records[i], day)
                    at = h & (slots - 1)
                    while True:
                        if table[at] == 0:
                            g = groups + used
                            memset(g, 0, sizeof(group))
                            g.like = records[i]
                            g.hash = h
                            g.day = day
                            used += 1
                            table[at] = <uint32_t>used
                            break
                        g = groups + (table[at] - 1)
                        if g.hash == h and _belongs(g, records[i], day):
                            break
                        at = (at + 1) & (slots - 1)
                _count(g, records[i], time_us)
                _write(g, records[i], time_us)
        return _finished(groups, used)
    finally:
        for i in range(used):
            free(groups[i].lines)
        PyMem_Free(table)
        PyMem_Free(groups)


# ---- for Python -------------------------------------------------------------------------

def pack_lines(lines) -> bytes:
    """Lines in the form that a block has. Raises ValueError, TypeError or OverflowError for an invalid `Line`."""
    cdef line l, before
    cdef uint8_t text[LINE_MOST]
    cdef bytes request
    memset(&before, 0, sizeof(before))
    packed = bytearray()
    for number, time_us, amount, units, request, status, flags in lines:
        if len(request) != ID_SIZE:
            raise ValueError(f"a request's id has {<int>ID_SIZE} octets, not {request!r}")
        l.number = number
        l.time_us = <uint64_t><int64_t>time_us
        l.amount = <uint64_t><int64_t>amount
        l.units = units
        l.marks = <uint64_t><uint16_t>status << 16 | <uint16_t>flags
        memcpy(l.request, <const char *>request, ID_SIZE)
        packed += (<const char *>text)[:_put_line(text, &l, &before) - text]
        before = l
    return bytes(packed)


cdef class _Lines:
    """The lines of a block, one after another."""

    cdef const unsigned char[::1] octets
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef line now

    def __init__(self, const unsigned char[::1] octets not None):
        self.octets = octets
        self.at = self.end = NULL
        if octets.shape[0]:
            self.at = &octets[0]
            self.end = self.at + octets.shape[0]
        memset(&self.now, 0, sizeof(line))

    cdef bint next(self) except -1:
        """Whether there is one more; if so, it is `now`. Raises ValueError."""
        if self.at == self.end:
            return False
        cdef const uint8_t *after = _get_line(self.at, self.end, &self.now)
        if after == NULL:
            start = self.end - self.octets.shape[0]
            raise ValueError(
                f"these are not lines of usage: octet {self.at - start} of {self.octets.shape[0]} begins no line")
        self.at = after
        return True


def unpack_lines(const unsigned char[::1] lines not None) -> list[Line]:
    """A block's lines, in order. Raises ValueError for invalid octets."""
    cdef _Lines each = _Lines(lines)
    found = []
    while each.next():
        found.append(Line(
            each.now.number, <int64_t>each.now.time_us, <int64_t>each.now.amount, each.now.units,
            (<const char *>each.now.request)[:ID_SIZE], <uint16_t>(each.now.marks >> 16),
            <uint16_t>each.now.marks))
    return found


def sums(const unsigned char[::1] lines not None, *, bint meter=False) -> tuple[int, int, int, int]:
    """Records, failed, units and amount of a block's lines, counted again. `meter`: they are units used
    besides requests, and none of them fails. Raises ValueError as `unpack_lines` does."""
    cdef _Lines each = _Lines(lines)
    cdef uint64_t count = 0, failed = 0, units = 0
    cdef int64_t amount = 0
    while each.next():
        count += 1
        failed += not meter and each.now.marks >> 16 >= FAILED
        units += each.now.units
        amount += <int64_t>each.now.amount
    return count, failed, units, amount


def numbers(const unsigned char[::1] lines not None) -> list[int]:
    """The second words of the ids in a block's lines, in order. Raises ValueError as
    `unpack_lines` does."""
    cdef _Lines each = _Lines(lines)
    found = []
    while each.next():
        found.append(each.now.number)
    return found
