"""render: the fields of answers to clients, and the pieces of all outgoing fields.

Fields are written front to back: unchanged lines are copied, adjoining ones in one piece, and the
gateway's own fields are put around them. The codec of the connection adds the head (state.pxd,
`answer`).

Some fields are never forwarded: hop-by-hop fields (and those that Connection names), and framing
fields, which the codec writes (an answer's Content-Length is copied if the codec would write the
same). If a route has CORS, CORS fields from upstreams and handlers are not forwarded; if the listener has
HSTS, Strict-Transport-Security is not (hsts.pxd).

Requests to upstreams are written in request_head.pyx, refusals from templates in refusal.pyx.
"""
from libc.stdint cimport int64_t, uint16_t
from libc.string cimport memchr, memcpy

from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.platform.chars cimport fg_same
from fastgate._core.exchange.caching cimport keep_private, says
from fastgate._core.exchange.cors cimport cors_of, put_cors, put_preflight
from fastgate._core.exchange.hsts cimport hsts_drop, hsts_of
from fastgate._core.exchange.split cimport put_split_cookie, split_answer, split_cookie_size
from fastgate._core.exchange.sticky cimport STICKY_NOT, STICKY_PRIVATE, put_sticky, sticky_answer, sticky_size
from fastgate._core.http.head cimport (
    FIELD_CREDENTIAL, FIELD_HOP, F_ACCESS_CONTROL, F_ACCESS_CONTROL_REQUEST_METHOD,
    F_CONTENT_LENGTH, F_DATE, F_OTHER, F_STRICT_TRANSPORT_SECURITY, F_X_FORWARDED_PROTO, F_X_REQUEST_ID,
    MAX_FIELDS, METHOD_HEAD, field, field_of, has_field, named)
from fastgate._core.snapshot.snapshot cimport (
    HEADER_DEFAULT, HEADER_REMOVE, HEADER_SET, LIMIT_CONCURRENCY, LIMIT_SHOW_HEADERS,
    ROUTE_LIMIT_HEADERS, cors_rec, header_rule, snap_str, snap_table, str_ref)
from fastgate._core.state cimport EX_METERED, EX_REFUSED, answer
from fastgate._core.platform.text cimport fg_clear, put, put_hex, put_lit, put_uint
from fastgate._core.exchange.number_text cimport put_http_date
from fastgate._core.http.lines cimport end_line

cdef enum:
    ADDED = 2048              # the most that the gateway itself adds to an answer's head

cdef uint64_t RESPONSE_DROP = 1ull << F_CONTENT_LENGTH | 1ull << F_X_REQUEST_ID
cdef uint64_t CORS_DROP = 1ull << F_ACCESS_CONTROL | 1ull << F_ACCESS_CONTROL_REQUEST_METHOD


# ---- helpers ------------------------------------------------------------------------------

cdef void refresh_date(core *c) noexcept nogil:
    """Render the Date of this second, once."""
    cdef int64_t now = (<int64_t>c.loop.now + c.unix_offset) // 1000000000
    if now != c.date_second:
        c.date_second = now
        put_http_date(c.date, now)


cdef char *put_date(char *p, core *c) noexcept nogil:
    refresh_date(c)
    p = put_lit(p, "Date: ")
    p = put(p, c.date, 29)
    return end_line(p)


cdef char *put_id(char *p, exchange *e) noexcept nogil:
    p = put_lit(p, "X-Request-ID: ")
    if e.id_from_client:
        p = put(p, e.base + field_of(&e.req, F_X_REQUEST_ID).value, field_of(&e.req, F_X_REQUEST_ID).value_len)
        return end_line(p)
    if not e.has_id_text:                # sent twice: to the upstream and to the client
        put_hex(e.id_text, e.request_id, 16)
        e.has_id_text = 1
    memcpy(p, e.id_text, sizeof(e.id_text))
    return end_line(p + sizeof(e.id_text))


# ---- header rules -------------------------------------------------------------------------

cdef size_t rules_size(const snapshot_header *s, table_ref t) noexcept nogil:
    cdef const header_rule *r = <const header_rule *>snap_table(s, t)
    cdef uint32_t i
    cdef size_t n = 0
    for i in range(t.count):
        n += r[i].line.len
    return n


cdef int rule_drops(const snapshot_header *s, table_ref t, const char *base, const field *f) noexcept nogil:
    """Whether a rule sets or removes this field."""
    cdef const header_rule *r = <const header_rule *>snap_table(s, t)
    cdef uint32_t i
    for i in range(t.count):
        if (r[i].action == HEADER_SET or r[i].action == HEADER_REMOVE) and named(
                base, f, snap_str(s, r[i].name), r[i].name.len):
            return 1
    return 0


cdef char *put_rules(char *p, const snapshot_header *s, table_ref t, const char *base, const head *h) noexcept nogil:
    cdef const header_rule *r = <const header_rule *>snap_table(s, t)
    cdef uint32_t i, j
    cdef int there
    for i in range(t.count):
        if r[i].action == HEADER_REMOVE:
            continue
        if r[i].action == HEADER_DEFAULT:
            there = 0
            for j in range(h.nfields):
                if named(base, &h.fields[j], snap_str(s, r[i].name), r[i].name.len):
                    there = 1
                    break
            if there:
                continue
        p = put(p, snap_str(s, r[i].line), r[i].line.len)
    return p


cdef char *put_fields(char *p, const char *base, const head *h, uint64_t drop,
                      const snapshot_header *s, table_ref rules) noexcept nogil:
    """Copy the lines that are forwarded, adjoining ones at once."""
    cdef const field *f = &h.fields[0]
    cdef const field *end = f + h.nfields
    cdef uint32_t start
    if f == end:
        return p
    start = f.name
    while f != end:
        if f.flags & (FIELD_HOP | FIELD_CREDENTIAL) or drop >> f.id & 1 or (
                rules.count != 0 and rule_drops(s, rules, base, f)):
            if f.name != start:
                p = put(p, base + start, f.name - start)
            start = f.line_end           # where the next line begins
        f += 1
    f -= 1
    if f.line_end != start:
        p = put(p, base + start, f.line_end - start)
    return p


cdef inline int passes_length(const char *base, const head *h) noexcept nogil:
    """Whether the Content-Length is written as we would write it, so its line can be copied.

    A copied line joins its neighbours, and all are copied in one piece."""
    cdef const field *f
    if not has_field(h, F_CONTENT_LENGTH):
        return 0
    f = field_of(h, F_CONTENT_LENGTH)
    return f.value == f.name + 16 and base[f.name + 15] == c" " and f.line_end == f.value + f.value_len + 2 and (
        base[f.value] != c"0" or f.value_len == 1)


cdef int called_securely(exchange *e) noexcept nogil:
    cdef const field *f
    cdef const char *p
    cdef uint32_t n
    if e.down.secure:
        return 1
    if e.down.trusted != 2 or not has_field(&e.req, F_X_FORWARDED_PROTO):
        return 0
    f = field_of(&e.req, F_X_FORWARDED_PROTO)
    p = e.base + f.value
    n = f.value_len
    if n < 5 or (n > 5 and p[5] != 44 and p[5] != 32):      # of a list: the first, which is the client's own
        return 0
    return ((p[0] | 32) == 104 and (p[1] | 32) == 116 and (p[2] | 32) == 116 and (p[3] | 32) == 112
            and (p[4] | 32) == 115)


# ---- answers ----------------------------------------------------------------------------------

cdef char *put_limits(char *p, exchange *e) noexcept nogil:
    cdef const snapshot_header *s = e.snap
    if e.tightest is NULL or e.tightest.kind == LIMIT_CONCURRENCY:
        return p
    p = put_lit(p, "RateLimit: \"")
    p = put(p, snap_str(s, e.tightest.name), e.tightest.name.len)
    p = put_lit(p, "\";r=")
    p = put_uint(p, e.seen.remaining)
    p = put_lit(p, ";t=")
    # A limit that refused gives the time of the next try; one that allowed, the time when it is full again.
    p = put_uint(p, e.seen.retry_s if e.flags & EX_REFUSED and e.seen.retry_s else e.seen.reset_s)
    p = end_line(p)
    p = put_lit(p, "RateLimit-Policy: ")
    if e.tightest.policy.len:
        p = put(p, snap_str(s, e.tightest.policy), e.tightest.policy.len)
        return end_line(p)
    p = put_lit(p, "\"")                  # with the consumer's own numbers
    p = put(p, snap_str(s, e.tightest.name), e.tightest.name.len)
    p = put_lit(p, "\";q=")
    p = put_uint(p, e.tightest.amount)
    p = put_lit(p, ";w=")
    p = put_uint(p, e.tightest.window_s)
    return end_line(p)


cdef inline int shows_limits(exchange *e) noexcept nogil:
    return e.tightest is not NULL and (
        (e.policy is not NULL and e.policy.flags & ROUTE_LIMIT_HEADERS) or e.tightest.flags & LIMIT_SHOW_HEADERS
        or e.snap.flags & 1)


cdef size_t answer_extra(exchange *e) noexcept nogil:
    """Bytes that the route, the limits and CORS may add to an answer's head."""
    cdef size_t n = ADDED
    cdef const cors_rec *r = cors_of(e)
    if e.policy is not NULL:
        n += rules_size(e.snap, e.policy.response_rules) + e.policy.notice.len
    if r is not NULL:
        n += <size_t>r.allow_methods.len + r.allow_headers.len + r.expose_headers.len + e.req.size
    if e.tightest is not NULL:
        n += <size_t>e.tightest.name.len * 2 + e.tightest.policy.len
    if e.extra is not NULL:
        n += buf_len(e.extra)
    return n


cdef inline char *put_hsts(char *p, exchange *e) noexcept nogil:
    cdef str_ref line
    if e.down.secure:
        line = hsts_of(e)
        p = put(p, snap_str(e.snap, line), line.len)
    return p


cdef inline uint64_t replaced(exchange *e) noexcept nogil:
    """Fields by FieldName that come from the gateway alone, whatever upstreams, handlers and fixed answers say."""
    return hsts_drop(e) | (CORS_DROP if has_cors(e) else 0)


cdef char *put_additions(char *p, exchange *e) noexcept nogil:
    """The fields that every answer on a route has: notices, HSTS, limits, CORS, the id."""
    if e.policy is not NULL and e.policy.notice.len:
        p = put(p, snap_str(e.snap, e.policy.notice), e.policy.notice.len)
    p = put_hsts(p, e)
    if has_cors(e):
        p = put_cors(p, e)
    if shows_limits(e) or e.flags & EX_REFUSED:
        p = put_limits(p, e)
    if e.extra is not NULL:
        p = put_extra(p, e)
    return put_id(p, e)


cdef inline int is_paid(const exchange *e) noexcept nogil:
    """Whether this request has a price, even if it is zero at the moment."""
    return e.flags & EX_METERED or e.hold is not NULL


cdef char *put_extra(char *p, exchange *e) noexcept nogil:
    """What a handler adds to the answer that it relays."""
    cdef head h
    cdef table_ref none
    cdef uint64_t drop = replaced(e)
    none.count = 0
    none.off = 0
    if drop == 0:
        return put(p, buf_head(e.extra), buf_len(e.extra))
    lines_as_head(&h, buf_head(e.extra), buf_len(e.extra))
    return put_fields(p, buf_head(e.extra), &h, drop, e.snap, none)


cdef inline int has_cors(const exchange *e) noexcept nogil:
    return cors_of(e) is not NULL


cdef void lines_as_head(head *h, const char *lines, uint32_t n) noexcept nogil:
    """Whole field lines of ours or a handler's, in the form that put_fields and put_rules take; at most
    MAX_FIELDS, which was ensured when they were made."""
    cdef const char *end
    cdef field *f
    cdef uint32_t at = 0
    h.nfields = 0
    while at < n and h.nfields < MAX_FIELDS:
        end = <const char *>memchr(lines + at, 10, n - at)
        f = &h.fields[h.nfields]
        f.name = at
        f.name_len = <uint16_t>(<const char *>memchr(lines + at, 58, n - at) - (lines + at))
        f.flags = 0
        f.id = F_OTHER
        if f.name_len > 15 and fg_same(lines + at, b"access-control-", 15):
            f.id = F_ACCESS_CONTROL
        elif named(lines, f, b"strict-transport-security", 25):
            f.id = F_STRICT_TRANSPORT_SECURITY
        at = <uint32_t>(end - lines) + 1
        f.line_end = at
        h.nfields += 1


cdef char *put_own(char *p, exchange *e, const char *lines, uint32_t n) noexcept nogil:
    """An answer of the gateway: its lines, Date, the fields of every answer, the route's rules. If
    the route has CORS, only its own CORS fields are sent."""
    cdef head h
    cdef table_ref rules
    cdef uint64_t drop = replaced(e)
    rules.count = 0
    rules.off = 0
    if e.policy is not NULL:
        rules = e.policy.response_rules
    if n and (rules.count or drop):
        lines_as_head(&h, lines, n)
        p = put_fields(p, lines, &h, drop, e.snap, rules)
    else:
        h.nfields = 0
        if n:
            p = put(p, lines, n)
    p = put_date(p, e.owner)
    p = put_additions(p, e)
    if is_paid(e) and e.policy is not NULL and not says(lines, n, b"cache-control", 13) \
            and keep_private(e, lines, &h):
        p = end_line(put_lit(p, "Cache-Control: private"))
    if rules.count:
        p = put_rules(p, e.snap, rules, lines, &h)
    return p


cdef char *response_fields(char *p, exchange *e, const answer *a) noexcept nogil:
    """The forwarded lines of an upstream's answer, and our own."""
    cdef const snapshot_header *s = e.snap
    cdef const char *base = a.k.resp_base
    cdef const head *h = &a.k.resp
    cdef uint64_t drop = RESPONSE_DROP | replaced(e)
    cdef int sticky = sticky_answer(e, a.k) if a.k.group.sticky.count else STICKY_NOT
    cdef int split = split_answer(e, a.k) if e.split_sets else STICKY_NOT
    if a.has_length:
        drop &= ~(1ull << F_CONTENT_LENGTH)
    p = put_fields(p, base, h, drop, s, e.policy.response_rules)
    if not has_field(h, F_DATE):
        p = put_date(p, e.owner)
    p = put_lit(p, "Via: 1.1 ")
    p = put(p, snap_str(s, s.via), s.via.len)
    p = end_line(p)
    p = put_additions(p, e)
    if sticky == STICKY_PRIVATE or split == STICKY_PRIVATE or (is_paid(e) and not a.upgrade and keep_private(e, base, h)):
        p = end_line(put_lit(p, "Cache-Control: private"))
    if sticky != STICKY_NOT:
        p = put_sticky(p, a.k, called_securely(e))
    if split != STICKY_NOT:
        p = put_split_cookie(p, e, called_securely(e))
    if e.policy.response_rules.count:
        p = put_rules(p, s, e.policy.response_rules, base, h)
    return p


cdef int start_response(exchange *e, call *k, const char *body, uint32_t body_len) noexcept nogil:
    cdef const head *h = &k.resp
    cdef answer a
    a.status = h.status
    a.upgrade = h.status == 101
    a.length = h.content_length
    a.has_length = not a.upgrade and passes_length(k.resp_base, h)
    a.body = body
    a.body_len = body_len
    a.room = h.size + answer_extra(e)
    if k.group.sticky.count:
        a.room += sticky_size(k)
    if e.split_sets:
        a.room += split_cookie_size(e)
    a.fields = response_fields
    a.k = k
    return e.down.codec.start(e, &a)


cdef char *interim_fields(char *p, exchange *e, const answer *a) noexcept nogil:
    cdef table_ref none
    none.count = 0
    none.off = 0
    return put_fields(p, a.k.resp_base, &a.k.resp, RESPONSE_DROP | replaced(e), e.snap, none)


cdef void send_interim(exchange *e, call *k) noexcept nogil:
    cdef answer a
    fg_clear(&a, sizeof(a))
    a.status = 100 if k is NULL else k.resp.status
    if k is not NULL:
        a.room = k.resp.size
        a.fields = interim_fields
        a.k = k
    e.down.codec.interim(e, &a)


cdef char *own_fields(char *p, exchange *e, const answer *a) noexcept nogil:
    return put_own(p, e, a.lines, a.lines_len)


cdef int start_own(exchange *e, answer *a) noexcept nogil:
    if e.req.method_id == METHOD_HEAD:
        a.body_len = 0
    a.room = <size_t>a.lines_len + answer_extra(e)
    a.fields = own_fields
    return e.down.codec.start(e, a)


cdef char *preflight_fields(char *p, exchange *e, const answer *a) noexcept nogil:
    p = put_hsts(put_date(p, e.owner), e)
    p = put_id(p, e)
    return put_preflight(p, e)


cdef int start_preflight(exchange *e) noexcept nogil:
    cdef answer a
    fg_clear(&a, sizeof(a))
    a.status = 204
    a.length = -1
    a.room = answer_extra(e)
    a.fields = preflight_fields
    return e.down.codec.start(e, &a)
