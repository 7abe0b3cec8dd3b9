"""limiter: token buckets, each one 64-bit time (GCRA, the generic cell rate algorithm).

A bucket of `burst` tokens that refills one token every `interval` is the same as a single time, the
theoretical arrival time TAT: when the bucket would be full again.

         now                 TAT            now + tolerance
    ──────┼───────────────────┼────────────────────┼──────▶ time       tolerance = interval * burst
          └── debt = used ────┘└──── remaining ────┘
                * interval          * interval

    take:       debt + cost * interval <= tolerance ?  TAT = max(TAT, now) + cost * interval
    give back:  TAT -= cost * interval
    A TAT in the past is a full bucket; it needs no cell.

So one exchange of one word is the whole transaction: it refills and takes at once, is exact to the
nanosecond, and N workers on one cell pass exactly what one would. A refused request writes nothing
(except for the adaptations below, which consume nothing).

    cell word   | tag 16: the interval, as a float | key: lower 48 bits of the hash |
    state       | 1: claim | TAT, or the claim's number, 63 |

**A changed rate takes effect at once**, and what was used stays used. TAT is a debt in time at the
rate that applied when it was written; the tag holds that rate (6 bits of exponent, 10 of
mantissa: within 0.05 %). Read under another rate, the debt is converted: `used` tokens of the old
interval are `used` of the new one; the next decision, also a refusal, stores it. The upper 16
bits of the hash, whose place the tag takes, choose the window instead (`cells_first`), so they
still distinguish keys.

**A bucket made smaller** may owe more than it can hold. It is then set to just empty, so that nobody
waits for a debt that is impossible under the new limit. Workers read their clocks once a round, so a
TAT may be a little more than the tolerance ahead of a clock that is behind; only the part more than
GRACE beyond is cut.

Ranges: interval 1 ns (10^9/s) to months; tolerance up to 2^62 ns (146 years), reduced to that if
larger. A cost above the burst is always refused.
"""
from fastgate._core.platform.atomics cimport fg_cas16, fg_load
from fastgate._core.shared.cells cimport (
    cell_live, cells_claim, cells_of_limiter, cells_rule)
from fastgate._core.shared.layout cimport cell, cells_head
from fastgate._core.shared.cells import Decision
from fastgate._core.shared.segment cimport Segment

cdef extern from *:
    """
    /* ceil(a * b / c), at most `top`. */
    static inline uint64_t fg_scale(uint64_t a, uint64_t b, uint64_t c, uint64_t top) {
        unsigned __int128 r = ((unsigned __int128)a * b + (c - 1)) / c;
        return r > top ? top : (uint64_t)r;
    }
    static inline uint64_t fg_times(uint64_t a, uint64_t b, uint64_t top) {
        unsigned __int128 r = (unsigned __int128)a * b;
        return r > top ? top : (uint64_t)r;
    }
    static inline uint32_t fg_log2(uint64_t v) { return 63 - __builtin_clzll(v); }   /* v > 0 */
    #define FG_KEY_BITS 0x0000ffffffffffffULL
    #define FG_TAG_BITS 0xffff000000000000ULL
    #define FG_CLAIM_BIT 0x8000000000000000ULL
    #define FG_HORIZON 0x4000000000000000ULL
    """
    uint64_t fg_scale(uint64_t a, uint64_t b, uint64_t c, uint64_t top) noexcept nogil
    uint64_t fg_times(uint64_t a, uint64_t b, uint64_t top) noexcept nogil
    uint32_t fg_log2(uint64_t v) noexcept nogil
    const uint64_t KEY_BITS "FG_KEY_BITS"
    const uint64_t TAG_BITS "FG_TAG_BITS"
    const uint64_t CLAIM_BIT "FG_CLAIM_BIT"
    const uint64_t HORIZON "FG_HORIZON"

cdef enum:
    GRACE = 1000000000            # ns; how far another worker's clock may be behind
    SECOND = 1000000000


cdef bint _expired(uint64_t state, uint64_t now) noexcept nogil:
    return state + GRACE < now


cdef cells_rule RULE
RULE.key_mask = KEY_BITS
RULE.claim_mask = CLAIM_BIT
RULE.claim = CLAIM_BIT
RULE.expired = _expired


# ---- the interval as 16 bits ----------------------------------------------------------------

cdef inline uint64_t _tag(uint64_t interval) noexcept nogil:
    cdef uint64_t e = fg_log2(interval)
    return (e << 58) | ((((interval << (63 - e)) >> 53) & 1023) << 48)


cdef inline uint64_t _interval(uint64_t word) noexcept nogil:
    """The middle of the intervals that have this tag; below 2048 ns there is only one."""
    cdef uint32_t e = word >> 58
    cdef uint64_t m = 1024 | ((word >> 48) & 1023)
    if e <= 10:
        return m >> (10 - e)
    return ((m << 1) | 1) << (e - 11)


# ---- decisions --------------------------------------------------------------------------------

cdef inline uint64_t _key(uint64_t key) noexcept nogil:
    cdef uint64_t k = key & KEY_BITS
    return k if k else 1


cdef inline uint64_t _debt(uint64_t word, uint64_t tat, uint64_t now, uint64_t interval,
                           uint64_t tag) noexcept nogil:
    """What the bucket owes now, in nanoseconds at `interval`."""
    if tat <= now:
        return 0
    if (word & TAG_BITS) != tag:
        return fg_scale(tat - now, interval, _interval(word), HORIZON)
    return tat - now


cdef inline void _say(decision *d, uint64_t debt, uint64_t interval, uint64_t tolerance) noexcept nogil:
    cdef uint64_t left = tolerance - debt if debt < tolerance else 0
    d.remaining = left // interval
    d.used = tolerance // interval - d.remaining
    d.reset_s = (debt + SECOND - 1) // SECOND
    d.retry_s = 0
    d.resets_at = 0


cdef void _refuse(decision *d, uint64_t debt, uint64_t charge, uint64_t interval,
                  uint64_t tolerance) noexcept nogil:
    _say(d, debt, interval, tolerance)
    d.retry_s = d.reset_s
    if charge <= tolerance:
        d.retry_s = (debt + charge - tolerance + SECOND - 1) // SECOND
    if d.retry_s == 0:
        d.retry_s = 1


cdef int limiter_take(cells *t, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                      uint64_t tolerance_ns, uint64_t cost, decision *d) noexcept nogil:
    cdef uint64_t interval = interval_ns if interval_ns else 1
    cdef uint64_t tolerance = tolerance_ns if tolerance_ns < HORIZON else HORIZON
    cdef uint64_t charge = interval if cost == 1 else fg_times(interval, cost, HORIZON + 1)
    cdef uint64_t tag = _tag(interval)
    cdef uint64_t k = _key(key)
    cdef cell *c
    cdef uint64_t word, tat, debt, claim
    while True:
        c = cell_live(t, key, k, &RULE, &word, &tat)
        if c is NULL:
            if charge > tolerance:
                _refuse(d, 0, charge, interval, tolerance)
                return 0
            c = cells_claim(t, key, k, &RULE, now_ns, &claim)
            if c is NULL or (claim != 0 and fg_cas16(c, k, claim, k | tag, now_ns + charge)):
                _say(d, charge, interval, tolerance)
                return 1
            continue
        debt = _debt(word, tat, now_ns, interval, tag)
        if debt + charge <= tolerance:
            if charge == 0 or fg_cas16(c, word, tat, k | tag, now_ns + debt + charge):
                _say(d, debt + charge, interval, tolerance)
                return 1
            continue
        if debt > tolerance + GRACE:
            debt = tolerance
            if not fg_cas16(c, word, tat, k | tag, now_ns + debt):
                continue
        elif (word & TAG_BITS) != tag and debt != 0:
            if not fg_cas16(c, word, tat, k | tag, now_ns + debt):
                continue
        elif fg_load(&c.key) != word:
            continue
        _refuse(d, debt, charge, interval, tolerance)
        return 0


cdef void limiter_give_back(cells *t, uint64_t key, uint64_t interval_ns, uint64_t cost) noexcept nogil:
    cdef uint64_t interval = interval_ns if interval_ns else 1
    cdef uint64_t k = _key(key)
    cdef cell *c
    cdef uint64_t word, tat, back
    while True:
        c = cell_live(t, key, k, &RULE, &word, &tat)
        if c is NULL:
            return                  # reclaimed, so it was full already
        back = fg_times(interval if (word & TAG_BITS) == _tag(interval) else _interval(word), cost, tat)
        if back == 0 or fg_cas16(c, word, tat, word, tat - back):
            return


cdef void limiter_peek(const cells *t, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                       uint64_t tolerance_ns, decision *d) noexcept nogil:
    cdef uint64_t interval = interval_ns if interval_ns else 1
    cdef uint64_t tolerance = tolerance_ns if tolerance_ns < HORIZON else HORIZON
    cdef uint64_t k = _key(key)
    cdef cell *c
    cdef uint64_t word, tat, debt = 0
    while True:
        c = cell_live(t, key, k, &RULE, &word, &tat)
        if c is NULL:
            break
        if fg_load(&c.key) == word:
            debt = _debt(word, tat, now_ns, interval, _tag(interval))
            break
    if debt > tolerance + GRACE:
        debt = tolerance
    _say(d, debt, interval, tolerance)
    if debt + interval > tolerance:
        _refuse(d, debt, interval, interval, tolerance)


# ---- the border -------------------------------------------------------------------------------

cdef class LimiterTable:
    """The limiter's cells of a segment, with explicit times: for control, tests and tools.

    Times in nanoseconds of CLOCK_MONOTONIC, `interval_ns` per token, `tolerance_ns` interval * burst.
    """

    cdef readonly Segment segment
    cdef cells table

    def __init__(self, Segment segment not None):
        self.segment = segment
        self.table = cells_of_limiter(segment.header)

    def take(self, uint64_t key, uint64_t now_ns, uint64_t interval_ns, uint64_t tolerance_ns,
             uint64_t cost=1):
        """Take `cost` tokens, or refuse and take none."""
        cdef decision d
        cdef int allowed = limiter_take(&self.table, key, now_ns, interval_ns, tolerance_ns, cost, &d)
        return Decision(allowed == 1, d.remaining, d.used, d.reset_s, d.retry_s, d.resets_at)

    def peek(self, uint64_t key, uint64_t now_ns, uint64_t interval_ns, uint64_t tolerance_ns):
        """What `take` of one token would return, without taking it. `allowed`: whether it would succeed."""
        cdef decision d
        limiter_peek(&self.table, key, now_ns, interval_ns, tolerance_ns, &d)
        return Decision(d.retry_s == 0, d.remaining, d.used, d.reset_s, d.retry_s, d.resets_at)

    def give_back(self, uint64_t key, uint64_t interval_ns, uint64_t cost=1):
        """Undo a take that was not used."""
        limiter_give_back(&self.table, key, interval_ns, cost)

    def take_all(self, const uint64_t[::1] keys not None, uint64_t now_ns, uint64_t interval_ns,
                 uint64_t tolerance_ns, uint64_t[::1] passed=None):
        """Take one token of each key in turn, with no Python in between; returns how many were taken.

        `passed`: one word for each key; 1 is added to it if its token was taken.
        """
        cdef decision d
        cdef Py_ssize_t i
        cdef uint64_t n = 0
        cdef int allowed
        cdef bint note = passed is not None
        if note and passed.shape[0] != keys.shape[0]:
            raise ValueError("passed needs one word for each key")
        with nogil:
            for i in range(keys.shape[0]):
                allowed = limiter_take(&self.table, keys[i], now_ns, interval_ns, tolerance_ns, 1, &d)
                n += allowed
                if note:
                    passed[i] += allowed
        return n

    @property
    def full(self):
        """How often, over all processes, a request was allowed because there was no free cell."""
        return fg_load(&(<cells_head *>self.table.base - 1).full)

    def cells(self):
        """The cells in use as (key's lower 48 bits, TAT or None for a claim). Reads the whole table."""
        cdef uint64_t i, word, state
        out = []
        for i in range(self.table.mask + 1):
            word = fg_load(&self.table.base[i].key)
            state = fg_load(&self.table.base[i].state)
            if word:
                out.append((word & KEY_BITS, None if state & CLAIM_BIT else state))
        return out
