"""render: the fields of answers to clients, and the pieces of all outgoing fields."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.http.head cimport head
from fastgate._core.snapshot.snapshot cimport snapshot_header, table_ref
from fastgate._core.state cimport answer, call, core, exchange

# All of these queue a head, and the part of the body that is here. 0; -1: no memory.
cdef int start_response(exchange *e, call *k, const char *body, uint32_t body_len) noexcept nogil
    # the answer of k, which opens a tunnel if its status is 101
cdef int start_own(exchange *e, answer *a) noexcept nogil
    # an answer of the gateway or of a handler: `status`, `length`, `lines` and `body` are set, the rest zero
cdef int start_preflight(exchange *e) noexcept nogil
cdef void send_interim(exchange *e, call *k) noexcept nogil
    # k's interim answer; NULL: 100
cdef void refresh_date(core *c) noexcept nogil

# Pieces of a head, for those written elsewhere (refusal.pyx, request_head.pyx).
cdef size_t answer_extra(exchange *e) noexcept nogil
    # the room that those pieces may need
cdef int called_securely(exchange *e) noexcept nogil
    # whether the client used https: our own TLS, or a trusted proxy reports it
cdef char *put_date(char *p, core *c) noexcept nogil
cdef char *put_additions(char *p, exchange *e) noexcept nogil
cdef char *put_id(char *p, exchange *e) noexcept nogil
cdef char *put_fields(char *p, const char *base, const head *h, uint64_t drop,
                      const snapshot_header *s, table_ref rules) noexcept nogil
    # the lines that pass: not hop-by-hop, not in `drop`, not replaced by a rule
cdef size_t rules_size(const snapshot_header *s, table_ref t) noexcept nogil
cdef char *put_rules(char *p, const snapshot_header *s, table_ref t, const char *base, const head *h) noexcept nogil
    # the lines that header rules set and add; h: the fields that came, for rules that set a default
