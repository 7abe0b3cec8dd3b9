"""wallet: account rows in the shared segment: access, balances, subscriptions, spending limits.

Written by control, read and (the balances) changed by workers, without a lock. What each word
means, and who may change it: wallet.pyx. How a balance changes and stays exact when whoever
changes it is killed: holds.pyx.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.atomics cimport fg_load, fg_load32, fg_read_before
from fastgate._core.shm cimport segment_header

cdef enum:
    WALLETS = 4
    SUBSCRIPTIONS = 8
    ACCOUNT_LIMITS = 2
    ANY_SERVICE = 0xFFFFFFFF
    SUBSCRIPTION_USED = 1
    BILL_NUMBER = 39

cdef struct wallet:               # 16 bytes, aligned to 16; changed as a whole by one fg_cas16
    int64_t available             # micro-units of the wallet's currency; below 0: owed
    uint64_t tag                  # who changed it last: see holds.pyx

cdef struct subscription:         # 16 bytes, two words, each replaced by one store
    uint32_t service              # slot, or ANY_SERVICE
    uint32_t plan                 # slot
    uint16_t access               # a Reason with which it is refused; 0: none
    uint16_t flags                # SUBSCRIPTION_USED, then what control likes
    uint32_t ended                # Unix seconds since when it is refused; 0: not known

cdef struct owed_bill:                # 64 bytes: what an account owes first, for its refusals to tell
    uint64_t version              # odd while it is being written
    int64_t micros                # 0: nothing is open
    uint32_t currency             # as in account_row
    uint32_t due                  # Unix seconds
    uint8_t number_len
    char number[BILL_NUMBER]      # of the invoice

cdef struct account_row:          # 320 bytes. Writer: control, but for `wallets`
    uint64_t identity             # hash of the account's id; 0: a free row
    uint64_t access               # low 16 bits: a Reason with which all its requests are refused
    wallet wallets[WALLETS]
    uint32_t currencies[WALLETS]  # three ASCII letters, the first lowest; 0: no such wallet
    subscription subscriptions[SUBSCRIPTIONS]
    uint64_t limits[ACCOUNT_LIMITS]         # spending limits, as caps in credentials.pxd; 0: none
    uint32_t reserved
    uint32_t slot                 # the row's own number
    uint64_t spare
    owed_bill owed                     # read by refusals only

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

cdef inline uint64_t access_word(const subscription *s) noexcept nogil:
    """The second word of a subscription at one moment: access 16, flags 16, ended 32, the first lowest."""
    return fg_load(<const uint64_t *>s + 1)

cdef inline int bill_read(const account_row *row, owed_bill *out) noexcept nogil:
    """A copy of what is owed. 0: nothing is open, or it is being written just now."""
    cdef uint64_t version = fg_load(&row.owed.version)
    out[0] = row.owed
    fg_read_before()
    return version & 1 == 0 and out.micros > 0 and out.number_len <= BILL_NUMBER and \
        fg_load(&row.owed.version) == version

cdef inline const subscription *subscription_of(const account_row *row, uint32_t service) noexcept nogil:
    """The subscription for a service: its own before one for any; NULL: none.

    Its words may change while they are read: load each once."""
    cdef const subscription *any_one = NULL
    cdef uint32_t its
    cdef int i
    for i in range(SUBSCRIPTIONS):
        if not access_word(&row.subscriptions[i]) & <uint64_t>SUBSCRIPTION_USED << 16:
            continue
        its = fg_load32(&row.subscriptions[i].service)
        if its == service:
            return &row.subscriptions[i]
        if its == <uint32_t>ANY_SERVICE and any_one is NULL:
            any_one = &row.subscriptions[i]
    return any_one
