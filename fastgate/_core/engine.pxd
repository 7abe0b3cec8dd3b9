"""engine: one worker's data plane: its listeners, its snapshot, and the poll loop."""
from libc.stdint cimport uint32_t

from fastgate._core.io.libuv cimport uv_hook
from fastgate._core.reports cimport Reports
from fastgate._core.shared.segment cimport Segment

cdef class Engine(Reports):
    cdef Segment segment
    cdef object credentials
    cdef object money
    cdef object __weakref__
    cdef uv_hook *hook        # in the event loop that the engine waits for; NULL: none
    cdef object issuers       # the current keyring's IssuerRing
    cdef list rings           # TlsRings in use; the last is the current one
    cdef bint kicked
    cdef readonly bint closed
    cdef int hand_over(self) except -1
    cdef void leave(self) noexcept
    cdef void retire(self) noexcept
    cdef int sweep(self) except -1
    cdef int find(self, uint32_t i) except -1
    cdef int kick(self) except -1
