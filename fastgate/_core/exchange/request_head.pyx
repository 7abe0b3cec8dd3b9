"""request_head: requests to upstreams: target, Host and fields, for the codec to write.

Fields are written as render.pyx describes. Never forwarded: the client's X-Consumer-*, X-FastGate-*, Client-Cert
and Client-Cert-Chain; the fields by which proxies report the client and the requested URL (X-Forwarded-*,
Forwarded, X-Real-IP, X-Client-IP, X-Original-URL and the like), unless the peer is a trusted proxy; every
place of the credential, unless the route forwards it; names with an underscore, unless allowed.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.http.head cimport (
    F_CONTENT_LENGTH, F_EXPECT, F_FORWARDED, F_HOST, F_MAX_FORWARDS, F_PROXY_CLAIM, F_TRACEPARENT,
    F_UNDERSCORE, F_X_CONSUMER, F_X_FORWARDED, F_X_FORWARDED_FOR, F_X_FORWARDED_HOST,
    F_X_FORWARDED_PORT, F_X_FORWARDED_PROTO, F_X_REAL_IP, F_X_REQUEST_ID, METHOD_OPTIONS,
    METHOD_TRACE, TARGET_ORIGIN, field, field_of, has_body, has_field, head)
from fastgate._core.exchange.client_cert cimport certificate_size, forwards_certificate, put_certificate
from fastgate._core.exchange.key_places cimport put_query
from fastgate._core.exchange.render cimport put_fields, put_id, put_rules, rules_size
from fastgate._core.exchange.url_pieces cimport put_url, url_size
from fastgate._core.snapshot.snapshot cimport (
    ROUTE_MAKES_URL, ROUTE_PRESERVE_HOST, policy_rec, snap_str, snapshot_header, str_ref)
from fastgate._core.state cimport BODY_MORE, CALL_SUB, downstream, outgoing, subrequest
from fastgate._core.tokens.verdicts cimport lines_of
from fastgate._core.platform.text cimport put, put_hex, put_lit, put_uint
from fastgate._core.http.lines cimport end_line

cdef enum:
    ADDED = 2048              # the most that the gateway itself adds
    MOST_HOPS = 255           # the largest Max-Forwards of a forwarded request

# Fields by FieldName that are never copied from a request: rewritten or dropped.
cdef uint64_t WRITTEN = (
    1ull << F_HOST | 1ull << F_CONTENT_LENGTH | 1ull << F_EXPECT | 1ull << F_X_REQUEST_ID | 1ull << F_TRACEPARENT
    | 1ull << F_X_FORWARDED_FOR | 1ull << F_X_FORWARDED_PROTO | 1ull << F_X_FORWARDED_HOST)
# Fields by which proxies report the client and the requested URL: trusted only from a trusted proxy.
cdef uint64_t CLAIMS = (
    1ull << F_X_FORWARDED_FOR | 1ull << F_X_FORWARDED_PROTO | 1ull << F_X_FORWARDED_HOST
    | 1ull << F_X_FORWARDED_PORT | 1ull << F_X_FORWARDED | 1ull << F_X_REAL_IP | 1ull << F_FORWARDED
    | 1ull << F_PROXY_CLAIM)


cdef char *put_target(char *p, exchange *e, str_ref base) noexcept nogil:
    cdef const policy_rec *r = e.policy
    cdef const char *path = e.path
    cdef uint32_t n = e.path_len
    cdef char *start = p
    if base.len:
        p = put(p, snap_str(e.snap, base), base.len)
    if r.rewrite.count:
        return put_url(p, e, r.rewrite)
    if r.strip or r.replace.len:
        if r.replace.len:
            p = put(p, snap_str(e.snap, r.replace), r.replace.len)
        path += r.strip
        n -= r.strip
        # Exactly one slash where the two parts meet, and one at the start.
        if p > start and (p - 1)[0] == 47 and n and path[0] == 47:
            path += 1
            n -= 1
        elif (p == start or (p - 1)[0] != 47) and (n == 0 and p == start or n and path[0] != 47):
            p = put_lit(p, "/")
    p = put(p, path, n)
    return put_query(p, e)


cdef size_t target_size(exchange *e) noexcept nogil:
    if e.policy.rewrite.count:
        return url_size(e, e.policy.rewrite)
    return <size_t>e.path_len + e.policy.replace.len + e.req.query.len + 2


cdef char *put_forwarded(char *p, exchange *e) noexcept nogil:
    """X-Forwarded-*: a trusted proxy's values are kept and added to; all others are replaced."""
    cdef downstream *d = e.down
    cdef const head *h = &e.req
    cdef const field *f
    cdef uint32_t i
    cdef int trusted = d.trusted == 2
    p = put_lit(p, "X-Forwarded-For: ")
    if trusted and has_field(h, F_X_FORWARDED_FOR):
        for i in range(h.nfields):
            f = &h.fields[i]
            if f.id == F_X_FORWARDED_FOR and f.value_len:
                p = put(p, e.base + f.value, f.value_len)
                p = put_lit(p, ", ")
    if d.text_len:
        p = put(p, d.text, d.text_len)
    else:
        p = put_lit(p, "unknown")        # a Unix socket's peer has no address
    p = end_line(p)
    p = put_lit(p, "X-Forwarded-Proto: ")
    if trusted and has_field(h, F_X_FORWARDED_PROTO):
        f = field_of(h, F_X_FORWARDED_PROTO)
        p = put(p, e.base + f.value, f.value_len)
    elif d.secure:
        p = put_lit(p, "https")
    else:
        p = put_lit(p, "http")
    if trusted and has_field(h, F_X_FORWARDED_HOST):
        f = field_of(h, F_X_FORWARDED_HOST)
        p = end_line(p)
        p = put_lit(p, "X-Forwarded-Host: ")
        p = put(p, e.base + f.value, f.value_len)
    elif has_field(h, F_HOST):
        f = field_of(h, F_HOST)
        p = end_line(p)
        p = put_lit(p, "X-Forwarded-Host: ")
        p = put(p, e.base + f.value, f.value_len)
    return end_line(p)


cdef char *put_consumer(char *p, exchange *e) noexcept nogil:
    p = put_lit(p, "X-Consumer-ID: ")
    p = put(p, e.consumer.id, e.consumer.id_len)
    p = end_line(p)
    p = put_lit(p, "X-Consumer-Name: ")
    p = put(p, e.consumer.name, e.consumer.name_len)
    if e.consumer.plan_len:
        p = end_line(p)
        p = put_lit(p, "X-Consumer-Plan: ")
        p = put(p, e.consumer.plan_name, e.consumer.plan_len)
    return end_line(p)


cdef char *put_trace(char *p, exchange *e) noexcept nogil:
    p = put_lit(p, "traceparent: 00-")
    p = put_hex(p, e.trace_id, 16)
    p = put_lit(p, "-")
    p = put_hex(p, &e.span_id, 8)
    p = put_lit(p, "-")
    p = put_hex(p, &e.trace_flags, 1)
    return end_line(p)


cdef uint64_t unbelieved(const exchange *e) noexcept nogil:
    cdef uint64_t drop = 1ull << F_X_CONSUMER
    if e.down.trusted != 2:
        drop |= CLAIMS
    if e.snap.underscores == 0:
        drop |= 1ull << F_UNDERSCORE
    return drop


cdef size_t passing_size(exchange *e) noexcept nogil:
    cdef size_t n = <size_t>e.req.size + ADDED + rules_size(e.snap, e.policy.request_rules)
    if e.verdict is not NULL:
        n += e.verdict.lines_len
    if e.lent is not NULL:
        n += buf_len(e.lent)
    return n + certificate_size(e) if forwards_certificate(e) else n


cdef char *put_passing(char *p, exchange *e) noexcept nogil:
    cdef const snapshot_header *s = e.snap
    cdef const head *h = &e.req
    cdef uint64_t drop = WRITTEN | unbelieved(e)
    cdef int64_t hops = -1
    if has_field(h, F_MAX_FORWARDS):
        hops = hops_left(e)
        if hops > 0:
            drop |= 1ull << F_MAX_FORWARDS
    p = put_fields(p, e.base, h, drop, s, e.policy.request_rules)
    p = put_forwarded(p, e)
    p = put_lit(p, "Via: 1.1 ")
    p = put(p, snap_str(s, s.via), s.via.len)
    p = end_line(p)
    p = put_id(p, e)
    p = put_trace(p, e)
    if e.has_consumer:
        p = put_consumer(p, e)
    if e.verdict is not NULL:
        p = put(p, lines_of(e.verdict), e.verdict.lines_len)
    if e.lent is not NULL:
        p = put(p, buf_head(e.lent), buf_len(e.lent))
    if forwards_certificate(e):
        p = put_certificate(p, e)
    if hops > 0:
        p = put_lit(p, "Max-Forwards: ")
        p = put_uint(p, <uint64_t>hops - 1)
        p = end_line(p)
    if e.policy.request_rules.count:
        p = put_rules(p, s, e.policy.request_rules, e.base, h)
    return p


cdef int64_t hops_left(exchange *e) noexcept nogil:
    """The value of Max-Forwards, if the method uses it (RFC 9110, 7.6.2); -1: none; -2: not a number, or repeated."""
    cdef const head *h = &e.req
    cdef const field *f
    cdef int64_t n = 0
    cdef uint32_t i
    cdef uint8_t digit
    if not has_field(h, F_MAX_FORWARDS) or (h.method_id != METHOD_OPTIONS and h.method_id != METHOD_TRACE):
        return -1
    f = field_of(h, F_MAX_FORWARDS)
    for i in range(has_field(h, F_MAX_FORWARDS), h.nfields):
        if h.fields[i].id == F_MAX_FORWARDS:
            return -2
    if f.value_len == 0:
        return -2
    for i in range(f.value_len):
        digit = <uint8_t>(e.base[f.value + i] - 48)
        if digit > 9:
            return -2
        n = n * 10 + digit
        if n > MOST_HOPS:
            n = MOST_HOPS                # more than any path has; lowering it is allowed (7.6.2)
    return n


cdef char *request_target(char *p, call *k) noexcept nogil:
    return put_target(p, k.ex, k.target.path)


cdef char *request_fields(char *p, call *k) noexcept nogil:
    return put_passing(p, k.ex)


cdef inline int passes_whole(const exchange *e, const call *k) noexcept nogil:
    """Whether the target is forwarded as it came: nothing is rewritten, and nothing in it is secret."""
    return (e.path == e.base + e.req.path.off and e.req.form == TARGET_ORIGIN and not e.hide_query
            and k.target.path.len == 0 and not e.policy.flags & ROUTE_MAKES_URL)


cdef int send_request(exchange *e, call *k) noexcept nogil:
    cdef const head *h = &e.req
    cdef const field *f
    cdef outgoing o
    o.method = e.base + h.method.off
    o.method_len = h.method.len
    if e.policy.flags & ROUTE_PRESERVE_HOST and has_field(h, F_HOST):
        f = field_of(h, F_HOST)
        o.host = e.base + f.value
        o.host_len = f.value_len
    elif e.policy.host.len:
        o.host = snap_str(e.snap, e.policy.host)
        o.host_len = e.policy.host.len
    else:
        o.host = snap_str(e.snap, k.target.authority)
        o.host_len = k.target.authority.len
    if h.content_length >= 0:
        o.length = h.content_length
    elif not has_body(h):
        o.length = -2
    else:
        o.length = -1 if e.body_state == BODY_MORE else e.inline_len       # collected: its length is known
    o.upgrade = e.upgrading
    o.body = e.inline_body
    o.body_len = e.inline_len
    o.room = passing_size(e)
    o.path = e.base + h.target.off
    o.path_len = h.target.len
    o.target = NULL
    if not passes_whole(e, k):
        o.path_len = 0
        o.target = request_target
        o.room += k.target.path.len + target_size(e)
    o.fields = request_fields
    return k.up.codec.request(k, &o)


# ---- requests that a handler made -------------------------------------------------------------

cdef char *made_fields(char *p, call *k) noexcept nogil:
    return put(p, buf_head(k.py_request) + k.py_method + k.py_path, k.py_lines)


cdef char *mirrored_target(char *p, call *k) noexcept nogil:
    p = put(p, snap_str(k.snap, k.target.path), k.target.path.len)
    return put(p, buf_head(k.py_request) + k.py_method, k.py_path)


cdef int send_made(call *k) noexcept nogil:
    """With the chosen target's Host, if the handler set none."""
    cdef const char *request = buf_head(k.py_request)
    cdef uint32_t before = k.py_method + k.py_path + k.py_lines
    cdef outgoing o
    o.method = request
    o.method_len = k.py_method
    o.host = snap_str(k.snap, k.target.authority)
    o.host_len = 0 if k.py_host else k.target.authority.len
    o.body = request + before
    o.body_len = buf_len(k.py_request) - before
    o.length = o.body_len if k.py_body else -2
    o.upgrade = 0
    o.room = k.py_lines
    o.path = request + k.py_method
    o.path_len = k.py_path
    o.target = NULL
    if k.target.path.len and k.flags & CALL_SUB and (<subrequest *>k).discard:
        o.path_len = 0                   # a mirrored request is for below the target's base path, too
        o.target = mirrored_target
        o.room += <size_t>k.target.path.len + k.py_path
    o.fields = made_fields
    return k.up.codec.request(k, &o)
