"""writer: HTTP/1.1 messages on their way out: status and request lines, framing, chunks.

A head is written into one fresh buffer, front to back: the first line, the fields (the exchange's
part), the framing, the state of the connection. One copy of some hundred bytes and one send() cost
less than a writev() of twenty pieces. If the beginning of the body is here, it goes into the same
buffer.

How the client learns where an answer's body ends, `exchange.out`:

    NOTHING    there is no body, or its length was announced
    CHUNKED    by a last chunk
    CLOSE      by the end of the connection: for a client with HTTP/1.0. Until the answer is complete,
               a close would be a reset: an answer that breaks off must not look complete.

A piece that passes verbatim is already chunked.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.http.head cimport FRAMING_CHUNKED, HTTP_1_0, HTTP_1_1
from fastgate._core.http.lines cimport end_line, put_line
from fastgate._core.http.phrases cimport put_phrase
from fastgate._core.io.transport cimport conn_queue, conn_resets
from fastgate._core.platform.buffer cimport (
    HEADROOM, buf_borrow, buf_data, buf_head, buf_len, buf_return)
from fastgate._core.platform.text cimport put, put_lit, put_uint
from fastgate._core.state cimport (
    BODY_MORE, EX_CONTINUE_DUE, EX_HEAD_ONLY, EX_KEEP_ALIVE, EX_VERBATIM)

cdef enum:
    AROUND = 256              # bytes of a first line (without a received phrase) and of the framing
    STATUS_LINE = 13          # "HTTP/1.1 200 "


# ---- pieces of heads ----------------------------------------------------------------------

cdef inline char *put_status_line(char *p, const answer *a) noexcept nogil:
    cdef char *line = p
    if a.k is not NULL:
        # It came over HTTP/1 as well: the line is there already, but its space may be missing.
        if a.k.resp.reason.off == STATUS_LINE:
            p = put(p, a.k.resp_base, STATUS_LINE + a.k.resp.reason.len)
        else:
            p = put_lit(put(p, a.k.resp_base, STATUS_LINE - 1), " ")
        line[7] = 49
        return end_line(p)
    p = put_lit(p, "HTTP/1.1 ")
    p[0] = <char>(48 + a.status // 100)
    p[1] = <char>(48 + a.status // 10 % 10)
    p[2] = <char>(48 + a.status % 10)
    p[3] = 32
    return end_line(put_phrase(p + 4, a.status))


cdef inline char *put_length(char *p, int64_t length) noexcept nogil:
    p = put_lit(p, "Content-Length: ")
    return end_line(put_uint(p, <uint64_t>length))


cdef char *put_connection(char *p, exchange *e) noexcept nogil:
    """Write the Connection field; decides whether the connection stays open."""
    if e.body_state == BODY_MORE and e.flags & EX_CONTINUE_DUE:
        e.flags &= ~EX_KEEP_ALIVE        # whether the client still sends the body cannot be known
    if not e.flags & EX_KEEP_ALIVE or e.out == OUT_CLOSE or e.owner.draining:
        e.flags &= ~EX_KEEP_ALIVE
        return end_line(put_lit(p, "Connection: close"))
    if e.req.version == HTTP_1_0:
        return end_line(put_lit(p, "Connection: keep-alive"))
    return p


# ---- answers ----------------------------------------------------------------------------------

cdef int write_verbatim(const exchange *e, const call *k) noexcept nogil:
    return k.resp.framing == FRAMING_CHUNKED and e.req.version == HTTP_1_1


cdef void write_interim(exchange *e, const answer *a) noexcept nogil:
    cdef buf *b
    cdef char *p
    if e.req.version == HTTP_1_0:
        return
    b = buf_borrow(&e.owner.loop.bufs, a.room + AROUND)
    if b is NULL:
        return
    if a.status == 100:
        p = end_line(put_lit(buf_head(b), "HTTP/1.1 100 Continue"))
    else:
        p = end_line(put_lit(buf_head(b), "HTTP/1.1 103 Early Hints"))
    if a.fields is not NULL:
        p = a.fields(p, e, a)
    p = end_line(p)
    b.end = <uint32_t>(p - buf_data(b))
    conn_queue(&e.down.io, b)


cdef int write_start(exchange *e, const answer *a) noexcept nogil:
    cdef buf *b = buf_borrow(&e.owner.loop.bufs, a.room + a.body_len + AROUND)
    cdef char *p
    if b is NULL:
        return -1
    if a.upgrade or a.length >= 0 or e.flags & EX_HEAD_ONLY:
        e.out = OUT_NOTHING
    else:
        e.out = OUT_CLOSE if e.req.version == HTTP_1_0 else OUT_CHUNKED
    p = put_status_line(buf_head(b), a)
    p = a.fields(p, e, a)
    if a.upgrade:
        e.flags &= ~EX_KEEP_ALIVE
        p = end_line(put_lit(p, "Connection: Upgrade"))
        p = end_line(put_lit(p, "Upgrade: websocket"))
    else:
        if e.out == OUT_CHUNKED:
            p = end_line(put_lit(p, "Transfer-Encoding: chunked"))
        elif a.length >= 0 and not a.has_length:
            p = put_length(p, a.length)
        p = put_connection(p, e)
    p = end_line(p)
    if a.body_len:
        p = put(p, a.body, a.body_len)
    b.end = <uint32_t>(p - buf_data(b))
    e.bytes_out += buf_len(b)
    conn_queue(&e.down.io, b)
    if e.out == OUT_CLOSE:
        conn_resets(&e.down.io, 1)
    return 0


cdef buf *wrap_chunk(buf *b) noexcept nogil:
    """Write the size line before the bytes and the line's end after them, in the buffer's reserved space."""
    cdef char *p = buf_head(b)
    cdef uint32_t v = buf_len(b)
    p -= 2
    end_line(p)
    while True:
        p -= 1
        p[0] = b"0123456789abcdef"[v & 15]
        v >>= 4
        if v == 0:
            break
    end_line(buf_data(b) + b.end)
    b.end += 2
    b.start = <uint32_t>(p - buf_data(b))
    return b


cdef int write_data(exchange *e, buf *b) noexcept nogil:
    if e.out == OUT_CHUNKED and not e.flags & EX_VERBATIM:
        if b.start < HEADROOM:           # cannot happen: reads leave the headroom free
            buf_return(&e.owner.loop.bufs, b)
            return -1
        b = wrap_chunk(b)
    e.bytes_out += buf_len(b)
    conn_queue(&e.down.io, b)
    return 0


cdef int write_end(exchange *e) noexcept nogil:
    cdef buf *b
    if e.out != OUT_CHUNKED or e.flags & EX_VERBATIM:
        return 0
    b = buf_borrow(&e.owner.loop.bufs, 5)
    if b is NULL:
        return -1
    b.end = <uint32_t>(end_line(end_line(put_lit(buf_head(b), "0"))) - buf_data(b))
    e.bytes_out += 5
    conn_queue(&e.down.io, b)
    return 0


# ---- requests ---------------------------------------------------------------------------------

cdef int write_request(call *k, const outgoing *o) noexcept nogil:
    cdef buf *b = buf_borrow(
        &k.owner.loop.bufs, o.room + o.method_len + o.path_len + o.host_len + o.body_len + AROUND)
    cdef char *p
    if b is NULL:
        return -1
    if o.target is NULL and o.path == o.method + o.method_len + 1:
        p = put(buf_head(b), o.method, o.method_len + 1 + o.path_len)     # adjacent in the request as it came
    else:
        p = put(buf_head(b), o.method, o.method_len)
        p = put_lit(p, " ")
        p = put(p, o.path, o.path_len) if o.target is NULL else o.target(p, k)
    p = end_line(put_lit(p, " HTTP/1.1"))
    if o.host_len:
        p = put_line(p, b"Host: ", 6, o.host, o.host_len)
    p = o.fields(p, k)
    if o.length >= 0:
        p = put_length(p, o.length)
    elif o.length == -1:
        p = end_line(put_lit(p, "Transfer-Encoding: chunked"))
    if o.upgrade:
        p = end_line(put_lit(p, "Connection: Upgrade"))
        p = end_line(put_lit(p, "Upgrade: websocket"))
    p = end_line(p)
    if o.body_len:
        memcpy(p, o.body, o.body_len)
        p += o.body_len
    b.end = <uint32_t>(p - buf_data(b))
    conn_queue(&k.up.io, b)
    return 0
