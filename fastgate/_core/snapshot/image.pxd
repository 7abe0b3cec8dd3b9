"""image: builds the snapshot's image, in control: records in, a sealed memfd out."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.snapshot.snapshot cimport policy_rec, snapshot_header, str_ref, table_ref

cdef struct growing:          # a block of bytes that grows; freed by ImageBuilder
    char *data
    uint64_t size
    uint64_t capacity

cdef class ImageBuilder:
    cdef snapshot_header head
    cdef growing heap             # from sizeof(snapshot_header) on: offsets into it never change
    cdef growing routes
    cdef growing policies
    cdef dict policy_index        # policy_rec as bytes → index
    cdef growing services
    cdef growing upstreams
    cdef growing targets
    cdef growing plans
    cdef growing auths
    cdef growing cors
    cdef growing statics
    cdef dict interned            # bytes → packed str_ref
    cdef dict tables              # (bytes, count) → packed table_ref
    cdef list handlers
    cdef dict handler_index
    cdef dict refusals            # reason → refusal_rec as bytes
    cdef list faults
    cdef bytes router
    cdef bint finished
    cdef int _grow(self, growing *g, uint64_t more) except -1
    cdef uint64_t _append(self, growing *g, const void *p, uint64_t size, uint64_t align) except? 0
    cdef str_ref _string(self, object text) except *
    cdef table_ref _handle(self, object handle) except *
    cdef table_ref _place(self, const void *p, uint64_t count, uint64_t item) except *
    cdef bint _redirects(self, uint32_t index) noexcept
    cdef uint32_t _policy(self, const policy_rec *p) except? 0
    cdef int _place_all(self) except -1
    cdef int _write(self, uint64_t generation) except -1
