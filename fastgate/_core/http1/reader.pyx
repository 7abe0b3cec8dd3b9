"""reader: HTTP/1.1 messages on their way in: where a body ends, and taking its pieces.

A message's head determines its body's framing: a length, chunks, or (only for answers) the end of the
connection. Bodies are taken in place: a buffer with nothing but body bytes is passed on without a copy.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from fastgate._core.http.head cimport (
    FRAMING_CHUNKED, FRAMING_CLOSE, FRAMING_LENGTH, FRAMING_NONE, HEAD_EXPECT_CONTINUE, HEAD_KEEP_ALIVE,
    HTTP_1_1, head)
from fastgate._core.http1.chunked cimport CHUNK_END, chunk_decode, chunk_relay, chunk_reset
from fastgate._core.http1.parser cimport parse_response
from fastgate._core.platform.buffer cimport (
    HEADROOM, buf_borrow, buf_data, buf_head, buf_len, buf_return, buf_room)
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.state cimport (
    BODY_MORE, BODY_NONE, CALL_CLOSE_AFTER, CALL_RESPONSE_DONE, CALL_TUNNEL, DOWN_TUNNEL, EX_CONTINUE_DUE,
    downstream, upstream)


# ---- requests ---------------------------------------------------------------------------------

cdef int read_expect_body(exchange *e) noexcept nogil:
    cdef head *h = &e.req
    cdef uint32_t have = buf_len(e.headbuf)
    if h.framing == FRAMING_LENGTH:
        if h.content_length == 0:
            return 0
        if h.content_length <= have:
            # It came whole. It stays where it is, so that a retry can send it again.
            e.inline_body = buf_head(e.headbuf)
            e.inline_len = <uint32_t>h.content_length
            e.headbuf.start += e.inline_len
            e.bytes_in = e.inline_len
            return 0
        e.body_left = <uint64_t>h.content_length
        e.body_state = BODY_MORE
    elif h.framing == FRAMING_CHUNKED:
        chunk_reset(&e.body_chunks)
        e.body_state = BODY_MORE
    if e.body_state == BODY_MORE and h.flags & HEAD_EXPECT_CONTINUE and have == 0 and h.version == HTTP_1_1:
        e.flags |= EX_CONTINUE_DUE
    return 0


cdef int consume(exchange *e, buf *b, int verbatim, uint32_t *consumed, uint32_t *produced) noexcept nogil:
    """How many bytes of b belong to the body, and how many of them are data without the framing. 0, or a Reason."""
    cdef uint32_t length = buf_len(b)
    cdef int result
    if e.down.state == DOWN_TUNNEL:
        consumed[0] = length
        produced[0] = length
        return 0
    if e.req.framing == FRAMING_LENGTH:
        consumed[0] = length if length < e.body_left else <uint32_t>e.body_left
        produced[0] = consumed[0]
        e.body_left -= consumed[0]
        e.body_bytes += consumed[0]
        if e.body_left == 0:
            e.body_state = BODY_NONE
        return 0
    if verbatim:
        result = chunk_relay(&e.body_chunks, buf_head(b), length, consumed, produced)
    else:
        result = chunk_decode(&e.body_chunks, buf_head(b), length, consumed, produced)
    if result < 0:
        return -result
    e.body_bytes = e.body_chunks.total
    if result == CHUNK_END:
        e.body_state = BODY_NONE
    return 0


cdef buf *read_take(exchange *e, int verbatim, int *refused) noexcept nogil:
    cdef downstream *d = e.down
    cdef buf *b = read_waiting(e)
    cdef buf *out
    cdef uint32_t length, consumed = 0, produced = 0
    refused[0] = 0
    if b is NULL:
        return NULL
    length = buf_len(b)
    refused[0] = consume(e, b, verbatim, &consumed, &produced)
    if refused[0] != 0:
        return NULL
    e.bytes_in += consumed
    if b is d.io.inb and consumed == length:
        d.io.inb = NULL                  # passed on whole
        b.end = b.start + produced
        out = b
    else:
        out = buf_borrow(&e.owner.loop.bufs, produced)
        if out is NULL:
            refused[0] = OVERLOADED
            return NULL
        memcpy(buf_head(out), buf_head(b), produced)
        out.end = out.start + produced
        b.start += consumed
    if produced == 0:
        buf_return(&e.owner.loop.bufs, out)
        return NULL
    return out


cdef uint32_t read_plain(const exchange *e, call *k, char *p, uint32_t n) noexcept nogil:
    # The copy is sent by this call, whose decoder is free until there is an answer.
    cdef uint32_t consumed = 0, produced = 0
    if e.req.framing != FRAMING_CHUNKED:
        return n
    chunk_decode(&k.resp_chunks, p, n, &consumed, &produced)
    return produced


cdef int read_skip(exchange *e) noexcept nogil:
    cdef buf *b
    cdef uint32_t consumed = 0, produced = 0
    while e.body_state == BODY_MORE:
        b = read_waiting(e)
        if b is NULL or consume(e, b, 0, &consumed, &produced) != 0:
            return 0
        b.start += consumed
    return 1


# ---- answers ----------------------------------------------------------------------------------

cdef int answer_head(call *k) noexcept nogil:
    cdef upstream *u = k.up
    cdef buf *b = u.io.inb
    cdef int size
    k.resp_base = buf_head(b)
    size = parse_response(&k.resp, k.resp_base, buf_len(b), &k.owner.response_caps, k.method_id)
    if size == 0 and buf_room(b) == 0 and b.start > HEADROOM:
        # The caps ensure that one head never fills the buffer, but interim heads before it may.
        memmove(buf_data(b) + HEADROOM, k.resp_base, buf_len(b))
        b.end = HEADROOM + buf_len(b)
        b.start = HEADROOM
    return size


cdef void answer_expect_body(call *k) noexcept nogil:
    if not k.resp.flags & HEAD_KEEP_ALIVE:
        k.flags |= CALL_CLOSE_AFTER
    if k.resp.framing == FRAMING_LENGTH:
        k.resp_remaining = <uint64_t>k.resp.content_length
        if k.resp_remaining == 0:
            k.flags |= CALL_RESPONSE_DONE
    elif k.resp.framing == FRAMING_CHUNKED:
        chunk_reset(&k.resp_chunks)
    elif k.resp.framing == FRAMING_NONE:
        k.flags |= CALL_RESPONSE_DONE
    if k.flags & CALL_RESPONSE_DONE and buf_len(k.up.io.inb) != 0:
        k.flags |= CALL_CLOSE_AFTER      # bytes after the end: never pooled


cdef buf *answer_take(call *k, int verbatim, int *bad) noexcept nogil:
    cdef upstream *u = k.up
    cdef buf *b = u.io.inb
    cdef uint32_t length = buf_len(b), consumed = 0, out_len = 0
    cdef int result
    bad[0] = 0
    if length == 0 or (k.flags & CALL_RESPONSE_DONE and k.state != CALL_TUNNEL and k.resp.framing != FRAMING_CLOSE):
        return NULL
    u.io.inb = NULL
    if k.state == CALL_TUNNEL or k.resp.framing == FRAMING_CLOSE:
        return b
    if k.resp.framing == FRAMING_LENGTH:
        if length > k.resp_remaining:
            b.end = b.start + <uint32_t>k.resp_remaining
            length = <uint32_t>k.resp_remaining
            k.flags |= CALL_CLOSE_AFTER
        k.resp_remaining -= length
        if k.resp_remaining == 0:
            k.flags |= CALL_RESPONSE_DONE
        return b
    if verbatim:
        result = chunk_relay(&k.resp_chunks, buf_head(b), length, &consumed, &out_len)
    else:
        result = chunk_decode(&k.resp_chunks, buf_head(b), length, &consumed, &out_len)
    if result < 0:
        buf_return(&k.owner.loop.bufs, b)
        bad[0] = 1
        return NULL
    if result == CHUNK_END:
        k.flags |= CALL_RESPONSE_DONE
        if consumed < length:
            k.flags |= CALL_CLOSE_AFTER
    b.end = b.start + out_len
    if out_len == 0:
        u.io.inb = b                     # empty, but it may hold the head, which is still to be read
        return NULL
    return b


cdef void answer_skip(call *k) noexcept nogil:
    if k.resp.framing == FRAMING_LENGTH and k.resp_remaining == buf_len(k.up.io.inb):
        k.flags |= CALL_RESPONSE_DONE


cdef int answer_ends_with_connection(const call *k) noexcept nogil:
    return k.resp.framing == FRAMING_CLOSE
