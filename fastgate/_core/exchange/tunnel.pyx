"""tunnel: what follows a 101: bytes in both directions, until both sides have ended.

    client ──► upstream    tunnel_up, tunnel_up_drained
    upstream ──► client    tunnel_down, tunnel_down_drained

One side is not read while the other's queue is not empty, as in forward.pyx. If one side closes its
sending direction (a half-close), what it sent is delivered, and then our sending direction to the other
is closed too; the opposite direction goes on. The tunnel ends when both have ended and all is sent, or by
the deadlines of http1/deadlines.pyx and upstream/deadlines.pyx: an idle tunnel has the call's `idle_ms`.
"""

from fastgate._core.platform.buffer cimport buf
from fastgate._core.exchange.ending cimport drop_calls, end_tunnel, exchange_abort
from fastgate._core.shared.log_ring cimport LOG_TUNNEL
from fastgate._core.io.transport cimport conn_drained, conn_ended, conn_finish
from fastgate._core.reason cimport OVERLOADED, TUNNEL_CLOSED
from fastgate._core.exchange.render cimport start_response
from fastgate._core.exchange.snapshot_ref cimport unpin
from fastgate._core.state cimport (
    CALL_RESPONSE_DONE, DOWN_TUNNEL, EX_KEEP_ALIVE, EX_RESPONSE_STARTED, EX_TUNNEL, core,
    downstream)
from fastgate._core.upstream.deadlines cimport up_deadline
from fastgate._core.upstream.call cimport call_flush, call_queue, call_read, call_take


cdef void begin_tunnel(exchange *e, call *k) noexcept nogil:
    cdef downstream *d = e.down
    e.flags &= ~EX_KEEP_ALIVE
    if start_response(e, k, NULL, 0) < 0:
        drop_calls(e)
        exchange_abort(e, OVERLOADED)
        return
    e.owner.counters.tunnels += 1
    e.flags |= EX_TUNNEL | EX_RESPONSE_STARTED
    e.log_flags |= LOG_TUNNEL
    d.state = DOWN_TUNNEL
    unpin(e.owner, e)
    tunnel_down(e)
    if d.ex is e:
        d.codec.read(e, 1)


cdef int ended(exchange *e) noexcept nogil:
    """Both sides have ended, and everything was sent to both."""
    cdef call *k = e.relaying
    return conn_ended(&e.down.io) and k.flags & CALL_RESPONSE_DONE and conn_drained(&k.up.io) \
        and conn_drained(&e.down.io)


cdef void tunnel_up(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef call *k = e.relaying
    cdef buf *b
    cdef int done, refused = 0
    if k is NULL or k.up is NULL:
        end_tunnel(e, TUNNEL_CLOSED)
        return
    b = d.codec.take(e, 1, &refused)
    if refused != 0:
        end_tunnel(e, TUNNEL_CLOSED)
        return
    if b is NULL:
        if conn_ended(&d.io):
            d.codec.read(e, 0)
            tunnel_up_drained(e)
        return
    call_queue(c, k, b)
    done = call_flush(c, k)
    if done < 0:
        end_tunnel(e, TUNNEL_CLOSED)
    elif done == 0:
        d.codec.read(e, 0)


cdef void tunnel_up_drained(exchange *e) noexcept nogil:
    """The upstream can take more; if nothing is left, close our sending direction to it."""
    cdef call *k = e.relaying
    if not conn_ended(&e.down.io):
        e.down.codec.read(e, 1)
    elif ended(e):
        conn_finish(&k.up.io)            # an end in order: over TLS, with close_notify
        end_tunnel(e, TUNNEL_CLOSED)
    elif conn_drained(&k.up.io):
        conn_finish(&k.up.io)
        up_deadline(e.owner, k.up)


cdef void tunnel_down(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef call *k = e.relaying
    cdef buf *b = call_take(c, k, 1)
    cdef int done
    if b is not NULL and e.down.codec.data(e, b) < 0:
        end_tunnel(e, TUNNEL_CLOSED)
        return
    done = e.down.codec.flush(e)
    if done < 0:
        end_tunnel(e, TUNNEL_CLOSED)
    elif k.flags & CALL_RESPONSE_DONE:
        call_read(c, k, 0)
        if done == 1:
            tunnel_down_drained(e)
    else:
        call_read(c, k, done)


cdef void tunnel_down_drained(exchange *e) noexcept nogil:
    """The client can take more; if nothing is left, close our sending direction to it."""
    cdef call *k = e.relaying
    if not k.flags & CALL_RESPONSE_DONE:
        call_read(e.owner, k, 1)
    elif ended(e):
        end_tunnel(e, TUNNEL_CLOSED)
    else:
        conn_finish(&e.down.io)
        up_deadline(e.owner, k.up)
