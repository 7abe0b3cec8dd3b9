"""sealing: an image in its final form: a memfd that nobody can change."""
from libc.stdint cimport uint64_t

from fastgate._core.snapshot.snapshot cimport snapshot_header

cdef enum:
    LARGEST_IMAGE = 0xFFFFFF00    # bytes: offsets have 32 bits


cdef int write_image(snapshot_header *h, const char *heap, uint64_t heap_size, uint64_t generation) except -1
    # a sealed memfd, the caller's to close; completes the header. Raises SnapshotError, OSError
