"""refs: how an image refers to its parts: by offsets from its start."""
from libc.stdint cimport uint32_t

cdef struct str_ref:
    uint32_t off
    uint32_t len

cdef struct table_ref:        # a table of records: byte offset of the first, and how many
    uint32_t off
    uint32_t count
