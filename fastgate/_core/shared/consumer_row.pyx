"""consumer_row: a consumer in the credential index, as Python writes and reads it.

    consumer_row ── overrides: rows from here ──▶ limit_override * 8      for the few that have any

Both are rows of the index (256 bytes), immutable once published. credentials.pyx describes how they are
added and freed.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastgate._core.snapshot.snapshot cimport PERIOD_YEAR

from fastgate._core.shared.callers import Consumer, LimitOverride, SpendingCap


cdef bytes text_of(str what, value, int room, bint cut):
    cdef bytes raw = value.encode() if isinstance(value, str) else value
    if len(raw) > room:
        if not cut:
            raise ValueError(f"{what} has at most {room} bytes, not {len(raw)}: {value!r}")
        raw = raw[:room].decode("utf-8", "ignore").encode()
    return raw


cdef object consumer_of(const consumer_row *row):
    texts = (&row.id[0])[:row.id_len], (&row.name[0])[:row.name_len], (&row.plan_name[0])[:row.plan_len]
    ident, name, plan_name = [raw.decode("utf-8", "replace") for raw in texts]
    suspended = bool(row.flags & CONSUMER_SUSPENDED_FLAG)
    return Consumer(ident, row.identity, row.account, row.plan, suspended, name, plan_name,
                    row.account_slot, spending_cap(row.spending), overrides_in(row))


cdef tuple overrides_in(const consumer_row *row):
    cdef const limit_override *own = overrides_of(row)
    cdef int i
    found = []
    if own is not NULL:
        for i in range(OVERRIDES):
            if own[i].key:
                found.append(LimitOverride(own[i].key, own[i].amount, own[i].interval_ns, own[i].tolerance_ns))
    return tuple(found)


cdef object spending_cap(uint64_t spending):
    return SpendingCap(cap_micros(spending), cap_period(spending))


cdef uint64_t spending_word(cap) except? 0:
    micros, period = cap
    if not 0 <= micros < 1 << 56 or not 0 <= period <= PERIOD_YEAR or (micros and not period):
        raise ValueError(f"not a spending cap: {cap}")
    return <uint64_t>micros << 8 | <uint64_t>period


cdef int put_overrides(limit_override *own, overrides) except -1:
    cdef int i
    if len(overrides) > OVERRIDES:
        raise ValueError(f"a consumer may have its own numbers for at most {OVERRIDES} limits, not {len(overrides)}")
    memset(own, 0, OVERRIDES * sizeof(limit_override))
    for i, (key, amount, interval_ns, tolerance_ns) in enumerate(overrides):
        own[i].key, own[i].amount = key, amount
        own[i].interval_ns, own[i].tolerance_ns = interval_ns, tolerance_ns
    return 0


cdef int64_t overrides_row(const consumer_row *rows, uint64_t used, uint32_t row) noexcept nogil:
    cdef int64_t second = <int64_t>row + rows[row].overrides
    return second if second != row and 0 <= second < <int64_t>used else -1
