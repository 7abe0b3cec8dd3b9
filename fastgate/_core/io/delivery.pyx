"""delivery: whether a peer takes what it is sent.

A full socket reveals nothing about its peer for a long time: the kernel asks for more only when a third
of its buffer, which may have grown to megabytes, is free again. At 10 KiB a second that takes
minutes. So what counts is how much the *peer's* kernel has acknowledged:

A connection with stuck output is checked eight times within the time in which its peer may take
nothing. While everything is taken at once, this costs nothing. The first check is the baseline, as what
was taken before it is unknown; so a peer that takes nothing is found after 9/8 of its time.
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
    # The rate is judged only right after something was taken. Between two such times it means nothing: a
    # peer's kernel makes room in steps of a segment (64 KiB on loopback) however evenly its owner reads.
    if w.moved_ns != l.now or w.first_ns == 0 or l.now - w.first_ns < <uint64_t>SHOWN_NS:
        return 0
    return (w.last - w.first) < (l.now - w.first_ns) // 1000000 * rate // 1000
