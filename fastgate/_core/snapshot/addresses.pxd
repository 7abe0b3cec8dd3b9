"""addresses: lists of networks: whether an address is in one."""
from libc.stdint cimport uint8_t

from fastgate._core.snapshot.snapshot cimport snapshot_header, table_ref

cdef int address_matches(const snapshot_header *s, table_ref rules, const uint8_t *address) noexcept nogil
    # index + 1 of the first address_rule whose network contains the address (16 bytes); 0: none
