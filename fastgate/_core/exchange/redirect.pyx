"""redirect: the answer that sends a client to another URL: a fixed response with a Location for the request."""
from libc.stdint cimport uint16_t, uint32_t

from fastgate._core.exchange.ending cimport exchange_refuse, send_last
from fastgate._core.exchange.render cimport start_own
from fastgate._core.exchange.url_pieces cimport put_location, url_size
from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.buffer cimport buf, buf_borrow, buf_head, buf_return
from fastgate._core.platform.text cimport fg_clear, put, put_lit
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.snapshot.snapshot cimport snap_str
from fastgate._core.state cimport answer, core

cdef enum:
    AROUND_LOCATION = 16      # bytes of its name and its line end


cdef void answer_redirect(exchange *e, const static_rec *s) noexcept nogil:
    cdef core *c = e.owner
    cdef size_t size = url_size(e, s.location)
    cdef char *end
    cdef answer a
    cdef buf *b = buf_borrow(&c.loop.bufs, s.fields.len + size + AROUND_LOCATION)
    if b is NULL:
        exchange_refuse(e, OVERLOADED)
        return
    end = put_lit(put(buf_head(b), snap_str(e.snap, s.fields), s.fields.len), "Location: ")
    end = end_line(put_location(end, e, s.location))
    fg_clear(&a, sizeof(a))
    a.status = <uint16_t>s.status
    a.lines = buf_head(b)
    a.lines_len = <uint32_t>(end - buf_head(b))
    e.status = a.status
    send_last(e, start_own(e, &a))
    buf_return(&c.loop.bufs, b)           # the exchange may have ended with it
