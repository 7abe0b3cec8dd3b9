"""holds: reserve, take and give back money on a wallet, exact under SIGKILL. Theory: holds.pyx.

For the view of the calling process's own worker, or of a dead worker."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.money.layout cimport money_header, money_record, area_view
from fastgate._core.shared.layout cimport account_row, wallet

cdef enum:
    MONEY_MOST = 1152921504606846976     # 2^60 micro-units, the most that one operation may move

cdef struct usage_who:            # the record's data about its request, known when the hold is opened
    int64_t time_ns               # Unix time
    uint64_t consumer             # identities; 0: none
    uint64_t credential
    uint32_t route_slot           # slots, or NONE32
    uint32_t service_slot
    uint32_t plan_slot
    uint64_t meter                # 0: the request itself
    uint8_t request_id[16]

cdef struct usage_what:           # the record's data about the answer, known when it is settled
    int64_t time_ns
    uint64_t units
    uint16_t status

cdef int hold_open(area_view *t, account_row *account, int index, int64_t amount, const usage_who *who,
                   money_record **hold, int64_t *balance) noexcept nogil
    # 1: *hold is the hold, *balance what is left. 0: not enough, *balance is what there is; nothing is
    # held. -1: no free row (overloaded). amount: 0 to MONEY_MOST.
cdef void hold_due(money_record *hold, int64_t amount) noexcept nogil
    # From now on this much is owed if the worker dies before it settles. One store.
cdef int hold_capture(area_view *t, money_record *hold, int64_t actual, const usage_what *what) noexcept nogil
    # Take `actual` (at most what was held), give back the rest, publish the usage record.
    # 1: published; 0: the ring is full, the record stays in its row until control fetches it.
cdef void hold_release(area_view *t, money_record *hold) noexcept nogil
    # Give all of it back; there is no record.
cdef void usage_fill(money_record *r, const account_row *account, const usage_who *who,
                     const usage_what *what) noexcept nogil
    # For records without money (usage_reserve): sets everything but the id. account may be NULL.

cdef int64_t hold_pending(money_header *m, const account_row *account, int index, int64_t enough) noexcept nogil
    # What requests in progress hold on a wallet and do not owe yet, so that it may come back. Summed up
    # to `enough`. Reads the used part of all hold tables: for refusals only.

# ---- operations of control --------------------------------------------------------------
cdef int hold_resolve(area_view *t, money_record *hold, int policy) noexcept nogil
    # Settle a dead worker's hold. 1: its record is parked; 0: the row is free, or its owner is alive.
cdef int hold_taken(area_view *t, const money_record *hold) noexcept nogil
    # Whether the held amount is currently taken from the wallet; changes nothing.
cdef int credit_apply(area_view *t, money_record *row, int64_t floor, int64_t *balance) noexcept nogil
    # 1: the wallet has it (once, however often this is called); 0: it would fall below the floor.
cdef bint credit_applied(area_view *t, money_record *row) noexcept nogil
cdef int wallet_set(money_header *m, wallet *w, int64_t available) noexcept nogil
