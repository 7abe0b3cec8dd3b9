"""entry: what a client's connection passes before it may speak: a PROXY header, limits by address (see entry.pyx)."""
from libc.stdint cimport uint64_t

from fastgate._core.platform.sys cimport sockaddr_storage
from fastgate._core.snapshot.snapshot cimport listener_rec, snapshot_header
from fastgate._core.state cimport core, downstream

cdef const listener_rec *entry_of(const snapshot_header *s, uint64_t listener) noexcept nogil
    # what a listener, by its id, asks of new connections; NULL: nothing
cdef void entry_peer(downstream *d, const sockaddr_storage *peer) noexcept nogil
    # the client is the peer
cdef int entry_announced(core *c, const downstream *d, const listener_rec *l) noexcept nogil
    # whether its peer has to begin with a PROXY header
cdef int entry_read(core *c, downstream *d, ssize_t n) noexcept nogil
    # After a read of n. 1: the header has come, and the client is the one that it announces; what follows it is in inb.
    # 0: more is needed; -1: close it.
cdef void entry_late(core *c, const downstream *d) noexcept nogil
    # the header did not come in time: close it
cdef int entry_admit(core *c, downstream *d, const listener_rec *l) noexcept nogil
    # 1, or 0: close it, its client is at a limit
cdef void entry_leave(core *c, downstream *d) noexcept nogil
    # it closes
