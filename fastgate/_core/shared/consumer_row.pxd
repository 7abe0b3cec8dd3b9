"""consumer_row: a consumer in the credential index: one row, and a second one for its own limits."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cpdef enum ConsumerFlag:
    CONSUMER_SUSPENDED_FLAG = 1

cdef struct limit_override:   # 32 bytes: a consumer's own numbers for limits of one name
    uint64_t key              # limit_rec.override_key; 0: no more
    uint64_t amount           # as in limit_rec
    uint64_t interval_ns      # of a rate
    uint64_t tolerance_ns

cdef enum:
    OVERRIDES = 8             # per consumer: they fill a row of their own

cdef struct consumer_row:     # 256 bytes, immutable once published; a change writes a new row
    uint64_t identity         # hash of the consumer's id: key of its limits
    uint64_t account          # hash of the account's id; 0: nobody pays
    uint32_t plan             # plan slot, or NONE32
    int32_t overrides         # how many rows further its limit_override's are; 0: it has none
    uint8_t id_len
    uint8_t name_len
    uint8_t plan_len
    uint8_t flags             # ConsumerFlag
    uint32_t account_slot     # row of the account in the segment (wallet.pxd), or NONE32
    char id[64]
    char name[96]
    char plan_name[56]
    uint64_t spending         # cap: micro-units << 8 | Period (never SECOND, which is 0); 0: none

cdef inline const limit_override *overrides_of(const consumer_row *row) noexcept nogil:
    """OVERRIDES of them, or NULL. Valid as long as the row."""
    return <const limit_override *>(row + row.overrides) if row.overrides else NULL

cdef inline uint64_t cap_micros(uint64_t spending) noexcept nogil:
    return spending >> 8

cdef inline uint8_t cap_period(uint64_t spending) noexcept nogil:
    return <uint8_t>(spending & 0xFF)

cdef object consumer_of(const consumer_row *row)              # a Consumer
cdef object spending_cap(uint64_t spending)                   # a SpendingCap
cdef uint64_t spending_word(cap) except? 0                    # of a SpendingCap
cdef bytes text_of(str what, value, int room, bint cut)
    # UTF-8 that fits; if `cut`, longer text is cut between characters, otherwise it is a ValueError.
cdef int put_overrides(limit_override *own, overrides) except -1   # OVERRIDES of them; unused ones are zero
cdef int64_t overrides_row(const consumer_row *rows, uint64_t used, uint32_t row) noexcept nogil
    # The number of the row with this row's overrides; -1: it has none.
