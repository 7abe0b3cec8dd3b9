"""router_build: builds the router's tables, in control, and checks them."""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from fastgate._core.snapshot.router cimport router_head, slot_table
from fastgate._core.snapshot.snapshot cimport route_rec

cdef struct info:             # what is known about a route that was added
    uint32_t route
    int32_t priority
    uint64_t predicates       # handle of its table: equal handles, equal predicates
    uint32_t npredicates
    uint16_t methods
    uint16_t flags            # CANDIDATE_*
    uint32_t patterned        # parameters with a pattern of their own, the first one in the highest of 16 bits

cdef class _Tree:             # a segment of the patterns of one host, while they are collected
    cdef dict kids            # literal segment (bytes) → _Tree
    cdef _Tree param
    cdef object leaf          # info index, or a list of them; None
    cdef object rest

cdef class _Host:
    cdef uint32_t id
    cdef uint32_t statics
    cdef _Tree tree

cdef class RouterBuilder:
    cdef info *infos
    cdef uint32_t count
    cdef uint32_t capacity
    cdef list names           # of infos
    cdef list tokens          # of infos: tuple of str
    cdef dict hosts           # host as configured ("" for any) → _Host
    cdef dict statics         # (host id, path) → info index, or a list of them
    cdef const route_rec *routes  # the image's, while `build` runs
    cdef char *out
    cdef uint64_t size
    cdef uint64_t room
    cdef object host_now      # for errors
    cdef uint32_t trie_now    # of the host that is being written
    cdef uint32_t depths_now
    cdef uint32_t _remember(self, uint32_t route, str name, object methods, tuple tokens,
                            object ranking) except? 0xFFFFFFFF
    cdef uint32_t _space(self, uint64_t size, uint64_t step=*) except? 0
    cdef int _bytes(self, uint32_t at, bytes raw) except -1
    cdef list _ranked(self, object entries, str pattern)
    cdef int _candidates(self, uint32_t at, list entries) except -1
    cdef uint32_t _leaf(self, object entries, str pattern) except 0
    cdef int _slots(self, object entries, slot_table *t) except -1
    cdef int _put(self, const slot_table *t, uint64_t key, uint32_t entry) except -1
    cdef uint64_t _prefix(self, _Host host, _Tree tree, bytes path, list found) except? 0
    cdef uint32_t _host(self, str key, _Host host, router_head *r, list found) except 0
    cdef uint32_t _static(self, uint32_t host, bytes path, object entries) except 0
    cdef uint32_t _node(self, object tree, bytes label, str pattern, uint64_t *worst) except 0
