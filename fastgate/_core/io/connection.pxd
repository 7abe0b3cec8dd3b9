"""connection: one peer's socket, and the loop that it belongs to, as `io` sees them.

    event_loop ──┬── ready list: connections with work that no epoll event will announce
                 ├── turns: clients' TLS handshakes with work, the first come first
                 ├── wheel: connections by deadline
                 └── graveyard: connections closed in this round
    conn         first member of the larger structs for a peer (downstream, upstream)

Only struct definitions belong here. Who may change what: `transport` and `poller` change the flags and
queues, `timer` the wheel's links. All other modules call `transport`.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.io.lag cimport loop_lag
from fastgate._core.platform.buffer cimport buf, buffers
from fastgate._core.platform.sys cimport epoll_event
from fastgate._core.tls.tables cimport tls_session

cdef enum:
    WHEEL_SLOTS = 4096
    EVENTS = 256              # taken in one epoll_wait()

cdef enum ConnKind:
    KIND_DOWN = 1
    KIND_UP = 2
    KINDS = 3                 # of peers; the following kinds are other members of the epoll set
    KIND_LISTENER = 3
    KIND_TIMER = 4
    KIND_OUTER = 5            # the descriptor of the event loop around the engine
    KIND_OUTER_TIMER = 6      # a timer of that loop

cdef enum IoFlag:
    IO_READABLE = 1           # the kernel may hold bytes for us: an edge that is not used up yet
    IO_READING = 2            # the owner wants bytes
    IO_BLOCKED = 4            # a write fell short; EPOLLOUT will follow
    IO_HUP = 8                # the peer sends nothing more after what is readable
    IO_ERROR = 16             # a read or a write failed, or the kernel reports that the connection is dead
    IO_CONNECTING = 32
    IO_CLOSED = 64
    IO_READY = 128            # is in the ready list, or among the turns
    IO_EOF = 256              # recv returned 0
    IO_BULK = 512             # reads have filled buffers: use large ones
    IO_AGAIN = 1024           # the data sink is to be called for what inb already holds
    IO_SHUT = 2048            # our side is closed: we send no more
    IO_WRITES = 4096          # the epoll set reports when it can be written to
    IO_HELD = 8192            # bytes that were read, but not decrypted yet: no event will announce them
    IO_SEALED = 16384         # the first buffer of the queue is encrypted: it waits for room in the socket's
    IO_HANDSHAKE = 32768      # a TLS handshake is in progress

cdef struct event_loop
cdef struct conn

# Whether a peer takes what it is sent, checked from time to time: see delivery.pyx.
cdef struct delivery:
    uint64_t look_ns          # when to check next; 0: it is not watched
    uint64_t moved_ns         # when the peer last took something, as far as was seen
    uint64_t first_ns         # the first check; 0: there was none yet
    uint64_t first            # bytes that it had taken by then
    uint64_t last             # and by the last check

# What TLS adds to a connection: see tls.pyx.
cdef struct tls_state:
    tls_session session
    event_loop *loop
    const char *in_at         # received bytes that libssl has not read yet
    uint32_t in_left
    buf *held                 # where these are when they have to wait; NULL: not waiting
    uint8_t server
    uint8_t begun             # something was received
    uint8_t ended             # the peer's close_notify came
    uint8_t failed            # libssl gave up, or the peer's end came without close_notify
    uint8_t last              # what is queued is the last: close_notify goes out with it
    uint8_t notified          # close_notify was written
    uint8_t broken            # our end must not look like a normal one
    uint8_t discards          # what comes is discarded undecrypted
    uint8_t rested            # its buffers were freed
    uint16_t fault            # TlsFault of its handshake
    unsigned long error       # libssl's

# What all TLS connections of a loop share.
cdef struct tls_scratch:
    uint32_t out_len
    char received[65536]
    char out[67584]           # encrypted, to be sent at once
    char gathered[16384]      # small pieces of one record

cdef struct conn:
    int fd
    uint8_t kind              # ConnKind
    uint8_t reserved
    uint16_t io               # IoFlag
    event_loop *loop
    conn *ready_next
    conn *timer_prev
    conn *timer_next
    uint64_t deadline         # CLOCK_MONOTONIC ns; 0: none
    uint64_t tick             # wheel tick that it is in; 0: not in the wheel
    uint64_t out_bytes        # queued, not yet taken by the kernel
    uint64_t out_taken        # taken by the kernel, in total
    buf *inb                  # borrowed while bytes are unread
    buf *out_head
    buf *out_tail
    tls_state *tls            # NULL: clear

# Connections with work, the first come first; linked by ready_next, marked by IO_READY: in one list at most.
cdef struct conn_list:
    conn *head
    conn *tail

# What the loop calls when something has happened; filled in once, by engine.
cdef struct conn_events:
    void (*data)(conn *x, ssize_t n) noexcept nogil       # n > 0: bytes in inb; 0: end; < 0: -errno
    void (*drained)(conn *x) noexcept nogil               # the output queue is empty again
    void (*progress)(conn *x) noexcept nogil              # part of the queue was written
    void (*hup)(conn *x) noexcept nogil                   # the peer closed, or it is dead, while nobody reads
    void (*connected)(conn *x, int error) noexcept nogil  # also after a handshake; 0, or errno

cdef struct wheel:
    conn *slots[WHEEL_SLOTS]
    uint64_t bitmap[64]       # WHEEL_SLOTS / 64
    uint64_t tick             # the last tick that was processed
    uint64_t armed_tick       # the timerfd is set for this; not after tick: not set
    uint64_t sooner           # something was put into a slot before armed_tick

cdef struct event_loop:
    int epfd
    int timerfd
    int outer_due             # the event loop around the engine has something to do
    uint64_t now              # CLOCK_MONOTONIC ns, read once a round
    loop_lag lag
    buffers bufs
    wheel *timers
    conn_list ready
    conn_list turns           # handshakes that wait for their turn
    conn *graveyard           # closed in this round; freed after it
    epoll_event events[EVENTS]      # of this round
    tls_scratch *tls          # NULL: no connection has used TLS yet
    conn outer                # that event loop: see outer_loop.pyx
    conn outer_timer
    uint64_t outer_ns         # when the timer fires
    void (*accepted)(conn *listener) noexcept nogil
    conn_events on[KINDS]     # by ConnKind
