"""quota: requests counted per calendar window, {period, window, count} in one word.

    state  | period 3 | window | count |        window + count = 61 bits, split by the period

    period    window is the number of the     bits        lasts until    count up to
    second    second since 1970               33 + 28     2242           268 million
    minute    minute                          26 + 35     2097           34 billion
    hour      hour                            21 + 40     2209           10^12
    day       day                             17 + 44     2328           10^13
    week      ISO week (Monday 00:00)         14 + 47     2284           10^14
    month     month                           12 + 49     2311           10^14
    year      year                             9 + 52     2311           10^15

All windows are of the UTC calendar; months come from a table of their first days. A window is
not "the last 60 seconds": the count resets at the boundary, for everybody at the same moment.

Taking is one exchange of the cell: within the same window to count + cost, in a new one to cost. A
refused request writes nothing, a lowered or raised amount applies from the next request on, and a key's
quotas of different periods are different cells (the period is mixed into the key), so that no window
starts twice while a period is being changed.

Clocks. Workers read theirs once a round; at a boundary one may still be in the old window when
another has opened the new one. A cell never returns to the old one: a request counts in the newer
window that it finds. If the system's clock was set back, a window can be further ahead than any
worker can be behind; such a cell is reset. Giving back a count after its window is over does
nothing.

Cells of past windows are free for other keys, SLACK seconds later.

Persistence. `export_quotas` writes every count that still matters, `import_quotas` restores them.
Control exports every second, and imports when the gateway starts. If the machine dies, at most what
was counted since the last export is lost.

    "FGQUOTA1" | entries 8 | hash of the rest 8 | { key 8, state 8 } * entries      little-endian
"""
import errno
import os
import time

from libc.stdint cimport int32_t
from libc.string cimport memcmp

from fastgate._core.platform.atomics cimport fg_cas16, fg_load
from fastgate._core.shared.cells cimport (
    FG_K2, FG_K3, cell_live, cells_claim, cells_of_quota, cells_rule, fg_read64, hash_bytes)
from fastgate._core.shared.layout cimport cell, cells_head
from fastgate._core.shared.cells import Decision
from fastgate._core.shared.clock import held_seconds
from fastgate._core.shared.segment cimport Segment
from fastgate._core.snapshot.snapshot cimport (
    PERIOD_DAY, PERIOD_HOUR, PERIOD_MINUTE, PERIOD_MONTH, PERIOD_SECOND, PERIOD_WEEK,
    PERIOD_YEAR,
)

from fastgate.errors import SegmentError

cdef extern from *:
    """
    static const uint8_t fg_count_bits[8] = {28, 35, 40, 44, 49, 47, 52, 60};   /* by Period */
    #define FG_STATE_BITS 0x1fffffffffffffffULL
    #define FG_PERIOD_BITS 0xe000000000000000ULL
    """
    const uint8_t *COUNT_BITS "fg_count_bits"
    const uint64_t STATE_BITS "FG_STATE_BITS"
    const uint64_t PERIOD_BITS "FG_PERIOD_BITS"

cdef enum:
    PERIODS = 7
    CLAIMED = 7               # in the place of a period
    SLACK = 2                 # seconds that a window's cell is kept after its end
    DAY_S = 86400
    FILE_HEAD = 24

cdef const char *FILE_MAGIC = b"FGQUOTA1"


# ---- the calendar ---------------------------------------------------------------------------

cdef enum:
    MONTHS = 4096                 # of the table: to April 2311
    # Months per day, 4800 / 146097, times 2^32. Multiplying days by that and rounding gives the month or
    # the next one, for every day of the table.
    MONTHS_PER_DAY = 141110653
    HALF = 0x80000000

cdef int32_t FIRST_DAY[MONTHS + 1]    # day number of the first of each month since January 1970


cdef void _fill_months() noexcept:
    cdef int32_t lengths[12]
    cdef int32_t day = 0, leap
    cdef int i, year
    for i in range(12):
        lengths[i] = 30 + ((i + (i >= 7)) % 2 == 0)         # 31 30 31 30 31 30 31 31 30 31 30 31
    lengths[1] = 28
    for i in range(MONTHS + 1):
        FIRST_DAY[i] = day
        year = 1970 + i // 12
        leap = i % 12 == 1 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        day += lengths[i % 12] + leap


_fill_months()


cdef inline uint64_t _month_of(uint64_t day) noexcept nogil:
    """Months since January 1970 of the day with this number."""
    cdef uint64_t month = (day * MONTHS_PER_DAY + HALF) >> 32
    if month > MONTHS:
        return MONTHS - 1
    return month - (day < <uint64_t>FIRST_DAY[month] or month == MONTHS)


cdef int64_t _window_end(uint8_t period, uint64_t window) noexcept nogil:
    cdef int64_t next = <int64_t>window + 1
    if period == PERIOD_MINUTE:
        return next * 60
    if period == PERIOD_HOUR:
        return next * 3600
    if period == PERIOD_DAY:
        return next * DAY_S
    if period == PERIOD_MONTH:
        return <int64_t>FIRST_DAY[next if next < MONTHS else MONTHS] * DAY_S
    if period == PERIOD_WEEK:
        return (next * 7 - 3) * DAY_S
    if period == PERIOD_YEAR:
        return <int64_t>FIRST_DAY[next * 12 if next * 12 < MONTHS else MONTHS] * DAY_S
    return next


cdef inline uint64_t _window(uint8_t period, int64_t unix_s) noexcept nogil:
    cdef uint64_t t = <uint64_t>unix_s if unix_s > 0 else 0
    if period == PERIOD_MINUTE:
        return t // 60
    if period == PERIOD_HOUR:
        return t // 3600
    if period == PERIOD_DAY:
        return t // DAY_S
    if period == PERIOD_MONTH:
        return _month_of(t // DAY_S)
    if period == PERIOD_WEEK:
        return (t // DAY_S + 3) // 7                        # 1970-01-01 was a Thursday
    if period == PERIOD_YEAR:
        return _month_of(t // DAY_S) // 12
    return t


cdef uint64_t window_of(uint8_t period, int64_t unix_s, int64_t *ends_at) noexcept nogil:
    cdef uint64_t window = _window(period, unix_s)
    ends_at[0] = _window_end(period, window)
    return window


# ---- the state --------------------------------------------------------------------------------

cdef inline uint64_t _pack(uint8_t period, uint64_t window, uint64_t count) noexcept nogil:
    return (<uint64_t>period << 61) | (((window << COUNT_BITS[period]) | count) & STATE_BITS)


cdef inline uint64_t _window_in(uint64_t state) noexcept nogil:
    return (state & STATE_BITS) >> COUNT_BITS[state >> 61]


cdef inline uint64_t _most(uint8_t period) noexcept nogil:
    return (<uint64_t>1 << COUNT_BITS[period]) - 1


cdef inline uint64_t _count_in(uint64_t state) noexcept nogil:
    return state & _most(<uint8_t>(state >> 61))


cdef inline bint _counts(uint64_t stored, uint64_t window, uint8_t period) noexcept nogil:
    """The stored window is this one, or one that a slightly faster clock has opened."""
    return window <= stored <= window + (60 if period == PERIOD_SECOND else 1)


cdef bint _expired(uint64_t state, uint64_t now) noexcept nogil:
    cdef uint8_t period = state >> 61
    cdef uint64_t stored = _window_in(state)
    return (not _counts(stored, _window(period, <int64_t>now), period)
            and not _counts(stored, _window(period, <int64_t>now - SLACK), period))


cdef cells_rule RULE
RULE.key_mask = ~<uint64_t>0
RULE.claim_mask = PERIOD_BITS
RULE.claim = PERIOD_BITS
RULE.expired = _expired


cdef inline uint64_t _key(uint64_t key, uint8_t period) noexcept nogil:
    """The cell's key: the caller's and the period. The caller's is already well mixed."""
    cdef uint64_t k = key ^ (<uint64_t>period * FG_K2)
    return k if k else FG_K3


# ---- decisions --------------------------------------------------------------------------------

cdef inline void _say(decision *d, uint64_t count, uint64_t amount, int64_t ends, int64_t unix_s) noexcept nogil:
    d.used = count
    d.remaining = amount - count if count < amount else 0
    d.reset_s = <uint64_t>(ends - unix_s) if ends > unix_s else 1
    d.retry_s = 0
    d.resets_at = <uint64_t>ends


cdef int quota_take(cells *t, uint64_t key, uint8_t period, int64_t unix_s,
                    uint64_t amount, uint64_t cost, decision *d) noexcept nogil:
    cdef uint64_t k = _key(key, period)
    cdef uint64_t most = amount if amount < _most(period) else _most(period)
    cdef uint64_t window = _window(period, unix_s)
    cdef uint64_t word, state, claim, count, counted
    cdef cell *c
    while True:
        c = cell_live(t, k, k, &RULE, &word, &state)
        if c is NULL:
            counted = window
            if cost > most:
                count = 0
                break
            c = cells_claim(t, k, k, &RULE, <uint64_t>unix_s, &claim)
            if c is NULL or (claim != 0 and fg_cas16(c, k, claim, k, _pack(period, window, cost))):
                _say(d, cost, amount, _window_end(period, window), unix_s)
                return 1
            continue
        counted = _window_in(state)
        count = _count_in(state)
        if not _counts(counted, window, period):
            counted = window
            count = 0
        if cost <= most and count <= most - cost:
            if cost == 0 or fg_cas16(c, k, state, k, _pack(period, counted, count + cost)):
                _say(d, count + cost, amount, _window_end(period, counted), unix_s)
                return 1
        elif fg_load(&c.key) == k:
            break
    _say(d, count, amount, _window_end(period, counted), unix_s)
    d.retry_s = d.reset_s
    return 0


cdef void quota_give_back(cells *t, uint64_t key, uint8_t period, int64_t unix_s, uint64_t cost) noexcept nogil:
    cdef uint64_t k = _key(key, period)
    cdef cell *c
    cdef uint64_t word, state, count
    while True:
        c = cell_live(t, k, k, &RULE, &word, &state)
        if c is NULL or _window_in(state) != _window(period, unix_s):
            return
        count = _count_in(state)
        if count == 0 or fg_cas16(c, k, state, k, state - (cost if cost < count else count)):
            return


cdef void quota_peek(const cells *t, uint64_t key, uint8_t period, int64_t unix_s,
                     uint64_t amount, decision *d) noexcept nogil:
    cdef uint64_t k = _key(key, period)
    cdef cell *c
    cdef uint64_t word, state
    cdef uint64_t window = _window(period, unix_s), count = 0
    while True:
        c = cell_live(t, k, k, &RULE, &word, &state)
        if c is NULL:
            break
        if fg_load(&c.key) == k:
            if _counts(_window_in(state), window, period):
                window = _window_in(state)
                count = _count_in(state)
            break
    _say(d, count, amount, _window_end(period, window), unix_s)
    if d.remaining == 0:
        d.retry_s = d.reset_s


# ---- persistence --------------------------------------------------------------------------------

cdef uint64_t _collect(const cell *base, uint64_t first, uint64_t last, int64_t unix_s,
                       uint64_t *out) noexcept nogil:
    """Copy the counts that matter in the cells [first, last) to `out`; returns how many."""
    cdef uint64_t i, key, state, n = 0
    for i in range(first, last):
        key = fg_load(&base[i].key)
        state = fg_load(&base[i].state)
        if key == 0 or state >> 61 == CLAIMED or _count_in(state) == 0 or fg_load(&base[i].key) != key:
            continue
        if _counts(_window_in(state), _window(<uint8_t>(state >> 61), unix_s), <uint8_t>(state >> 61)):
            out[2 * n] = key
            out[2 * n + 1] = state
            n += 1
    return n


def _used_ranges(int fd, uint64_t begin, uint64_t end):
    """The parts of the file that were ever written. A page that was not is not even read, unless
    the kernel does not report them (gVisor's does not): then everything is read."""
    while begin < end:
        try:
            data = os.lseek(fd, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:           # not "nothing more"
                yield begin, end
            return
        if data >= end:
            return
        begin = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, begin


def export_quotas(Segment segment not None, unix_s=None):
    """All counts of windows that are not over at `unix_s` (default: now, by clock.pyx), as bytes to save.

    Counting continues meanwhile: each count was valid at some moment of the call.
    """
    cdef int64_t now = int(time.time()) - held_seconds(segment) if unix_s is None else unix_s
    cdef const cell *base = cells_of_quota(segment.header).base
    cdef uint64_t begin = segment.header.quota_off
    cdef uint64_t first, last, n
    cdef bytearray part
    cdef uint64_t *out
    parts = []
    for start, stop in _used_ranges(segment.fd, begin, begin + segment.header.quota_count * sizeof(cell)):
        first = (start - begin) // sizeof(cell)
        last = (stop - begin) // sizeof(cell)
        part = bytearray(stop - start)
        out = <uint64_t *><char *>part
        with nogil:
            n = _collect(base, first, last, now, out)
        parts.append(bytes(part[:n * sizeof(cell)]))
    body = b"".join(parts)
    head = (len(body) // sizeof(cell)).to_bytes(8, "little")
    body = head + body
    check = hash_bytes(<const char *>body, <uint32_t>len(body), 0)
    return FILE_MAGIC[:8] + head + check.to_bytes(8, "little") + body[8:]


cdef int _restore(cells *t, uint64_t key, uint64_t state, int64_t unix_s) noexcept nogil:
    """1: the cell counts at least that now; 0: there is no cell."""
    cdef cell *c
    cdef uint64_t word, held, claim
    while True:
        c = cell_live(t, key, key, &RULE, &word, &held)
        if c is NULL:
            c = cells_claim(t, key, key, &RULE, <uint64_t>unix_s, &claim)
            if c is NULL:
                return 0
            if claim != 0 and fg_cas16(c, key, claim, key, state):
                return 1
        elif held >= state or fg_cas16(c, key, held, key, state):   # window first, then count
            return 1


def import_quotas(Segment segment not None, bytes data not None, unix_s=None):
    """Restore exported counts; returns how many still mattered at `unix_s` (default: now).

    Windows that are over are skipped. If something is already counted, the higher count is
    kept, so repeating the call does no harm. Raises SegmentError if the data is damaged; then
    nothing was restored.
    """
    cdef int64_t now = int(time.time()) if unix_s is None else unix_s
    cdef cells table = cells_of_quota(segment.header)
    cdef const char *at = data
    cdef uint64_t size = len(data)
    cdef uint64_t n, i, key, state, restored = 0
    cdef uint8_t period
    if size < FILE_HEAD or memcmp(at, FILE_MAGIC, 8) != 0:
        raise SegmentError("the saved quotas cannot be used: this is not a quota file of this version")
    n = fg_read64(at + 8)
    if n != (size - FILE_HEAD) // sizeof(cell) or (size - FILE_HEAD) % sizeof(cell):
        raise SegmentError(
            f"the saved quotas cannot be used: {n} entries are announced, but there are {size} bytes")
    check = n.to_bytes(8, "little") + data[FILE_HEAD:]
    if hash_bytes(<const char *>check, <uint32_t>len(check), 0) != fg_read64(at + 16):
        raise SegmentError("the saved quotas cannot be used: the file is damaged (its checksum differs)")
    for i in range(n):
        if fg_read64(at + FILE_HEAD + 16 * i) == 0 or fg_read64(at + FILE_HEAD + 16 * i + 8) >> 61 >= PERIODS:
            raise SegmentError(f"the saved quotas cannot be used: entry {i} is invalid")
    with nogil:
        for i in range(n):
            key = fg_read64(at + FILE_HEAD + 16 * i)
            state = fg_read64(at + FILE_HEAD + 16 * i + 8)
            period = <uint8_t>(state >> 61)
            if _counts(_window_in(state), _window(period, now), period):
                restored += _restore(&table, key, state, now)
    return restored


# ---- the border -------------------------------------------------------------------------------

cdef uint8_t _checked(int period) except? 255:
    if not 0 <= period < PERIODS:
        raise ValueError(f"period {period}: expected a fastgate._core.snapshot.snapshot.Period")
    return <uint8_t>period


cdef class QuotaTable:
    """The quota cells of a segment, with explicit times: for control, tests and tools.

    `period` is a Period, `unix_s` Unix time in seconds, `amount` the requests that a window allows.
    """

    cdef readonly Segment segment
    cdef cells table

    def __init__(self, Segment segment not None):
        self.segment = segment
        self.table = cells_of_quota(segment.header)

    def take(self, uint64_t key, int period, int64_t unix_s, uint64_t amount, uint64_t cost=1):
        """Count `cost`, or refuse and count nothing."""
        cdef decision d
        cdef int allowed = quota_take(&self.table, key, _checked(period), unix_s, amount, cost, &d)
        return Decision(allowed == 1, d.remaining, d.used, d.reset_s, d.retry_s, d.resets_at)

    def peek(self, uint64_t key, int period, int64_t unix_s, uint64_t amount):
        """What is counted, without a change. `allowed`: whether one more would be."""
        cdef decision d
        quota_peek(&self.table, key, _checked(period), unix_s, amount, &d)
        return Decision(d.retry_s == 0, d.remaining, d.used, d.reset_s, d.retry_s, d.resets_at)

    def give_back(self, uint64_t key, int period, int64_t unix_s, uint64_t cost=1):
        """Undo a take of that time. Does nothing if its window is over."""
        quota_give_back(&self.table, key, _checked(period), unix_s, cost)

    def take_all(self, const uint64_t[::1] keys not None, int period, int64_t unix_s, uint64_t amount,
                 uint64_t[::1] passed=None):
        """Count one for each key in turn, with no Python in between; returns how many were allowed.

        `passed`: one word for each key; 1 is added to it if it was allowed.
        """
        cdef decision d
        cdef Py_ssize_t i
        cdef uint64_t n = 0
        cdef int allowed
        cdef uint8_t p = _checked(period)
        cdef bint note = passed is not None
        if note and passed.shape[0] != keys.shape[0]:
            raise ValueError("passed needs one word for each key")
        with nogil:
            for i in range(keys.shape[0]):
                allowed = quota_take(&self.table, keys[i], p, unix_s, amount, 1, &d)
                n += allowed
                if note:
                    passed[i] += allowed
        return n

    @property
    def full(self):
        """How often, over all processes, a request was allowed because there was no free cell."""
        return fg_load(&(<cells_head *>self.table.base - 1).full)

    def cells(self):
        """The cells in use as (key, period, window, count); a claim has period 7. Reads the whole table."""
        cdef uint64_t i, word, state
        out = []
        for i in range(self.table.mask + 1):
            word = fg_load(&self.table.base[i].key)
            state = fg_load(&self.table.base[i].state)
            if word:
                out.append((word, state >> 61, _window_in(state), _count_in(state)))
        return out
