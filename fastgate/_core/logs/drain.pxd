"""drain: takes records out of the rings, keeps the newest, renders the rest into lines."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.logs.format cimport line_clock
from fastgate._core.shared.log_ring cimport log_record
from fastgate._core.shared.segment cimport Segment
from fastgate._core.shared.layout cimport segment_header

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef class RecentRequests:
    cdef readonly uint32_t capacity
    cdef log_record *records      # NULL until the first record is kept
    cdef uint64_t kept            # in total; the newest is at (kept - 1) % capacity
    cdef pthread_mutex_t mutex
    cdef void keep(self, const log_record *r, uint32_t n) noexcept nogil

cdef class LogDrain:
    cdef readonly Segment segment
    cdef readonly RecentRequests recent
    cdef readonly str format
    cdef readonly bint phases
    cdef readonly uint64_t taken      # records taken out of the rings
    cdef readonly uint64_t damaged    # how many of these did not carry their position
    cdef int kind
    cdef line_clock clock
    cdef char *buffer
    cdef pthread_mutex_t mutex        # one drain at a time: a ring has one consumer
    cdef uint32_t take(self, uint32_t worker, uint32_t most, uint32_t *used) noexcept nogil
    cdef uint64_t waiting(self, uint32_t worker) noexcept nogil
    cdef void send(self, int fd, uint32_t used, uint64_t *lost, int *error, bint *cut) noexcept nogil
    cdef _ready(self)
