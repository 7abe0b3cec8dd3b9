"""money_file: creating, opening and mapping the file for money in progress (see money_file.pyx)."""
from libc.stdint cimport uint32_t

from fastgate._core.money.layout cimport money_header, area_view
from fastgate._core.shared.segment cimport Segment

cdef class MoneyFile:
    cdef readonly int fd
    cdef readonly Segment segment
    cdef char *base
    cdef size_t size
    cdef money_header *header
    cdef area_view *views              # AREAS_MAX of them
    cdef area_view *worker_view(self, uint32_t worker) noexcept nogil
    cdef area_view *control_view(self) noexcept nogil
    cdef _map(self, size_t size, int sharing)
    cdef _open_views(self)
    cdef _lock(self)
    cdef _check_worker(self, uint32_t worker)
