"""segment: the shared segment. One memfd, created by the supervisor and mapped by every process.

Content: layout.pxd. Drawing and invariants: segment.pyx.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.shared.layout cimport segment_header, target_row, worker_row

cdef class Segment:
    cdef readonly int fd
    cdef char *base
    cdef size_t size
    cdef segment_header *header
    cdef worker_row *worker(self, uint32_t index) noexcept nogil
    cdef target_row *target(self, uint32_t slot) noexcept nogil
    cdef char *worker_area(self, uint32_t index) noexcept nogil
    cdef _map(self, size_t size, int sharing)
    cdef _advise(self)

cdef void zero_pages(char *p, uint64_t size) noexcept nogil
    # They read as zero afterwards; whole pages no longer take memory.
