"""buffer: fixed-size I/O buffers, borrowed and returned; two size classes on free lists.

    | buf header | headroom 32 | ... [start, end) unread ... | tailroom 8 |

The headroom and the tailroom let a chunk's size line and its CRLF be written around bytes
that are already in the buffer, so that relaying never copies a body.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.platform.checks cimport FG_KEEPS, fg_poison

cdef enum:
    BUFFER_SMALL = 16384
    BUFFER_LARGE = 65536
    HEADROOM = 32
    TAILROOM = 8
    COLLECT_MOST = 1 << 30    # the most that is collected in one buffer: a body for a handler
    BUFFER_MOST = 0x7ffff000  # the largest buffer: leaves room to grow within 32 bits

cdef struct buf:
    buf *next                 # in a free list, or in a connection's output queue
    uint32_t cap              # bytes of data[], including the headroom and tailroom
    uint32_t start            # unread bytes: data[start:end]
    uint32_t end
    uint32_t reserved

cdef struct buffers:
    buf *small
    buf *large
    uint32_t small_free
    uint32_t large_free
    uint32_t keep_small       # how many free ones are kept at most
    uint32_t keep_large
    uint64_t alive            # currently borrowed
    uint64_t beyond           # bytes of these beyond BUFFER_SMALL each

cdef void buffers_init(buffers *b, uint32_t keep_small, uint32_t keep_large) noexcept nogil
cdef void buffers_free(buffers *b) noexcept nogil
cdef buf *buf_alloc(buffers *b, size_t size) noexcept nogil
cdef void buf_trim(buffers *b) noexcept nogil
    # give free buffers back to the system

cdef inline uint64_t buffers_bytes(const buffers *b) noexcept nogil:
    """Bytes of those that are borrowed."""
    return b.alive * BUFFER_SMALL + b.beyond

cdef inline char *buf_data(buf *b) noexcept nogil:
    return <char *>b + sizeof(buf)

cdef inline char *buf_head(buf *b) noexcept nogil:
    return <char *>b + sizeof(buf) + b.start

cdef inline uint32_t buf_len(const buf *b) noexcept nogil:
    return b.end - b.start

cdef inline uint32_t buf_room(const buf *b) noexcept nogil:
    return b.cap - TAILROOM - b.end

cdef inline buf *buf_borrow(buffers *b, size_t size) noexcept nogil:
    """A buffer with room for `size` bytes (above BUFFER_LARGE, allocated in that size). NULL: no memory,
    or more than BUFFER_MOST. Sums of sizes are size_t, so that too large a sum is refused, not wrapped."""
    cdef buf *r = b.small
    if r is not NULL and size <= BUFFER_SMALL - HEADROOM - TAILROOM:
        b.small = r.next
        b.small_free -= 1
        b.alive += 1
        r.next = NULL
        r.start = HEADROOM
        r.end = HEADROOM
        return r
    return buf_alloc(b, size)

cdef void buf_return_other(buffers *b, buf *r) noexcept nogil

cdef inline void buf_return(buffers *b, buf *r) noexcept nogil:
    if FG_KEEPS and r.cap == BUFFER_SMALL and b.small_free < b.keep_small:
        fg_poison(buf_data(r), r.cap)
        r.next = b.small
        b.small = r
        b.small_free += 1
        b.alive -= 1
    else:
        buf_return_other(b, r)
