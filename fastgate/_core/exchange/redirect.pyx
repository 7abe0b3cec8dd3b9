"""redirect: the answers that send a client to another URL: a Location, and what a route's own answer has with it."""
from libc.stdint cimport uint32_t

from fastgate._core.exchange.ending cimport exchange_refuse, send_last
from fastgate._core.exchange.render cimport start_own
from fastgate._core.exchange.url_pieces cimport put_location, url_size
from fastgate._core.http.head cimport head
from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_head, buf_return
from fastgate._core.platform.text cimport fg_clear, put, put_lit, put_uint
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.snapshot.snapshot cimport snap_str
from fastgate._core.state cimport answer, core

cdef enum:
    AROUND_LOCATION = 16      # bytes of its name and its line end
    AROUND_HTTPS = 32         # of these, the scheme, a port and the "?"
    HTTPS_PORT = 443


cdef void answer_redirect(exchange *e, const static_rec *s) noexcept nogil:
    cdef size_t size = url_size(e, s.location)
    cdef buf *b = buf_borrow(&e.owner.loop.bufs, s.fields.len + size + AROUND_LOCATION)
    cdef char *end
    if b is NULL:
        exchange_refuse(e, OVERLOADED)
        return
    end = put_lit(put(buf_head(b), snap_str(e.snap, s.fields), s.fields.len), "Location: ")
    send_lines(e, <uint16_t>s.status, b, end_line(put_location(end, e, s.location)))


cdef void answer_to_https(exchange *e, uint16_t port) noexcept nogil:
    cdef const head *h = &e.req
    cdef buf *b = buf_borrow(&e.owner.loop.bufs, <size_t>h.host.len + h.path.len + h.query.len + AROUND_HTTPS)
    cdef char *end
    if b is NULL:
        exchange_refuse(e, OVERLOADED)
        return
    end = put(put_lit(buf_head(b), "Location: https://"), e.base + h.host.off, h.host.len)
    if port != HTTPS_PORT:
        end = put_uint(put_lit(end, ":"), port)
    end = put(end, e.base + h.path.off, h.path.len)
    if h.has_query:
        end = put(put_lit(end, "?"), e.base + h.query.off, h.query.len)
    send_lines(e, 308, b, end_line(end))


cdef void send_lines(exchange *e, uint16_t status, buf *b, const char *end) noexcept nogil:
    """Answer with the lines at the start of this buffer, which is returned."""
    cdef core *c = e.owner
    cdef answer a
    fg_clear(&a, sizeof(a))
    a.status = status
    a.lines = buf_head(b)
    a.lines_len = <uint32_t>(end - buf_head(b))
    e.status = a.status
    send_last(e, start_own(e, &a))
    buf_return(&c.loop.bufs, b)           # the exchange may have ended with it
