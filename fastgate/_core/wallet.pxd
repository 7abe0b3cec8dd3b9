"""wallet: account rows in the shared segment: access, balances, subscriptions, spending limits.

Written by control, read and (the balances) changed by workers, without a lock. What each word
means, and who may change it: wallet.pyx. How a balance changes and stays exact when whoever
changes it is killed: holds.pyx.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.atomics cimport fg_load, fg_load32
from fastgate._core.shm cimport segment_header

cdef enum:
    WALLETS = 4
    SUBSCRIPTIONS = 8
    ACCOUNT_LIMITS = 2
    ANY_SERVICE = 0xFFFFFFFF
    SUBSCRIPTION_USED = 1

cdef struct wallet:               # 16 bytes, aligned to 16; changed as a whole by one fg_cas16
    int64_t available             # micro-units of the wallet's currency; below 0: owed
    uint64_t tag                  # who changed it last: see holds.pyx

cdef struct subscription:         # 16 bytes, two words, each replaced by one store
    uint32_t service              # slot, or ANY_SERVICE
    uint32_t plan                 # slot
    uint32_t access               # a Reason with which it is refused; 0: none
    uint32_t flags                # SUBSCRIPTION_USED, then what control likes

cdef struct account_row:          # 256 bytes. Writer: control, but for `wallets`
    uint64_t identity             # hash of the account's id; 0: a free row
    uint64_t access               # low 16 bits: a Reason with which all its requests are refused
    wallet wallets[WALLETS]
    uint32_t currencies[WALLETS]  # three ASCII letters, the first lowest; 0: no such wallet
    subscription subscriptions[SUBSCRIPTIONS]
    uint64_t limits[ACCOUNT_LIMITS]         # spending limits, as caps in credentials.pxd; 0: none
    uint32_t reserved
    uint32_t slot                 # the row's own number
    uint64_t spare

cdef inline account_row *account_of(segment_header *s, uint32_t slot) noexcept nogil:
    """The row of an account slot; NULL when there is no such row or nobody has it."""
    cdef account_row *row
    if slot >= s.accounts_count:
        return NULL
    row = <account_row *>(<char *>s + s.accounts_off) + slot
    return row if fg_load(&row.identity) != 0 else NULL

cdef inline int wallet_index(const account_row *row, uint32_t currency) noexcept nogil:
    """Which wallet is of that currency; -1: none."""
    cdef int i
    for i in range(WALLETS):
        if row.currencies[i] == currency and currency != 0:
            return i
    return -1

cdef inline const subscription *subscription_of(const account_row *row, uint32_t service) noexcept nogil:
    """The subscription for a service: its own before one for any; NULL: none.

    Its words may change while they are read: load each once."""
    cdef const subscription *any_one = NULL
    cdef uint32_t its
    cdef int i
    for i in range(SUBSCRIPTIONS):
        if not fg_load32(&row.subscriptions[i].flags) & SUBSCRIPTION_USED:
            continue
        its = fg_load32(&row.subscriptions[i].service)
        if its == service:
            return &row.subscriptions[i]
        if its == <uint32_t>ANY_SERVICE and any_one is NULL:
            any_one = &row.subscriptions[i]
    return any_one
