"""mirror: copies of requests for another service, whose answers nobody waits for.

A copy has the method, the path and the fields of the request as the upstream gets it, and one more,
X-FastGate-Mirror. It is a subrequest, with the mirror's own targets, deadlines and retries. Its answer is read
and forgotten.

    mirror_begin ─┬─ the body is here ──────────────────────────────────────────▶ sent, for nobody
                  └─ it is copied while it passes: mirror_piece ··· mirror_whole ─▶ sent, for nobody

The head is written at the beginning, because the exchange gives up its configuration when it is answered. Until
the body is whole, the copy belongs to the exchange (`e.sub`) and ends with it: a request whose client leaves, or
that fails before, is not mirrored. After that, nothing that happens to the exchange touches the copy, and the
other way round.

Each worker has at most MIRRORS copies at a time, each with a body of BODY_MOST at most. What is beyond that is
counted, and not mirrored.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.exchange.request_head cimport passing_size, put_passing, put_target, target_size
from fastgate._core.exchange.subrequest cimport sub_detach, sub_drop, sub_new, sub_start
from fastgate._core.http.head cimport F_HOST, field, field_of, has_body, has_field
from fastgate._core.http.lines cimport end_line, put_line
from fastgate._core.platform.buffer cimport buf_borrow, buf_data, buf_len, buf_room
from fastgate._core.platform.random cimport random64
from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.shared.counters cimport counters_route, fg_count
from fastgate._core.shared.layout cimport (
    MIRROR_DROPPED, MIRROR_FAILED, MIRROR_SENT, MIRROR_TOO_LONG, MirrorResult)
from fastgate._core.snapshot.refs cimport str_ref
from fastgate._core.snapshot.snapshot cimport service_rec, snap_service, snap_str, snap_traffic, snap_upstream
from fastgate._core.snapshot.traffic cimport WHOLE, traffic_rec
from fastgate._core.state cimport BODY_MORE, CALL_IDEMPOTENT, core, subrequest

cdef enum:
    MIRRORS = 256             # copies of a worker in progress
    BODY_MOST = 65536         # bytes of a copied body
    AROUND = 128              # of our own lines


cdef inline void counted(core *c, uint64_t row, MirrorResult result) noexcept nogil:
    fg_count(&counters_route(c.segment, c.worker, <uint32_t>row).mirrored[<int>result], 1)


cdef void mirror_begin(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef const traffic_rec *t = snap_traffic(e.snap, e.policy)
    cdef subrequest *s
    if e.upgrading or e.sub is not NULL or (
            t.mirror_share != WHOLE and (random64(c.random) >> 32) * WHOLE >> 32 >= t.mirror_share):
        return
    if e.req.content_length > BODY_MOST or e.inline_len > BODY_MOST:
        counted(c, e.match.slot, MIRROR_TOO_LONG)
        return
    s = copy_of(e, t) if c.n_mirrors < MIRRORS else NULL
    if s is NULL:
        counted(c, e.match.slot, MIRROR_DROPPED)
    elif e.body_state != BODY_MORE:
        mirror_whole(e)


cdef subrequest *copy_of(exchange *e, const traffic_rec *t) noexcept nogil:
    """With the head, and the body if it is here; NULL: no memory."""
    cdef core *c = e.owner
    cdef const service_rec *service = snap_service(e.snap, t.mirror_service)
    cdef size_t body = e.inline_len
    cdef subrequest *s
    if e.body_state == BODY_MORE:
        body = BODY_MOST + AROUND if e.req.content_length < 0 else <size_t>e.req.content_length
    s = sub_new(c, e, snap_upstream(e.snap, service.upstream), service.first_byte_ms)
    if s is NULL:
        return NULL
    c.n_mirrors += 1
    s.discard = 1
    s.done = ended
    s.question = e.match.slot
    s.k.idle_ms = service.idle_ms
    s.k.service = service
    s.k.method_id = e.req.method_id
    if not e.main.flags & CALL_IDEMPOTENT:
        s.k.flags &= ~CALL_IDEMPOTENT
    s.k.py_body = e.req.content_length >= 0 or has_body(&e.req)
    s.k.py_request = buf_borrow(
        &c.loop.bufs, <size_t>e.req.method.len + target_size(e) + passing_size(e) + t.mirror_host.len + AROUND
        + e.req.host.len + body)
    if s.k.py_request is NULL:
        sub_drop(s)
        return NULL
    write(s, e, t)
    return s


cdef void write(subrequest *s, exchange *e, const traffic_rec *t) noexcept nogil:
    cdef str_ref nothing = str_ref(off=0, len=0)
    cdef buf *b = s.k.py_request
    cdef const field *f
    cdef char *start = buf_data(b) + b.start
    cdef char *p = put(start, e.base + e.req.method.off, e.req.method.len)
    s.k.py_method = e.req.method.len
    start = p
    p = put_target(p, e, nothing)
    s.k.py_path = <uint32_t>(p - start)
    start = p
    if t.mirror_host.len:
        p = put_line(p, b"Host: ", 6, snap_str(e.snap, t.mirror_host), t.mirror_host.len)
        s.k.py_host = 1
    elif t.mirror_client_host and has_field(&e.req, F_HOST):
        f = field_of(&e.req, F_HOST)
        p = put_line(p, b"Host: ", 6, e.base + f.value, f.value_len)
        s.k.py_host = 1
    p = put_passing(p, e)
    p = end_line(put_lit(p, "X-FastGate-Mirror: 1"))
    s.k.py_lines = <uint32_t>(p - start)
    p = put(p, e.inline_body, e.inline_len)
    b.end = <uint32_t>(p - buf_data(b))


cdef void mirror_piece(exchange *e, const buf *b) noexcept nogil:
    cdef subrequest *s = e.sub
    cdef uint64_t row = s.question
    if e.body_bytes > BODY_MOST or not append(e, <const char *>b + sizeof(buf) + b.start, buf_len(b)):
        sub_drop(s)
        counted(e.owner, row, MIRROR_TOO_LONG)


cdef int append(exchange *e, const char *p, uint32_t n) noexcept nogil:
    """0: there is no room."""
    cdef buf *to = e.sub.k.py_request
    cdef uint32_t part
    while n:
        part = min(n, buf_room(to))
        if part == 0:
            return 0
        memcpy(buf_data(to) + to.end, p, part)
        p += part
        n -= part
        to.end += e.down.codec.plain(e, &e.sub.k, buf_data(to) + to.end, part)
    return 1


cdef void mirror_whole(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef subrequest *s = e.sub
    cdef uint64_t row = s.question
    sub_detach(s)
    if sub_start(s) != 0:
        counted(c, row, MIRROR_FAILED)


cdef void ended(subrequest *s, int reason) noexcept nogil:
    counted(s.k.owner, s.question, MIRROR_SENT if reason == 0 else MIRROR_FAILED)
