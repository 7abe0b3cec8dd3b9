"""delivery: whether a peer takes what it is sent.

A full socket tells nothing of its peer for a long time: the kernel asks for more only when a third
of its buffer, which may have grown to megabytes, is free again. At 10 KiB a second that takes
minutes. So whether a peer reads is told by what the *peer's* kernel has acknowledged:

    taken = bytes that our kernel took - bytes that it still holds (SIOCOUTQ)

A connection with something stuck is looked at eight times within the time that its peer may take
nothing. It costs nothing while all is taken at once. The first look is the yardstick, as nobody
knows what was taken before it; so a peer that takes nothing is found after 9/8 of its time.
"""

from fastgate._core.io.transport cimport conn_unsent

cdef enum:
    LOOKS = 8                 # within the time a peer may take nothing

SHOWN_NS = 5000000000


cdef inline uint64_t next_look(event_loop *l, uint32_t ms) noexcept nogil:
    return l.now + <uint64_t>ms * 1000000 // LOOKS


cdef void delivery_watch(event_loop *l, delivery *w, uint32_t ms) noexcept nogil:
    w.look_ns = next_look(l, ms)
    w.moved_ns = l.now
    w.first_ns = 0


cdef int delivery_look(event_loop *l, conn *x, delivery *w, uint32_t ms) noexcept nogil:
    cdef uint64_t unsent = conn_unsent(x)
    cdef uint64_t taken = x.out_taken + x.out_bytes - unsent
    if unsent == 0:
        w.look_ns = 0
        return TAKEN_ALL
    if w.first_ns == 0:
        w.first_ns = l.now
        w.first = taken
        w.moved_ns = l.now
    elif taken != w.last:
        w.moved_ns = l.now
    w.last = taken
    w.look_ns = next_look(l, ms)
    return TAKES_NOTHING if l.now - w.moved_ns >= <uint64_t>ms * 1000000 else TAKING


cdef int delivery_below(event_loop *l, const delivery *w, uint64_t rate) noexcept nogil:
    # Judged when something was taken just now. Between two such times nothing can be said: a peer's
    # kernel makes room in steps of a segment (64 KiB on loopback) however evenly its owner reads.
    if w.moved_ns != l.now or w.first_ns == 0 or l.now - w.first_ns < <uint64_t>SHOWN_NS:
        return 0
    return (w.last - w.first) < (l.now - w.first_ns) // 1000000 * rate // 1000
