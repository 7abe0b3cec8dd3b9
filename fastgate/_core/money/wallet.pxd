"""wallet: account rows in the shared segment: access, balances, subscriptions, spending limits.

Written by control; read and (the balances) changed by workers, without a lock. What each word means,
and who may change it: wallet.pyx. How a balance changes, and stays exact if the process that changes
it is killed: holds.pyx.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.platform.atomics cimport fg_load, fg_load32, fg_read_before
from fastgate._core.shared.layout cimport (
    ANY_SERVICE, BILL_NUMBER, SUBSCRIPTIONS, SUBSCRIPTION_USED, WALLETS, account_row, owed_bill,
    segment_header, subscription)

cdef inline account_row *account_of(segment_header *s, uint32_t slot) noexcept nogil:
    """The row of an account slot; NULL if there is no such row, or no account has it."""
    cdef account_row *row
    if slot >= s.accounts_count:
        return NULL
    row = <account_row *>(<char *>s + s.accounts_off) + slot
    return row if fg_load(&row.identity) != 0 else NULL

cdef inline int wallet_index(const account_row *row, uint32_t currency) noexcept nogil:
    """The index of the wallet with this currency; -1: none."""
    cdef int i
    for i in range(WALLETS):
        if row.currencies[i] == currency and currency != 0:
            return i
    return -1

cdef inline uint64_t access_word(const subscription *s) noexcept nogil:
    """The second word of a subscription, read once: access 16, flags 16, ended 32, the first lowest."""
    return fg_load(<const uint64_t *>s + 1)

cdef inline int bill_read(const account_row *row, owed_bill *out) noexcept nogil:
    """A copy of the bill that is owed. 0: nothing is open, or it is being written."""
    cdef uint64_t version = fg_load(&row.owed.version)
    out[0] = row.owed
    fg_read_before()
    return version & 1 == 0 and out.micros > 0 and out.number_len <= BILL_NUMBER and \
        fg_load(&row.owed.version) == version

cdef inline const subscription *subscription_of(const account_row *row, uint32_t service) noexcept nogil:
    """The subscription for a service: its own, else the one for any service; NULL: none.

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
