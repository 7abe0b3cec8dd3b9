"""taking: the request's body, as its codec hands it over, no more of it than the route's cap."""
from fastgate._core.exchange.ending cimport exchange_abort, exchange_refuse
from fastgate._core.exchange.render cimport send_interim
from fastgate._core.platform.buffer cimport buf_return
from fastgate._core.reason cimport BODY_TOO_LARGE, OVERLOADED
from fastgate._core.state cimport EX_CONTINUE_DUE, EX_KEEP_ALIVE, EX_RESPONSE_STARTED


cdef buf *take_request(exchange *e, int verbatim) noexcept nogil:
    """The next piece of the request's body, as a buffer of its own; NULL: none yet. Updates
    body_state, or refuses: then e may have ended, and no longer be its connection's exchange."""
    cdef int refused = 0
    cdef buf *b = e.down.codec.take(e, verbatim, &refused)
    if refused == 0 and e.policy.body_cap and e.body_bytes > e.policy.body_cap:
        refused = BODY_TOO_LARGE
        if b is not NULL:
            buf_return(&e.owner.loop.bufs, b)
            b = NULL
    if refused == OVERLOADED:
        exchange_abort(e, OVERLOADED)
    elif refused != 0:
        e.flags &= ~EX_KEEP_ALIVE
        exchange_refuse(e, refused)
    return b


cdef void send_continue(exchange *e) noexcept nogil:
    if e.flags & EX_CONTINUE_DUE and not e.flags & EX_RESPONSE_STARTED:
        e.flags &= ~EX_CONTINUE_DUE
        send_interim(e, NULL)
        e.down.codec.flush(e)
