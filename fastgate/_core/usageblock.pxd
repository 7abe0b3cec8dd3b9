"""usageblock: usage records of one drain, put together by what they have in common."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.moneymap cimport money_record

cdef packed struct usage_line:    # 52 octets, little-endian: what a record has for itself
    uint64_t number               # id, second word: area << 56 | sequence
    int64_t time_us               # Unix time
    int64_t amount                # micro-units charged
    uint64_t units                # of the meter
    uint8_t request_id[16]
    uint16_t status
    uint16_t flags                # UsageFlag

cdef list pack_blocks(const money_record **records, size_t count)
cdef str currency_text(uint32_t code)
