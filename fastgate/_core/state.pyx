"""state: the memory of exchanges and calls."""
from libc.stdlib cimport calloc, free

from fastgate._core.http.head cimport head_reset
from fastgate._core.platform.buffer cimport buf_return
from fastgate._core.platform.checks cimport FG_KEEPS, fg_poison
from fastgate._core.platform.text cimport fg_clear
from fastgate._core.snapshot.snapshot cimport NONE32


cdef exchange *exchange_new(core *c) noexcept nogil:
    """A fresh exchange. Only what must be zero is cleared: heads and limits are large."""
    cdef exchange *e = c.free_exchanges
    if e is not NULL:
        c.free_exchanges = e.next
    else:
        e = <exchange *>calloc(1, sizeof(exchange))
        if e is NULL:
            return NULL
        fg_poison(e, sizeof(exchange))
    fg_clear(e, <size_t>(<char *>&e.main.resp - <char *>e))
    e.consumer.id_len = 0
    e.consumer.plan_len = 0
    e.consumer.name_len = 0
    e.consumer.plan = NONE32
    e.consumer.account_slot = NONE32
    e.consumer.spending = 0
    e.match.allowed = 0
    e.owner = c
    head_reset(&e.req)
    c.n_exchanges += 1
    return e


cdef void call_free(core *c, call *k) noexcept nogil:
    """Free a call that a handler made, after it is over."""
    if k.py_request is not NULL:
        buf_return(&c.loop.bufs, k.py_request)
    if k.py_head is not NULL:
        buf_return(&c.loop.bufs, k.py_head)
    c.n_calls -= 1
    free(k)


cdef void exchange_free(core *c, exchange *e) noexcept nogil:
    cdef call *k
    if e.headbuf is not NULL:
        buf_return(&c.loop.bufs, e.headbuf)
        e.headbuf = NULL
    if e.pathbuf is not NULL:
        buf_return(&c.loop.bufs, e.pathbuf)
        e.pathbuf = NULL
    if e.body is not NULL:
        buf_return(&c.loop.bufs, e.body)
        e.body = NULL
    if e.extra is not NULL:
        buf_return(&c.loop.bufs, e.extra)
        e.extra = NULL
    if e.lent is not NULL:
        buf_return(&c.loop.bufs, e.lent)
        e.lent = NULL
    if e.errors is not NULL:
        buf_return(&c.loop.bufs, e.errors)
        e.errors = NULL
    while e.calls is not NULL:
        k = e.calls
        e.calls = k.next
        call_free(c, k)
    c.n_exchanges -= 1
    if not FG_KEEPS:
        free(e)
        return
    fg_poison(e, sizeof(exchange))
    e.next = c.free_exchanges
    c.free_exchanges = e
