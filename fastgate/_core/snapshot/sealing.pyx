"""sealing: header and heap become an image: sized, with its checksums, in a sealed memfd.

The checksums and the seals are what readers check (snapshot.pyx). Large images are padded to whole huge
pages, and collapsed into them if the kernel can.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, munmap

from fastgate._core.snapshot.snapshot cimport HUGE, SNAPSHOT_VERSION, checksum_without, map_image

import fcntl
import os

from fastgate.errors import SnapshotError

cdef enum:
    MADV_COLLAPSE = 25

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


cdef int write_image(snapshot_header *h, const char *heap, uint64_t heap_size, uint64_t generation) except -1:
    cdef uint64_t size = (sizeof(snapshot_header) + heap_size + 31) & ~(<uint64_t>31)
    cdef void *at
    if size >= 2 * HUGE:
        size = (size + HUGE - 1) & ~(<uint64_t>HUGE - 1)
    if size > LARGEST_IMAGE:
        raise SnapshotError("the configuration compiles to more than 4 GiB")
    memcpy(h.magic, b"FGSNAP\0\0", 8)
    h.version = SNAPSHOT_VERSION
    h.size = <uint32_t>size
    h.generation = generation
    h.checksum = h.head_checksum = 0
    h.head_checksum = checksum_without(<const char *>h, sizeof(snapshot_header), False)
    fd = os.memfd_create("fastgate-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        at = map_image(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED)
        if at == MAP_FAILED:
            raise OSError("the image's memory cannot be mapped")
        memcpy(at, h, sizeof(snapshot_header))
        if heap_size:
            memcpy(<char *>at + sizeof(snapshot_header), heap, heap_size)
        (<snapshot_header *>at).checksum = checksum_without(<const char *>at, size, True)
        if size >= 2 * HUGE:
            madvise(at, size, MADV_COLLAPSE)    # best effort: older kernels do not know it
        munmap(at, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
