"""buffer: the slow half of buffer.pxd, for what the free list of small buffers cannot serve."""
from libc.stdlib cimport free, malloc
from libc.string cimport memset


cdef void buffers_init(buffers *b, uint32_t keep_small, uint32_t keep_large) noexcept nogil:
    memset(b, 0, sizeof(buffers))
    b.keep_small = keep_small
    b.keep_large = keep_large


cdef void buffers_free(buffers *b) noexcept nogil:
    cdef uint32_t small = b.keep_small, large = b.keep_large
    b.keep_small = 0
    b.keep_large = 0
    buf_trim(b)
    b.keep_small = small
    b.keep_large = large


cdef void buf_trim(buffers *b) noexcept nogil:
    cdef buf *r
    while b.small is not NULL:
        r = b.small
        b.small = r.next
        free(r)
    while b.large is not NULL:
        r = b.large
        b.large = r.next
        free(r)
    b.small_free = 0
    b.large_free = 0


cdef buf *buf_alloc(buffers *b, size_t size) noexcept nogil:
    cdef uint32_t cap
    cdef buf *r = NULL
    if not FG_KEEPS and size <= <size_t>BUFFER_MOST:
        cap = <uint32_t>(size + HEADROOM + TAILROOM)     # exactly this size: see checks
    elif size <= BUFFER_SMALL - HEADROOM - TAILROOM:
        cap = BUFFER_SMALL
    elif size <= BUFFER_LARGE - HEADROOM - TAILROOM:
        cap = BUFFER_LARGE
        r = b.large
        if r is not NULL:
            b.large = r.next
            b.large_free -= 1
    elif size <= <size_t>BUFFER_MOST:
        cap = <uint32_t>(size + HEADROOM + TAILROOM)
    else:
        return NULL
    if r is NULL:
        r = <buf *>malloc(sizeof(buf) + cap)
        if r is NULL:
            return NULL
        r.cap = cap
    r.next = NULL
    r.start = HEADROOM
    r.end = HEADROOM
    b.alive += 1
    b.beyond += <uint64_t>r.cap - BUFFER_SMALL
    return r


cdef void buf_return_other(buffers *b, buf *r) noexcept nogil:
    b.alive -= 1
    b.beyond -= <uint64_t>r.cap - BUFFER_SMALL
    if FG_KEEPS and r.cap == BUFFER_LARGE and b.large_free < b.keep_large:
        fg_poison(buf_data(r), r.cap)
        r.next = b.large
        b.large = r
        b.large_free += 1
    else:
        free(r)


# ---- the border ---------------------------------------------------------------------------

MOST_COLLECTED = <size_t>COLLECT_MOST
"""Bytes of the largest request body that can be collected for a handler."""


def room(size_t size) -> int | None:
    """Bytes that a buffer borrowed for `size` can hold; None if there is no buffer that large."""
    cdef buffers b
    cdef buf *r
    buffers_init(&b, 0, 0)
    r = buf_borrow(&b, size)
    if r is NULL:
        return None
    size = buf_room(r)
    buf_return(&b, r)
    return size
