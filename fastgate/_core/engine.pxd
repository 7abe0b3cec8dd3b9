"""engine: one worker's data plane: its listeners, its snapshot, and the poll loop."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.handlers.host cimport Host
from fastgate._core.shared.segment cimport Segment

cdef class Engine(Host):
    cdef Segment segment
    cdef object credentials
    cdef object money
    cdef object __weakref__
    cdef bint kicked
    cdef readonly bint closed
    cdef int rounds(self) noexcept nogil
    cdef void bury(self) noexcept nogil
    cdef void read_window_clock(self) noexcept nogil
    cdef void expire(self) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef void retire(self) noexcept
    cdef int sweep(self) except -1
    cdef int kick(self) except -1
