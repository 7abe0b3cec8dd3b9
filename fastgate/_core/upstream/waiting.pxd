"""waiting: calls that wait for room at a target (see waiting.pyx)."""
from libc.stdint cimport uint64_t

from fastgate._core.io.connection cimport conn
from fastgate._core.state cimport call, core

ctypedef void (*admitted_fn)(core *c, call *k, int reason) noexcept nogil

cdef struct line              # the part of an upstream's queue that is in this worker

cdef struct waiter:           # call.waiter
    call *k
    line *of
    waiter *next
    waiter *prev
    uint64_t since
    uint64_t until

cdef struct line:
    uint64_t identity         # upstream_rec.identity
    waiter *first
    waiter *last
    uint64_t noted            # since when the first one waits, as others can read it; 0: none does
    uint64_t held_ns          # since when there is room, but older ones elsewhere go first; 0: no
    uint64_t ignored          # others' notes up to this time no longer count: they did not come
    line *next

cdef struct waiting_room:     # core.waiting
    conn ticker
    uint64_t ticks            # when its event comes
    line *lines               # of all upstreams for which a call has waited
    admitted_fn admitted
    int freed                 # a place was freed in this worker

cdef int must_wait(core *c, const call *k) noexcept nogil
    # Whether older calls wait for the same upstream: a new one does not go before them.
cdef int wait_begin(core *c, call *k, admitted_fn admitted) noexcept nogil
    # Let the call wait. 1: `admitted` will be called with the reason 0, when k.target has a place for it, or with the
    # Reason why it has none. 0: the queue is full.
cdef void wait_leave(core *c, call *k) noexcept nogil      # it gives up; `admitted` is not called
cdef void place_free(core *c, uint64_t key) noexcept nogil # a place at a target, taken by select_target
cdef void waiting_round(core *c) noexcept nogil            # in each round while calls wait
cdef void waiting_free(core *c) noexcept nogil

cdef inline int places_freed(const core *c) noexcept nogil:
    """Whether a call that waits may go on, without an event."""
    return c.n_waits != 0 and (<const waiting_room *>c.waiting).freed
