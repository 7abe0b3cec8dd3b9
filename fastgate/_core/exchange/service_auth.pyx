"""service_auth: another service decides about a request.

It is asked with a GET at the configured path, without the request's body:

    X-Forwarded-Method, -Proto, -Host, -Uri, -For     what the client asked for
    the client's own fields                           all of them, or those that are listed

    its answer         the request
    2xx                passes; the upstream gets the listed fields of the answer
    3xx, 401, 403      the client gets the answer, with its body up to ANSWER_MOST
    anything else      503 authorization_unavailable; so does no answer in time

Nothing is remembered: it is asked for each request.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.exchange.caller cimport AUTH_PARKED, admit_digest
from fastgate._core.exchange.ending cimport send_last
from fastgate._core.exchange.parking cimport park, unpark
from fastgate._core.exchange.render cimport put_fields, put_id, start_own
from fastgate._core.exchange.request_head cimport put_forwarded, put_trace, unbelieved
from fastgate._core.exchange.subrequest cimport sub_new, sub_start
from fastgate._core.http.head cimport (
    FIELD_HOP, F_CONTENT_LENGTH, F_DATE, F_EXPECT, F_HOST, F_SERVER, F_TRACEPARENT, F_TRANSFER_ENCODING,
    F_X_FORWARDED_FOR, F_X_FORWARDED_HOST, F_X_FORWARDED_PROTO, F_X_REQUEST_ID, field, named)
from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_data, buf_head, buf_len
from fastgate._core.platform.text cimport fg_clear, put, put_lit
from fastgate._core.reason cimport AUTHORIZATION_UNAVAILABLE, CREDENTIAL_UNKNOWN, FORBIDDEN, OVERLOADED, SUBJECT_UNKNOWN
from fastgate._core.snapshot.snapshot cimport snap_str, snap_table, snap_upstream, str_ref, table_ref
from fastgate._core.state cimport (
    EX_HEAD_ONLY, EX_PARKED, EX_REFUSED, STAGE_AUTHENTICATE, answer, subrequest)
from fastgate._core.tokens.verdicts cimport DIGEST, digest_of

cdef enum:
    ANSWER_MOST = 65536       # bytes of its body
    LENT_MOST = 8192          # octets of the fields that it lends
    AROUND = 2048             # octets that are added to the request's own fields

# Fields of the request that it does not get as they are.
cdef uint64_t REPLACED = (
    1ull << F_HOST | 1ull << F_CONTENT_LENGTH | 1ull << F_TRANSFER_ENCODING | 1ull << F_EXPECT | 1ull << F_X_REQUEST_ID
    | 1ull << F_TRACEPARENT | 1ull << F_X_FORWARDED_FOR | 1ull << F_X_FORWARDED_PROTO | 1ull << F_X_FORWARDED_HOST)
# Fields of its answer that are not the client's.
cdef uint64_t OWN = 1ull << F_CONTENT_LENGTH | 1ull << F_TRANSFER_ENCODING | 1ull << F_DATE | 1ull << F_SERVER


cdef int accept_by_service(core *c, exchange *e, const auth_method *m) noexcept nogil:
    cdef subrequest *s
    if e.decided:
        # The exchange is decided again, by the methods before this one as well.
        return FORBIDDEN if e.decided_for and e.consumer.identity != e.decided_for else 0
    s = sub_new(c, e, snap_upstream(e.snap, m.upstream), m.timeout_ms)
    if s is NULL:
        return OVERLOADED
    s.method = m
    s.done = decided
    s.most = ANSWER_MOST
    write(s, e, m)
    park(e, STAGE_AUTHENTICATE, c.loop.now + <uint64_t>m.timeout_ms * 1000000, AUTHORIZATION_UNAVAILABLE)
    if sub_start(s) != 0:
        e.flags &= ~EX_PARKED
        e.answer_by = 0
        return AUTHORIZATION_UNAVAILABLE
    return AUTH_PARKED


cdef inline int is_listed(exchange *e, const char *base, const field *f, table_ref names) noexcept nogil:
    cdef const str_ref *name = <const str_ref *>snap_table(e.snap, names)
    cdef uint32_t i
    for i in range(names.count):
        if named(base, f, snap_str(e.snap, name[i]), name[i].len):
            return 1
    return 0


cdef void write(subrequest *s, exchange *e, const auth_method *m) noexcept nogil:
    """The request to the service, in one buffer; without one, `sub_start` fails."""
    cdef core *c = e.owner
    cdef uint64_t drop = REPLACED | unbelieved(e)
    cdef const field *f
    # Each octet of the head is copied at most twice, and the canonical path may be longer than what was sent.
    cdef buf *b = buf_borrow(&c.loop.bufs, 2 * <size_t>e.req.size + e.path_len + m.path.len + AROUND)
    cdef char *p
    cdef char *start
    cdef uint32_t i
    s.k.py_request = b
    if b is NULL:
        return
    start = buf_data(b) + b.start
    p = put_lit(start, "GET")
    s.k.py_method = 3
    p = put(p, snap_str(e.snap, m.path), m.path.len)
    s.k.py_path = m.path.len
    start = p
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.flags & FIELD_HOP or drop >> f.id & 1 or (
                m.forwarded.count and not is_listed(e, e.base, f, m.forwarded)):
            continue
        p = put(p, e.base + f.name, f.line_end - f.name)
    p = put_forwarded(p, e)
    p = put_lit(p, "X-Forwarded-Method: ")
    p = end_line(put(p, e.base + e.req.method.off, e.req.method.len))
    p = put_lit(p, "X-Forwarded-Uri: ")
    p = put(p, e.path, e.path_len)
    if e.req.has_query:
        p = put_lit(p, "?")
        p = put(p, e.base + e.req.query.off, e.req.query.len)
    p = end_line(p)
    p = put_trace(put_id(p, e), e)
    s.k.py_lines = <uint32_t>(p - start)
    b.end = <uint32_t>(p - buf_data(b))


cdef void decided(subrequest *s, int reason) noexcept nogil:
    cdef exchange *e = s.ex
    cdef uint16_t status = s.k.resp.status
    if e is NULL:
        return
    if reason != 0:
        unpark(e, AUTHORIZATION_UNAVAILABLE)
    elif 200 <= status <= 299:
        e.decided = 1
        unpark(e, lend(s, e))
    elif 300 <= status <= 399 or status == 401 or status == 403:
        pass_on(s, e)
    else:
        unpark(e, AUTHORIZATION_UNAVAILABLE)


cdef int lend(subrequest *s, exchange *e) noexcept nogil:
    """Keep what the upstream gets of the answer, and find the consumer that it names. 0, or a Reason."""
    cdef core *c = e.owner
    cdef const auth_method *m = s.method
    cdef const char *base = s.k.resp_base
    cdef const field *f
    cdef uint8_t digest[DIGEST]
    cdef char *p
    cdef uint32_t i
    cdef int result = 0
    for i in range(s.k.resp.nfields):
        f = &s.k.resp.fields[i]
        if m.consumer.len and named(base, f, snap_str(e.snap, m.consumer), m.consumer.len):
            digest_of(digest, b"consumer", 8, base + f.value, f.value_len, NULL, 0)
            result = admit_digest(c, e, digest, 0)
            if result < 0:
                result = SUBJECT_UNKNOWN
            e.decided_for = e.consumer.identity
        if not m.lent.count or not is_listed(e, base, f, m.lent):
            continue
        if e.lent is NULL:
            e.lent = buf_borrow(&c.loop.bufs, LENT_MOST)
            if e.lent is NULL:
                return OVERLOADED
        if buf_len(e.lent) + f.name_len + f.value_len + 4 > LENT_MOST:
            return AUTHORIZATION_UNAVAILABLE
        p = buf_data(e.lent) + e.lent.end
        p = put_lit(put(p, base + f.name, f.name_len), ": ")
        p = end_line(put(p, base + f.value, f.value_len))
        e.lent.end = <uint32_t>(p - buf_data(e.lent))
    return result


cdef void pass_on(subrequest *s, exchange *e) noexcept nogil:
    """Its answer is the client's."""
    cdef answer a
    cdef table_ref none
    cdef buf *lines = buf_borrow(&e.owner.loop.bufs, s.k.resp.size + 64)
    cdef char *p
    e.flags &= ~EX_PARKED
    e.answer_by = 0
    e.down.codec.deadline(e)
    e.status = s.k.resp.status
    e.flags |= EX_REFUSED
    e.reason = FORBIDDEN if e.status == 403 else CREDENTIAL_UNKNOWN if e.status == 401 else 0
    e.owner.counters.refused += 1
    if lines is NULL:
        send_last(e, -1)
        return
    none.off = none.count = 0
    p = put_fields(buf_head(lines), s.k.resp_base, &s.k.resp, OWN, e.snap, none)
    fg_clear(&a, sizeof(a))
    a.status = e.status
    a.lines = buf_head(lines)
    a.lines_len = <uint32_t>(p - buf_head(lines))
    a.body = buf_head(s.body) if s.body is not NULL else NULL
    a.body_len = buf_len(s.body) if s.body is not NULL else 0
    a.length = a.body_len
    if a.status == 304:
        a.length = -1
        e.flags |= EX_HEAD_ONLY
    e.lent = lines                       # given back with the exchange
    send_last(e, start_own(e, &a))
