"""url_pieces: URLs built for a request: the target of a rewrite, the Location of a redirect.

The compiler turns a template into a list of pieces, which are written one after another:

    /v2/orders/{rest}?user={id}
    TEXT "/v2/orders/" │ PARAM rest │ TEXT "?user=" │ PARAM id, encoded │ QUERY_MORE

What a request contributes can only change its own place in the URL:

- The path is canonical, so a parameter has no "?", "#", "%" without two digits, control character
  or dot segment. None of these can arise from a parameter and the text beside it either: the model
  refuses templates with a text of dots next to a parameter (model/url_template.py).
- In a query, everything is encoded except unreserved characters and existing escapes: no parameter
  can end there, or begin.
- The host has passed `parse_authority`, and a Location's authority contains no other piece. A Location
  without an authority cannot get one from a parameter: it begins with one slash.

A URL longer than the longest accepted request line is not built.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memmove

from fastgate._core.exchange.key_places cimport put_query
from fastgate._core.exchange.render cimport called_securely
from fastgate._core.http.head cimport FAULT_HOST_MISSING
from fastgate._core.platform.chars cimport CH_UNRESERVED, is_class
from fastgate._core.platform.text cimport put, put_escape
from fastgate._core.reason cimport BAD_HOST, TARGET_TOO_LONG
from fastgate._core.snapshot.snapshot cimport (
    NONE32, URL_HOST, URL_PARAM, URL_PATH, URL_QUERY, URL_QUERY_MORE, URL_SCHEME, snap_str, snap_table,
    static_rec, url_piece)


cdef inline const char *piece_text(exchange *e, const url_piece *u, uint32_t *n) noexcept nogil:
    """The text of a piece (other than the query): where it is, and its length."""
    if u.kind == URL_PARAM:
        n[0] = e.match.params[u.param].len if u.param < e.match.nparams else 0
        if n[0] == 0:
            return b""                   # never NULL: it is copied from
        return e.path + e.match.params[u.param].off
    if u.kind == URL_PATH:
        n[0] = e.path_len
        return e.path
    if u.kind == URL_HOST:
        n[0] = e.req.host.len
        return e.base + e.req.host.off
    if u.kind == URL_SCHEME:
        n[0] = 5 if called_securely(e) else 4
        return b"https"
    n[0] = u.text.len
    return snap_str(e.snap, u.text)


cdef inline int stays(char x) noexcept nogil:
    """Whether an octet is kept as it is in a query: unreserved, or part of an escape."""
    return is_class(x, CH_UNRESERVED) or x == c"%"


cdef char *put_encoded(char *p, const char *s, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if stays(s[i]):
            p[0] = s[i]
            p += 1
        else:
            p = put_escape(p, <uint8_t>s[i])
    return p


cdef inline uint32_t encoded_size(const char *s, uint32_t n) noexcept nogil:
    cdef uint32_t i, size = n
    for i in range(n):
        if not stays(s[i]):
            size += 2
    return size


cdef size_t url_size(exchange *e, table_ref pieces) noexcept nogil:
    cdef const url_piece *u = <const url_piece *>snap_table(e.snap, pieces)
    cdef const char *text
    cdef size_t size = 0
    cdef uint32_t i, n = 0
    for i in range(pieces.count):
        if u[i].kind == URL_QUERY or u[i].kind == URL_QUERY_MORE:
            size += e.req.query.len + 1 if e.req.has_query else 0
        else:
            text = piece_text(e, &u[i], &n)
            size += encoded_size(text, n) if u[i].encode else n
    return size


cdef char *put_url(char *p, exchange *e, table_ref pieces) noexcept nogil:
    cdef const url_piece *u = <const url_piece *>snap_table(e.snap, pieces)
    cdef const char *text
    cdef char *query
    cdef uint32_t i, n = 0
    for i in range(pieces.count):
        if u[i].kind == URL_QUERY:
            p = put_query(p, e)
        elif u[i].kind == URL_QUERY_MORE:
            query = p
            p = put_query(p, e)
            if p - query > 1:
                query[0] = c"&"
            else:
                p = query                # nothing to add
        else:
            text = piece_text(e, &u[i], &n)
            p = put_encoded(p, text, n) if u[i].encode else put(p, text, n)
    return p


cdef char *put_location(char *p, exchange *e, table_ref pieces) noexcept nogil:
    cdef char *end = put_url(p, e, pieces)
    cdef size_t extra = 0
    # "//host" would be another host. With `merge_slashes: false` a parameter may begin with a slash.
    while p[0] == c"/" and p + extra + 1 < end and p[extra + 1] == c"/":
        extra += 1
    if extra:
        memmove(p, p + extra, end - p - extra)
    return end - extra


cdef inline int asks_for_host(const exchange *e, table_ref pieces) noexcept nogil:
    cdef const url_piece *u = <const url_piece *>snap_table(e.snap, pieces)
    cdef uint32_t i
    for i in range(pieces.count):
        if u[i].kind == URL_HOST:
            return 1
    return 0


cdef int url_refused(exchange *e) noexcept nogil:
    cdef const static_rec *statics = <const static_rec *>snap_table(e.snap, e.snap.statics)
    cdef table_ref pieces = e.policy.rewrite
    if e.policy.static_response != NONE32:
        pieces = statics[e.policy.static_response].location
    if e.req.host.len == 0 and asks_for_host(e, pieces):
        e.fault = FAULT_HOST_MISSING     # old clients may send none
        return BAD_HOST
    return TARGET_TOO_LONG if url_size(e, pieces) > e.snap.max_line else 0
