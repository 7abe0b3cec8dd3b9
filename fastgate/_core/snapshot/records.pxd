"""records: strings and small records of an image, in its heap."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.snapshot.snapshot cimport str_ref, table_ref

cdef struct growing:          # a block of bytes that grows; freed by the object that has it
    char *data
    uint64_t size
    uint64_t capacity

cdef class RecordHeap:
    cdef growing heap             # from sizeof(snapshot_header) on: offsets into it never change
    cdef dict interned            # bytes → packed str_ref
    cdef dict tables              # (bytes, count) → packed table_ref
    cdef int _grow(self, growing *g, uint64_t more) except -1
    cdef uint64_t _append(self, growing *g, const void *p, uint64_t size, uint64_t align) except? 0
    cdef str_ref _string(self, object text) except *
    cdef table_ref _handle(self, object handle) except *
    cdef table_ref _place(self, const void *p, uint64_t count, uint64_t item) except *
