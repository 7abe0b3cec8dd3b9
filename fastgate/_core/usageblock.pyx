"""usageblock: usage records of one drain, put together by what they have in common.

A consumer calls the same route with the same key again and again, so the records of a moment differ in
little. What they share stands once, in the block; what each has for itself is a *line* of 52 octets:

    block   boot, area, day, account, consumer, credential, route, service, plan, currency, meter | sums
    lines   number 8 | time_us 8 | amount 8 | units 8 | request id 16 | status 2 | flags 2    little-endian
            number ...

The ledger stores blocks, not records: control spends a fraction of a microsecond on a request that was
charged, in place of a row. Lines stand in the order of the ring. A day is of UTC, so that a block
belongs to one.
"""
import struct
from typing import NamedTuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastgate._core.moneymap cimport NUMBER_BITS, USAGE_CAPTURED, USAGE_RECOVERED, money_record

LINE = struct.Struct("<QqqQ16sHH")
"""A line, for Python: number, time_us, amount, units, request id, status, flags."""

if LINE.size != sizeof(usage_line):
    raise AssertionError("a line is not what it says it is")

cdef enum:
    FAILED = 500                  # from this status on

cdef int64_t DAY_US = 86_400_000_000


class UsageBlock(NamedTuple):
    """Records that have everything here in common, and their sums.

    `boot`, and `low` to `high`: their ids are the boot (16 hex digits) and a number between these
    (16 more). `first_us`, `last_us`: Unix times in microseconds; `day`: days since 1970. `account`,
    `consumer`, `credential`, `meter`: identities, 0: none. `route`, `service`, `plan`: slots.
    `records`: how many; of them `failed` were answered with 500 or more, `recovered` are of dead
    workers. `amount`: micro-units. `lines`: see the module.
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


cdef struct group:
    const money_record *like      # its first record: what all have in common
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
    char *lines                   # where the next one goes


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


cdef inline void _line(group *g, const money_record *r) noexcept nogil:
    cdef usage_line line
    line.number = r.number
    line.time_us = _time_us(r)
    line.amount = _charged(r)
    line.units = r.units
    memcpy(line.request_id, r.request_id, 16)
    line.status = r.status
    line.flags = r.flags
    memcpy(g.lines, &line, sizeof(line))
    g.lines += sizeof(line)


cdef str currency_text(uint32_t code):
    """Three letters; "" for 0."""
    cdef char text[4]
    if code == 0:
        return ""
    memcpy(text, &code, 4)
    return (&text[0])[:3].decode("ascii", "replace")


cdef list _finished(group *groups, size_t used):
    """The blocks, their lines still to be written."""
    cdef group *g
    cdef const money_record *r
    cdef size_t i
    blocks = []
    for i in range(used):
        g = groups + i
        r = g.like
        lines = PyBytes_FromStringAndSize(NULL, g.records * sizeof(usage_line))
        g.lines = PyBytes_AS_STRING(lines)
        blocks.append(UsageBlock(
            r.boot, g.low, g.high, g.day, g.first_us, g.last_us, r.account, r.consumer, r.credential,
            r.route_slot, r.service_slot, r.plan_slot, currency_text(r.currency), r.meter,
            g.records, g.failed, g.recovered, g.units, g.amount, lines))
    return blocks


cdef list pack_blocks(const money_record **records, size_t count):
    """The records as blocks, in the order in which their first ones stand. Raises MemoryError."""
    cdef size_t slots = 16, used = 0, i, at
    cdef uint32_t *table
    cdef uint32_t *member
    cdef group *groups
    cdef group *g
    cdef uint64_t h
    cdef int64_t time_us, day
    if count == 0:
        return []
    while slots < 2 * count:
        slots *= 2
    table = <uint32_t *>PyMem_Malloc(slots * sizeof(uint32_t))       # index of a group + 1
    member = <uint32_t *>PyMem_Malloc(count * sizeof(uint32_t))
    groups = <group *>PyMem_Malloc(count * sizeof(group))
    try:
        if table == NULL or member == NULL or groups == NULL:
            raise MemoryError
        memset(table, 0, slots * sizeof(uint32_t))
        with nogil:
            for i in range(count):
                time_us = _time_us(records[i])
                day = time_us // DAY_US
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
                    if g.hash == h and g.day == day and _alike(g.like, records[i]):
                        break
                    at = (at + 1) & (slots - 1)
                member[i] = <uint32_t>(g - groups)
                _count(g, records[i], time_us)
        blocks = _finished(groups, used)
        with nogil:
            for i in range(count):
                _line(groups + member[i], records[i])
        return blocks
    finally:
        PyMem_Free(table)
        PyMem_Free(member)
        PyMem_Free(groups)


cdef size_t _whole(const unsigned char[::1] lines) except? 0:
    """How many lines these are."""
    cdef size_t count = lines.shape[0] // sizeof(usage_line)
    if count * sizeof(usage_line) != <size_t>lines.shape[0]:
        raise ValueError(f"{lines.shape[0]} octets are no lines of {sizeof(usage_line)}")
    return count


def sums(const unsigned char[::1] lines not None, *, bint meter=False) -> tuple[int, int, int, int]:
    """Records, failed, units and amount of a block's lines, counted anew. `meter`: they are of units
    that were used beside requests, of which none fails. Raises ValueError for what is no whole number
    of lines."""
    cdef usage_line line
    cdef size_t count = _whole(lines), i
    cdef uint64_t failed = 0, units = 0
    cdef int64_t amount = 0
    if count:
        with nogil:
            for i in range(count):
                memcpy(&line, &lines[0] + i * sizeof(usage_line), sizeof(usage_line))
                failed += not meter and line.status >= FAILED
                units += line.units
                amount += line.amount
    return count, failed, units, amount


def numbers(const unsigned char[::1] lines not None) -> list[int]:
    """The second words of the ids in a block's lines, in their order. Raises ValueError as `sums`."""
    cdef size_t count = _whole(lines), i
    cdef usage_line line
    found = []
    for i in range(count):
        memcpy(&line, &lines[0] + i * sizeof(usage_line), sizeof(usage_line))
        found.append(line.number)
    return found
