"""render: the heads of answers to clients, and what all heads that go out are made of."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastgate._core.platform.buffer cimport buf
from fastgate._core.http.head cimport head
from fastgate._core.snapshot.snapshot cimport snapshot_header, table_ref
from fastgate._core.state cimport call, core, exchange

cdef enum ConnectionOut:
    OUT_PLAIN = 0             # nothing to say (HTTP/1.1, the connection lives)
    OUT_CLOSE = 1
    OUT_KEEP_ALIVE = 2        # an HTTP/1.0 client asked for it
    OUT_UPGRADE = 3

cdef buf *render_response(exchange *e, call *k, int connection, uint32_t extra) noexcept nogil
    # the head of k.resp for the client; framing from e.flags (EX_CHUNK_OUT, ...)
cdef buf *render_interim(exchange *e, call *k) noexcept nogil
cdef buf *render_static(exchange *e, const char *head, uint32_t head_len, const char *body,
                        uint32_t body_len, int connection) noexcept nogil
    # our own answer of fixed bytes; head: status line and fields
cdef buf *render_start(exchange *e, uint32_t status, const char *fields, uint32_t fields_len,
                       int64_t length, int connection) noexcept nogil
    # a handler's answer; fields: lines with CRLF; length < 0: chunked or until close
cdef buf *render_preflight(exchange *e, int connection) noexcept nogil
cdef void refresh_date(core *c) noexcept nogil

# Pieces of a head, for those that are made elsewhere (refusal.pyx, request_head.pyx).
cdef size_t answer_extra(exchange *e) noexcept nogil
    # the room that those pieces may need
cdef int called_securely(exchange *e) noexcept nogil
    # whether the client called https: by our own TLS, or a trusted proxy says so
cdef char *put_date(char *p, core *c) noexcept nogil
cdef char *put_connection(char *p, int connection) noexcept nogil
cdef char *put_additions(char *p, exchange *e) noexcept nogil
cdef char *put_id(char *p, exchange *e) noexcept nogil
cdef char *put_length(char *p, int64_t length) noexcept nogil
cdef char *put_fields(char *p, const char *base, const head *h, uint64_t drop,
                      const snapshot_header *s, table_ref rules) noexcept nogil
    # the lines that pass: not hop-by-hop, not in `drop`, not replaced by a rule
cdef size_t rules_size(const snapshot_header *s, table_ref t) noexcept nogil
cdef char *put_rules(char *p, const snapshot_header *s, table_ref t, const char *base, const head *h) noexcept nogil
    # the lines that header rules set and add; h: what came, for those that are a default
