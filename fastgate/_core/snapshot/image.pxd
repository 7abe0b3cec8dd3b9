"""image: builds the snapshot's image, in control: records in, a sealed memfd out."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.snapshot.records cimport RecordHeap, growing
from fastgate._core.snapshot.snapshot cimport snapshot_header

cdef class ImageBuilder(RecordHeap):
    cdef snapshot_header head
    cdef growing routes
    cdef growing policies
    cdef dict policy_index        # policy_rec as bytes → index
    cdef growing traffic
    cdef dict traffic_index       # traffic_rec as bytes → index
    cdef growing services
    cdef growing upstreams
    cdef growing targets
    cdef growing plans
    cdef growing auths
    cdef growing cors
    cdef growing statics
    cdef growing listeners
    cdef list handlers
    cdef dict handler_index
    cdef dict refusals            # reason → refusal_rec as bytes
    cdef list faults
    cdef bytes router
    cdef bint finished
    cdef bint _redirects(self, uint32_t index) noexcept
    cdef uint32_t _shared(self, growing *g, dict known, const void *p, uint64_t size) except? 0
    cdef int _place_all(self) except -1
