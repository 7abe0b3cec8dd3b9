"""usage_block: usage records of one drain, grouped by what they have in common."""
from libc.stdint cimport uint32_t

from fastgate._core.money.layout cimport money_record

cdef list pack_blocks(const money_record **records, size_t count)
