"""subrequest: requests of the gateway's own, for an exchange or for nobody.

To authorization services, to issuers that are asked about a token, and copies of requests to mirrors:
a call like any other, through the same pools, with the same retries and deadlines, without a Python
object. What it asks is in one buffer, so that it can be sent again; its answer is collected, up to `most`
bytes.

    sub_new ─▶ sub_start ─┬─▶ done(s, 0)        the answer is here: s.k.resp at s.k.resp_base, s.body
                          ├─▶ done(s, reason)   there is none
                          └─▶ (dropped)         `done` is not called

It has its own memory and keeps its snapshot, so it may outlive the exchange that it was made for
(`sub_detach`): a token that several exchanges ask about, a mirrored request. After `done`, it is over.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastgate._core.exchange.snapshot_ref cimport leave_snapshot
from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_data, buf_head, buf_len, buf_return, buf_room
from fastgate._core.reason cimport OVERLOADED, UPSTREAM_INVALID_RESPONSE
from fastgate._core.state cimport (
    CALL_IDEMPOTENT, CALL_REPLAYABLE, CALL_RESPONSE_DONE, CALL_SUB)
from fastgate._core.upstream.call cimport call_abort, call_end, call_read, call_start, call_take


cdef subrequest *sub_new(core *c, exchange *e, const upstream_rec *group, uint32_t timeout_ms) noexcept nogil:
    cdef subrequest *s = c.free_subs
    if s is not NULL:
        c.free_subs = s.next
    else:
        s = <subrequest *>calloc(1, sizeof(subrequest))
        if s is NULL:
            return NULL
    memset(s, 0, sizeof(subrequest))
    s.ex = e
    s.ref = e.ref
    e.sub = s
    s.ref.in_flight += 1
    s.k.owner = c
    s.k.snap = e.snap
    s.k.group = group
    s.k.flags = CALL_SUB | CALL_REPLAYABLE | CALL_IDEMPOTENT
    s.k.first_byte_ms = timeout_ms
    s.k.idle_ms = timeout_ms
    s.k.hash = e.request_id[0]
    c.n_subs += 1
    s.next = c.subs
    if c.subs is not NULL:
        c.subs.before = s
    c.subs = s
    return s


cdef void release(subrequest *s) noexcept nogil:
    """It is over. Its memory is used again after this round: callers up the stack may look at it."""
    cdef core *c = s.k.owner
    if s.k.py_request is not NULL:
        buf_return(&c.loop.bufs, s.k.py_request)
    if s.k.py_head is not NULL:
        buf_return(&c.loop.bufs, s.k.py_head)
    if s.body is not NULL:
        buf_return(&c.loop.bufs, s.body)
    if s.note is not NULL:
        buf_return(&c.loop.bufs, s.note)
    s.k.py_request = s.k.py_head = s.body = s.note = NULL
    s.over = 1
    leave_snapshot(c, s.ref)
    c.n_subs -= 1
    if s.discard:
        c.n_mirrors -= 1
    if s.before is not NULL:
        s.before.next = s.next
    else:
        c.subs = s.next
    if s.next is not NULL:
        s.next.before = s.before
    s.next = c.ended_subs
    c.ended_subs = s


cdef void subs_reuse(core *c) noexcept nogil:
    cdef subrequest *s
    while c.ended_subs is not NULL:
        s = c.ended_subs
        c.ended_subs = s.next
        s.next = c.free_subs
        c.free_subs = s


cdef int sub_start(subrequest *s) noexcept nogil:
    cdef int reason = OVERLOADED
    if s.k.py_request is not NULL and not s.broken:
        reason = call_start(s.k.owner, &s.k)
    if reason != 0:
        if s.ex is not NULL:
            s.ex.sub = NULL
        release(s)
    return reason


cdef void sub_detach(subrequest *s) noexcept nogil:
    s.ex.sub = NULL
    s.ex = NULL


cdef void sub_drop(subrequest *s) noexcept nogil:
    if s.ex is not NULL and s.ex.sub is s:
        s.ex.sub = NULL
    call_abort(s.k.owner, &s.k)
    release(s)


cdef void subs_close(core *c) noexcept nogil:
    while c.subs is not NULL:
        sub_drop(c.subs)
    subs_reuse(c)


cdef void subs_free(core *c) noexcept nogil:
    cdef subrequest *s
    subs_reuse(c)
    while c.free_subs is not NULL:
        s = c.free_subs
        c.free_subs = s.next
        free(s)


# ---- its answer -----------------------------------------------------------------------------

cdef void finish(subrequest *s, int reason) noexcept nogil:
    cdef core *c = s.k.owner
    if s.k.up is not NULL:
        if reason == 0 and s.k.flags & CALL_RESPONSE_DONE:
            call_end(c, &s.k)
        else:
            call_abort(c, &s.k)
    if s.ex is not NULL and s.ex.sub is s:
        s.ex.sub = NULL                  # it may end in `done`
    if s.done is not NULL:
        s.done(s, reason)
    release(s)


cdef void sub_got_head(call *k) noexcept nogil:
    cdef subrequest *s = <subrequest *>k
    cdef buf *b = buf_borrow(&k.owner.loop.bufs, k.resp.size)
    if b is NULL:
        finish(s, OVERLOADED)
        return
    memcpy(buf_head(b), k.resp_base, k.resp.size)
    k.py_head = b
    k.resp_base = buf_head(b)
    if s.discard:
        # A mirror's answer: read it off, so that the connection can be used again.
        s.most = 0
    sub_got_body(k)


cdef void sub_got_body(call *k) noexcept nogil:
    cdef subrequest *s = <subrequest *>k
    cdef core *c = k.owner
    cdef buf *b
    while not k.flags & CALL_RESPONSE_DONE:
        b = call_take(c, k, 0)
        if s.over:
            return                       # it failed in between, which was handled there
        if b is NULL:
            break
        if not s.discard and not collect(s, b):
            finish(s, UPSTREAM_INVALID_RESPONSE)
            return
        if s.discard:
            buf_return(&c.loop.bufs, b)
    if k.flags & CALL_RESPONSE_DONE:
        finish(s, 0)
    else:
        call_read(c, k, 1)


cdef int collect(subrequest *s, buf *b) noexcept nogil:
    """Append a piece to the body, and give it back; 0: it is too long, or there is no memory."""
    cdef core *c = s.k.owner
    cdef uint32_t n = buf_len(b)
    if s.body is NULL and n <= s.most:
        s.body = buf_borrow(&c.loop.bufs, s.most)
    if s.body is NULL or buf_len(s.body) + n > s.most or buf_room(s.body) < n:
        buf_return(&c.loop.bufs, b)
        return 0
    memcpy(buf_data(s.body) + s.body.end, buf_head(b), n)
    s.body.end += n
    buf_return(&c.loop.bufs, b)
    return 1


cdef void sub_failed(call *k, int reason) noexcept nogil:
    finish(<subrequest *>k, reason)
