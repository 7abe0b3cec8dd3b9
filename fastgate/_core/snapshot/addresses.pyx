"""addresses: lists of networks: whether an address is in one."""
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from fastgate._core.snapshot.snapshot cimport address_rule, snap_table


cdef int address_matches(const snapshot_header *s, table_ref rules, const uint8_t *address) noexcept nogil:
    cdef const address_rule *r = <const address_rule *>snap_table(s, rules)
    cdef uint32_t i, whole
    cdef uint8_t mask
    for i in range(rules.count):
        whole = r[i].prefix >> 3
        if memcmp(r[i].address, address, whole) != 0:
            continue
        if r[i].prefix & 7:
            mask = <uint8_t>(0xff00 >> (r[i].prefix & 7))
            if (r[i].address[whole] ^ address[whole]) & mask:
                continue
        return <int>i + 1
    return 0
