"""buffer: fixed-size I/O buffers, borrowed and returned; two size classes on free lists."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BUFFER_SMALL = 16384
    BUFFER_LARGE = 65536

cdef struct buf:
    buf *next                 # in a free list
    uint32_t cap
    uint32_t start            # unread bytes: [start, end)
    uint32_t end
    uint32_t reserved
    # the bytes follow

cdef struct buffers:
    buf *small
    buf *large
    uint32_t small_free
    uint32_t large_free
    uint64_t alive            # borrowed now
