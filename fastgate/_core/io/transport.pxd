"""transport: what the rest of the engine may do with a connection (see transport.pyx).

Only `io` reads or writes a descriptor, or looks at `conn.io` and the queue directly.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.io.connection cimport (
    IO_BLOCKED, IO_BULK, IO_EOF, IO_ERROR, IO_HELD, IO_READABLE, IO_READING, IO_READY, conn)
from fastgate._core.platform.buffer cimport buf
from fastgate._core.platform.sys cimport sockaddr_storage

cdef enum:
    OWED_LITTLE = 16384

# ---- reading ----------------------------------------------------------------------------
cdef ssize_t conn_recv(conn *x) noexcept nogil                    # called by poller, which calls the owner
cdef void conn_read_start(conn *x) noexcept nogil
cdef void conn_read_now(conn *x) noexcept nogil                   # conn_read_start, and try without waiting for an event
cdef void conn_read_stop(conn *x) noexcept nogil
cdef void conn_again(conn *x) noexcept nogil                      # call its data sink (n = 1) for what inb holds
cdef int conn_peek(conn *x) noexcept nogil                        # whether the kernel holds bytes not announced yet

cdef inline int conn_reading(const conn *x) noexcept nogil:
    return x.io & IO_READING

cdef inline int conn_more(const conn *x) noexcept nogil:
    """Whether there may be more to read, besides what inb holds."""
    return x.io & (IO_READABLE | IO_HELD)

cdef inline int conn_held(const conn *x) noexcept nogil:
    """Whether there is more to read that the kernel no longer has."""
    return x.io & IO_HELD

cdef inline int conn_ended(const conn *x) noexcept nogil:
    """Whether the peer's end was read: it sends no more."""
    return x.io & IO_EOF

cdef inline int conn_dead(const conn *x) noexcept nogil:
    """Whether a read or a write failed, or the kernel reports that the connection is dead."""
    return x.io & IO_ERROR

cdef inline int conn_ready_listed(const conn *x) noexcept nogil:
    """Whether it is in the ready list: its memory must stay."""
    return x.io & IO_READY

cdef inline void conn_expect_little(conn *x) noexcept nogil:
    """A new message begins, which may be small: read into small buffers first."""
    x.io &= ~IO_BULK

# ---- writing ----------------------------------------------------------------------------
cdef void conn_queue(conn *x, buf *b) noexcept nogil              # takes b over; does not write yet
cdef int conn_write(conn *x) noexcept nogil                       # conn_flush, for a queue that is not empty
cdef uint64_t conn_unsent(conn *x) noexcept nogil                 # bytes the peer has not taken yet: our queue and the kernel's
cdef inline int conn_may_owe(const conn *x) noexcept nogil:
    """Whether the kernel may keep more unsent bytes than are worth the question (conn_unsent) at a close: the few
    bytes of a connection that never sent more end by the kernel's own rules for connections without an owner."""
    return x.out_taken > OWED_LITTLE or x.out_bytes != 0

cdef void conn_drop(conn *x) noexcept nogil                       # discard what is queued

cdef inline int conn_drained(const conn *x) noexcept nogil:
    """Whether the kernel has everything that was queued."""
    return x.out_head is NULL

cdef inline int conn_flush(conn *x) noexcept nogil:
    """Write what is queued. 1: the queue is empty; 0: the rest follows, then the drained sink; < 0: -errno."""
    return 1 if conn_drained(x) else conn_write(x)

cdef inline int conn_blocked(const conn *x) noexcept nogil:
    """Whether a write fell short, and the kernel's buffer is still full."""
    return x.io & IO_BLOCKED

# ---- the end ----------------------------------------------------------------------------
cdef int conn_finish(conn *x) noexcept nogil                      # send no more, but keep reading; 0, or -errno

cdef inline void conn_broken(conn *x) noexcept nogil:
    """Something is missing at its end: over TLS, its close must not look like a normal one."""
    if x.tls is not NULL:
        x.tls.broken = 1

cdef inline void conn_last(conn *x) noexcept nogil:
    """What is queued is the last: over TLS, the normal end goes out with it."""
    if x.tls is not NULL:
        x.tls.last = 1

cdef inline void conn_discard(conn *x) noexcept nogil:
    """What the peer still sends is of no interest: TLS does not decrypt it."""
    if x.tls is not NULL:
        x.tls.discards = 1

cdef void conn_resets(conn *x, int on) noexcept nogil             # whether a close is a reset, which discards unsent bytes
cdef void conn_give_up_after(conn *x, uint32_t ms) noexcept nogil # how long the kernel keeps trying to send the rest
cdef void conn_probe(conn *x) noexcept nogil                      # make the kernel check that the peer is there
cdef void conn_close(conn *x) noexcept nogil                      # at once; frees queue and buffer; memory is freed after the round

# ---- the beginning ----------------------------------------------------------------------
cdef int conn_introduce(conn *x, const char *p, uint32_t n) noexcept nogil
    # Send these few bytes, before TLS begins; more must follow at once. 0; -1: the kernel did not take all of them
cdef int conn_local(const conn *x, uint8_t *address, uint16_t *port) noexcept nogil
    # Our end of it, as socket_address; 0: it has no address, or is closed
cdef int conn_accept(conn *listener, sockaddr_storage *peer) noexcept nogil    # a descriptor, or -errno
