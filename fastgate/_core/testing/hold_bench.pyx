"""hold_bench: how long a hold takes, from opening to its capture."""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from fastgate._core.money.holds cimport MONEY_MOST, hold_capture, hold_open, usage_what, usage_who
from fastgate._core.money.layout cimport area_view, money_record
from fastgate._core.money.money_file cimport MoneyFile
from fastgate._core.shared.layout cimport account_row
from fastgate._core.shared.segment cimport Segment

import time

from fastgate._core.money.money_map import MoneyMap


def bench_hold(uint64_t n, int64_t price=1, int64_t hold=1) -> float:
    """Open and capture n holds of `hold` at `price` micro-units, uncontended: nanoseconds for each."""
    cdef Segment segment = Segment.create(1)
    cdef MoneyFile money = MoneyMap.create(None, 1)
    cdef area_view *t
    cdef account_row *account
    cdef usage_who who
    cdef usage_what what
    cdef money_record *r
    cdef int64_t balance
    cdef uint64_t held = 0
    money.bind(segment)
    (<object>money).begin(0)
    t = money.worker_view(0)
    account = <account_row *>(<char *>segment.header + segment.header.accounts_off)
    account.identity = 1
    account.currencies[0] = 1
    account.wallets[0].available = <int64_t>MONEY_MOST
    memset(&who, 0, sizeof(who))
    memset(&what, 0, sizeof(what))
    started = time.perf_counter_ns()
    with nogil:
        for _ in range(n):
            held += hold_open(t, account, 0, hold, &who, &r, &balance) == 1
            hold_capture(t, r, price, &what)
            t.head.ring_tail = t.head.ring_head
    each = (time.perf_counter_ns() - started) / n
    if held != n:
        raise AssertionError(f"{n - held} of {n} holds were refused")
    return each
