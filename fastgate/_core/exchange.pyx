"""exchange: the phase machine of one request with its response. The only module that knows phases.

    head ──► route ─► authenticate ─► admit ─┬─► static answer ───────────────────┐
      │         │           │           │    ├─► handler (Python, see upcall) ────┤
      ▼         ▼           ▼           ▼    └─► select ─► connect ─► forward ─►   │
    refusal ◄───┴───────────┴───────────┘          filter_response ─► relay ──────┤
      │                                                                           │
      └────────────────────────────► settle ─► log ◄──────────────────────────────┘

Every exchange passes `finish`, once: refused, failed, aborted or served. There, what counts in
flight is left, the record is written, the snapshot is let go, and the connection goes on, is
closed, or lingers.

The two directions of a proxied exchange are independent. Request bytes go

    downstream.inb ─ pump_request ─► upstream's queue     stops when the queue does not empty

and response bytes

    upstream.inb ─ pump_response ─► downstream's queue    stops when the queue does not empty

Stopping is not reading; the queue's `drained` sink starts it again. So at most one buffer a
direction is held, and the slower side sets the pace.
"""
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memcpy, memset

from fastgate._core.admission cimport (
    address_allowed, address_matches, admit, admit_address, admit_settle, admit_undo,
    authenticate)
from fastgate._core.buffer cimport (
    BUFFER_LARGE, BUFFER_SMALL, HEADROOM, TAILROOM, buf_borrow, buf_data, buf_head, buf_len, buf_return,
    buf_room)
from fastgate._core.cells cimport address_hash, fg_prefetch, hash_bytes
from fastgate._core.charging cimport charge_due, charge_open, charge_settle
from fastgate._core.counters cimport count_outcome, counters_route, observe
from fastgate._core.downstream cimport (
    down_body, down_close, down_flush, down_linger, down_next, down_read, down_send)
from fastgate._core.http1 cimport (
    CHUNK_END, F_ACCESS_CONTROL_REQUEST_METHOD, F_ORIGIN, F_TRACEPARENT, F_USER_AGENT, F_VIA,
    F_X_FORWARDED_FOR, F_X_REQUEST_ID, FRAMING_CHUNKED, FRAMING_CLOSE, FRAMING_LENGTH, FRAMING_NONE,
    HEAD_BAD_EXPECT, HEAD_EXPECT_CONTINUE, HEAD_HAS_ENCODED_SLASH, HEAD_HAS_UNDERSCORE, HEAD_KEEP_ALIVE,
    HEAD_PATH_NEEDS_NORMALIZING, HEAD_UPGRADE_WEBSOCKET, METHOD_CONNECT, METHOD_DELETE, METHOD_GET,
    METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_PATCH, METHOD_POST, METHOD_PUT, METHOD_TRACE,
    TARGET_ASTERISK, chunk_decode, chunk_relay, chunk_reset, field, head, normalize_path)
from fastgate._core.logring cimport (
    LOG_ABORTED, LOG_HTTP_1_0, LOG_KEEP_ALIVE, LOG_TEXT, LOG_TUNNEL, LOG_UPCALL, LOG_UPSTREAM_REUSED, PHASE_ADMIT,
    PHASE_AUTHENTICATE, PHASE_CONNECT, PHASE_FILTER_REQUEST, PHASE_FILTER_RESPONSE, PHASE_FORWARD,
    PHASE_HOLD, PHASE_LOG, PHASE_READ_HEAD, PHASE_RELAY, PHASE_ROUTE, PHASE_SELECT, PHASE_SETTLE, TEXT_CONSUMER,
    TEXT_HOST, TEXT_LIMIT, TEXT_METHOD, TEXT_PATH, TEXT_ROUTE, TEXT_TARGET, TEXT_USER_AGENT, log_record,
    log_text, logring_commit, logring_reserve)
from fastgate._core.poller cimport poller_again, poller_close, poller_read_start
from fastgate._core.reason cimport (
    ADDRESS_DENIED, BAD_TARGET, BODY_TOO_LARGE, CLIENT_CLOSED, CREDENTIAL_MISSING, DRAINING,
    EXPECTATION_FAILED, INTERNAL_ERROR, LOOP_DETECTED, MALFORMED_REQUEST, METHOD_NOT_ALLOWED, NO_ROUTE,
    OVERLOADED, REASON_NONE, REQUEST_TIMEOUT, RESPONSE_TRUNCATED, ROUTE_RETIRED, TUNNEL_CLOSED,
    UPSTREAM_RESET)
from fastgate._core.render cimport (
    OUT_CLOSE, OUT_KEEP_ALIVE, OUT_PLAIN, OUT_UPGRADE, random64, render_interim, render_preflight,
    render_request, render_response, render_start, render_static)
from fastgate._core.refusal cimport render_refusal
from fastgate._core.router cimport ROUTE_FOUND, ROUTE_METHOD, route_find
from fastgate._core.snapshot cimport (
    HASH_BY_CONSUMER, HASH_BY_HEADER, HASH_BY_PATH, NONE32, ROUTE_ENCODED_SLASH, ROUTE_LOG_OFF,
    ROUTE_RETIRED as FLAG_RETIRED, ROUTE_WEBSOCKET, refusal_rec, route_rec, service_rec, snap_route,
    snap_service, snap_str, snap_table, snap_upstream, snapshot_header, static_rec)
from fastgate._core.state cimport (
    BODY_MORE, BODY_NONE, CALL_BODY, CALL_FAILED, CALL_IDEMPOTENT, CALL_NONE, CALL_PYTHON, CALL_REPLAYABLE,
    CALL_REQUEST_DONE, CALL_RESPONSE_DONE, CALL_SEND, CALL_TUNNEL, CALL_UPGRADE, DOWN_BUSY, DOWN_TUNNEL,
    EX_ABORTED, EX_AWAIT_BODY, EX_CHUNK_OUT, EX_CLOSE_OUT, EX_CONTINUE_DUE, EX_COUNTED_UPCALL, EX_DECODE,
    EX_ENDED, EX_HEAD_ONLY, EX_KEEP_ALIVE, EX_METERED, EX_REFUSED, EX_RESPONSE_DONE, EX_RESPONSE_STARTED, EX_SUSPENDED,
    EX_TUNNEL, EX_WAKE, IO_EOF, IO_READABLE, IO_READING, WAKE_CALL, WAKE_DONE, WAKE_GONE, WAKE_WRITABLE,
    downstream, field_of, has_field)
from fastgate._core.sys cimport monotonic_ns
from fastgate._core.text cimport put, put_lit
from fastgate._core.upstream cimport (
    call_abort, call_end, call_flush, call_queue, call_read, call_start, call_take)

cdef enum:
    INLINE_BODY = 4096        # response bytes up to this are put behind the head in its buffer

cdef uint64_t IDEMPOTENT = (
    1ull << METHOD_GET | 1ull << METHOD_HEAD | 1ull << METHOD_PUT | 1ull << METHOD_DELETE
    | 1ull << METHOD_OPTIONS | 1ull << METHOD_TRACE)


cdef inline void mark(exchange *e, int phase, uint64_t now) noexcept nogil:
    e.phase = <uint8_t>phase
    e.phase_us[phase] = <uint32_t>((now - e.started_ns) // 1000) if now > e.started_ns else 0


# ---- beginning --------------------------------------------------------------------------------

cdef void begin(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef head *h = &e.req
    cdef downstream *d = e.down
    cdef uint32_t have, take_
    e.ref = c.ref
    e.ref.in_flight += 1
    e.snap = e.ref.snap
    e.started_ns = d.head_started
    e.started_unix_ns = <int64_t>d.head_started + c.unix_offset
    memset(e.phase_us, 0xff, sizeof(e.phase_us))
    e.phase_us[<int>PHASE_READ_HEAD] = 0
    e.request_id[0] = random64(c)
    e.request_id[1] = random64(c)
    e.span_id = random64(c) | 1
    e.trace_id[0] = e.request_id[0]
    e.trace_id[1] = e.request_id[1]
    e.trace_flags = 1
    c.counters.requests += 1


cdef int hex_value(uint8_t x) noexcept nogil:
    if 48 <= x <= 57:
        return x - 48
    if 97 <= x <= 102:
        return x - 87
    return -1


cdef int read_hex(const char *p, uint8_t *out, uint32_t n, int *zero) noexcept nogil:
    """2n lower-case hex digits; 0 when there is something else."""
    cdef uint32_t i
    cdef int hi, lo
    zero[0] = 1
    for i in range(n):
        hi = hex_value(<uint8_t>p[2 * i])
        lo = hex_value(<uint8_t>p[2 * i + 1])
        if hi < 0 or lo < 0:
            return 0
        out[i] = <uint8_t>(hi << 4 | lo)
        if out[i]:
            zero[0] = 0
    return 1


cdef void read_ids(exchange *e) noexcept nogil:
    """Continue the client's trace and keep its request id, where they are well-formed."""
    cdef const field *f
    cdef const char *p
    cdef uint8_t trace[16]
    cdef uint8_t parent[8]
    cdef uint8_t flags[1]
    cdef char digits[32]
    cdef int zero = 0, n = 0
    cdef uint32_t i
    if has_field(&e.req, F_TRACEPARENT):
        f = field_of(&e.req, F_TRACEPARENT)
        p = e.base + f.value
        if f.value_len >= 55 and memcmp(p, b"ff", 2) != 0 and p[2] == 45 and p[35] == 45 and p[52] == 45 \
                and (f.value_len == 55 or (p[55] == 45 and memcmp(p, b"00", 2) != 0)) \
                and read_hex(p, flags, 1, &zero) and read_hex(p + 3, trace, 16, &zero) and not zero \
                and read_hex(p + 36, parent, 8, &zero) and not zero and read_hex(p + 53, flags, 1, &zero):
            memcpy(e.trace_id, trace, 16)
            e.trace_flags = flags[0]
    if has_field(&e.req, F_X_REQUEST_ID):
        f = field_of(&e.req, F_X_REQUEST_ID)
        p = e.base + f.value
        if f.value_len == 32 or f.value_len == 36:
            # 32 hex digits, or the same as a UUID.
            for i in range(f.value_len):
                if p[i] == 45 and f.value_len == 36 and (i == 8 or i == 13 or i == 18 or i == 23):
                    continue
                if n == 32:
                    return
                digits[n] = p[i] | 0x20 if 65 <= p[i] <= 70 else p[i]
                n += 1
            if n == 32 and read_hex(digits, trace, 16, &zero) and not zero:
                memcpy(e.request_id, trace, 16)
                e.id_from_client = 1


cdef int read_body_framing(exchange *e) noexcept nogil:
    """What body comes, and how much of it is here. 0, or a Reason."""
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
    if e.body_state == BODY_MORE and h.flags & HEAD_EXPECT_CONTINUE and have == 0 and h.minor == 1:
        e.flags |= EX_CONTINUE_DUE
    return 0


cdef void client_address(exchange *e) noexcept nogil:
    """The client's address: the peer's; behind trusted proxies, the last one they do not vouch for."""
    cdef downstream *d = e.down
    cdef const field *f
    cdef const char *p
    cdef uint8_t address[16]
    cdef uint32_t end, start
    cdef int i
    memcpy(e.client, d.address, 16)
    if e.snap.trusted_proxies.count == 0:
        d.trusted = 1
        return
    d.trusted = 2 if address_matches(e, e.snap.trusted_proxies, d.address) else 1
    if d.trusted == 1 or not has_field(&e.req, F_X_FORWARDED_FOR):
        return
    i = e.req.nfields - 1
    while i >= 0:
        f = &e.req.fields[i]
        i -= 1
        if f.id != F_X_FORWARDED_FOR:
            continue
        p = e.base + f.value
        end = f.value_len
        while True:
            while end > 0 and (p[end - 1] == 32 or p[end - 1] == 9 or p[end - 1] == 44):
                end -= 1
            if end == 0:
                break
            start = end
            while start > 0 and p[start - 1] != 44:
                start -= 1
            while start < end and (p[start] == 32 or p[start] == 9):
                start += 1
            if not parse_address(p + start, end - start, address):
                return                   # not an address: nothing before it can be believed
            memcpy(e.client, address, 16)
            if not address_matches(e, e.snap.trusted_proxies, address):
                return
            end = start


cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <string.h>
    /* An address as X-Forwarded-For has it (a port may follow, brackets may be around); 16 bytes mapped. */
    static int fg_parse_address(const char *p, unsigned n, unsigned char *out) {
        char tmp[64];
        if (n == 0 || n >= sizeof tmp) return 0;
        memcpy(tmp, p, n); tmp[n] = 0;
        char *s = tmp;
        if (*s == '[') {
            char *e = strchr(s, ']');
            if (!e) return 0;
            *e = 0; s++;
        } else {
            char *colon = strchr(s, ':');
            if (colon && strchr(s, '.') && !strchr(colon + 1, ':')) *colon = 0;
        }
        memset(out, 0, 16);
        if (inet_pton(AF_INET, s, out + 12) == 1) { out[10] = out[11] = 0xff; return 1; }
        return inet_pton(AF_INET6, s, out) == 1;
    }
    """
    int parse_address "fg_parse_address"(const char *p, unsigned n, unsigned char *out) noexcept nogil


cdef int canonical_path(exchange *e) noexcept nogil:
    cdef head *h = &e.req
    cdef int n
    e.path = e.base + h.path.off
    e.path_len = h.path.len
    if not h.flags & (HEAD_PATH_NEEDS_NORMALIZING | HEAD_HAS_ENCODED_SLASH):
        return 0
    # A raw backslash becomes three bytes.
    e.pathbuf = buf_borrow(&e.owner.bufs, h.path.len * 3)
    if e.pathbuf is NULL:
        return OVERLOADED
    n = normalize_path(e.base + h.path.off, h.path.len, buf_head(e.pathbuf), h.path.len * 3, 1)
    if n <= 0:
        return -n if n < 0 else BAD_TARGET
    e.path = buf_head(e.pathbuf)
    e.path_len = <uint32_t>n
    return 0


cdef int seen_via(exchange *e) noexcept nogil:
    """How often this gateway stands in the request's Via."""
    cdef const char *name = snap_str(e.snap, e.snap.via)
    cdef uint32_t n = e.snap.via.len, i, j
    cdef const field *f
    cdef const char *p
    cdef int count = 0
    for i in range(e.req.nfields):
        f = &e.req.fields[i]
        if f.id != F_VIA or f.value_len < n:
            continue
        p = e.base + f.value
        for j in range(f.value_len - n + 1):
            if (j == 0 or p[j - 1] == 32) and (j + n == f.value_len or p[j + n] == 44 or p[j + n] == 32) \
                    and memcmp(p + j, name, n) == 0:
                count += 1
    return count


cdef void exchange_head(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef head *h = &e.req
    cdef int reason
    begin(e)
    if has_field(h, F_TRACEPARENT) or has_field(h, F_X_REQUEST_ID):
        read_ids(e)
    if h.flags & HEAD_KEEP_ALIVE and not c.draining and (
            e.snap.max_requests == 0 or e.down.requests < e.snap.max_requests):
        e.flags |= EX_KEEP_ALIVE
    if h.method_id == METHOD_HEAD:
        e.flags |= EX_HEAD_ONLY
    reason = read_body_framing(e)
    if reason == 0:
        reason = find_route(e)
    if reason == 0:
        reason = check_route(e)
    if reason == 0:
        mark(e, PHASE_AUTHENTICATE, e.started_ns)
        reason = admit_address(c, e)
        if reason == 0:
            reason = authenticate(c, e)
        if reason == 0:
            mark(e, PHASE_ADMIT, e.started_ns)
            reason = admit(c, e)
        if reason == 0:
            mark(e, PHASE_HOLD, e.started_ns)
            reason = charge_open(c, e)
            if reason != 0:
                admit_undo(c, e)
    if reason != 0:
        if reason > 0:
            exchange_refuse(e, reason)
        return                           # < 0: answered already
    if e.route.static_response != NONE32:
        answer_static(e)
    elif e.route.handler != NONE32:
        begin_upcall(e)
    else:
        begin_proxy(e)


cdef int find_route(exchange *e) noexcept nogil:
    """0, a Reason, or -1 when the exchange has been answered."""
    cdef head *h = &e.req
    cdef const char *host = e.base + h.host.off
    cdef uint8_t method
    cdef int found
    mark(e, PHASE_ROUTE, e.started_ns)
    client_address(e)
    if h.method_id == METHOD_CONNECT:
        return METHOD_NOT_ALLOWED
    if h.flags & HEAD_BAD_EXPECT:
        return EXPECTATION_FAILED
    if h.flags & HEAD_HAS_UNDERSCORE and e.snap.underscores == 1:
        return MALFORMED_REQUEST
    if has_field(h, F_VIA) and e.snap.loop_max and <uint32_t>seen_via(e) >= e.snap.loop_max:
        return LOOP_DETECTED
    if h.form == TARGET_ASTERISK:
        e.path = b"*"
        e.path_len = 1
        answer_fixed(e, 204, b"HTTP/1.1 204 No Content\r\n", 25, NULL, 0)
        return -1
    found = canonical_path(e)
    if found != 0:
        return found
    if h.method_id == METHOD_OPTIONS and has_field(h, F_ACCESS_CONTROL_REQUEST_METHOD) and has_field(h, F_ORIGIN):
        method = h.method_id
        h.method_id = asked_method(e)
        found = route_find(e.snap, host, h.host.len, e.path, e.path_len, e.base, h, &e.match)
        h.method_id = method
        if found == ROUTE_FOUND and snap_route(e.snap, e.match.route).cors != NONE32:
            e.route = snap_route(e.snap, e.match.route)
            answer_preflight(e)
            return -1
    found = route_find(e.snap, host, h.host.len, e.path, e.path_len, e.base, h, &e.match)
    if found == ROUTE_FOUND:
        e.route = snap_route(e.snap, e.match.route)
        # One wait for memory, not one for each line of a record that is cold among many routes.
        fg_prefetch(<const char *>e.route + 64)
        fg_prefetch(<const char *>e.route)
        if e.route.service != NONE32:
            e.service = snap_service(e.snap, e.route.service)
        return 0
    return METHOD_NOT_ALLOWED if found == ROUTE_METHOD else NO_ROUTE


cdef uint8_t asked_method(exchange *e) noexcept nogil:
    cdef const field *f = field_of(&e.req, F_ACCESS_CONTROL_REQUEST_METHOD)
    cdef const char *p = e.base + f.value
    if f.value_len == 3 and memcmp(p, b"GET", 3) == 0:
        return METHOD_GET
    if f.value_len == 3 and memcmp(p, b"PUT", 3) == 0:
        return METHOD_PUT
    if f.value_len == 4 and memcmp(p, b"POST", 4) == 0:
        return METHOD_POST
    if f.value_len == 4 and memcmp(p, b"HEAD", 4) == 0:
        return METHOD_HEAD
    if f.value_len == 5 and memcmp(p, b"PATCH", 5) == 0:
        return METHOD_PATCH
    if f.value_len == 6 and memcmp(p, b"DELETE", 6) == 0:
        return METHOD_DELETE
    return METHOD_OTHER


cdef int check_route(exchange *e) noexcept nogil:
    cdef head *h = &e.req
    cdef const route_rec *r = e.route
    if r.flags & FLAG_RETIRED:
        return ROUTE_RETIRED
    if h.flags & HEAD_HAS_ENCODED_SLASH and not r.flags & ROUTE_ENCODED_SLASH:
        return BAD_TARGET
    if r.addresses.count and not address_allowed(e, r.addresses):
        return ADDRESS_DENIED
    if h.content_length > 0 and r.body_cap and <uint64_t>h.content_length > r.body_cap:
        return BODY_TOO_LARGE
    if h.flags & HEAD_UPGRADE_WEBSOCKET and r.flags & ROUTE_WEBSOCKET:
        if h.framing == FRAMING_CHUNKED or h.content_length > 0:
            return MALFORMED_REQUEST
        e.upgrading = 1
    return 0


# ---- answers of our own -----------------------------------------------------------------------

cdef int connection_out(exchange *e) noexcept nogil:
    """What to say of the connection; settles whether it lives."""
    if e.body_state == BODY_MORE and e.flags & EX_CONTINUE_DUE:
        e.flags &= ~EX_KEEP_ALIVE        # the client may send the body or not: no way to know
    if not e.flags & EX_KEEP_ALIVE or e.flags & EX_CLOSE_OUT or e.owner.draining:
        e.flags &= ~EX_KEEP_ALIVE
        return OUT_CLOSE
    return OUT_KEEP_ALIVE if e.req.minor == 0 else OUT_PLAIN


cdef void send_last(exchange *e, buf *b) noexcept nogil:
    """The whole answer, in one buffer."""
    cdef int done
    if b is NULL:
        exchange_abort(e, OVERLOADED)
        return
    e.flags |= EX_RESPONSE_STARTED | EX_RESPONSE_DONE
    e.bytes_out += buf_len(b)
    down_send(e.down, b)
    done = down_flush(e.down)
    if done < 0:
        exchange_gone(e)
    elif done == 1:
        finish(e)


cdef void answer_fixed(exchange *e, uint16_t status, const char *head_bytes, uint32_t head_len,
                       const char *body, uint32_t body_len) noexcept nogil:
    e.status = status
    send_last(e, render_static(e, head_bytes, head_len, body, body_len, connection_out(e)))


cdef void answer_static(exchange *e) noexcept nogil:
    cdef const static_rec *s = <const static_rec *>snap_table(e.snap, e.snap.statics) + e.route.static_response
    answer_fixed(e, <uint16_t>s.status, snap_str(e.snap, s.head), s.head.len, snap_str(e.snap, s.body), s.body.len)


cdef void answer_preflight(exchange *e) noexcept nogil:
    e.status = 204
    send_last(e, render_preflight(e, connection_out(e)))


cdef void exchange_refuse(exchange *e, int reason) noexcept nogil:
    """Answer with the problem of that reason; where an answer has begun, break it off."""
    cdef const refusal_rec *r
    drop_calls(e)
    if e.flags & EX_RESPONSE_STARTED:
        exchange_abort(e, reason)
        return
    r = <const refusal_rec *>snap_table(e.snap, e.snap.refusals) + reason
    e.reason = <uint16_t>reason
    e.status = <uint16_t>r.status
    e.flags |= EX_REFUSED
    if r.close:
        e.flags &= ~EX_KEEP_ALIVE
    e.owner.counters.refused += 1
    send_last(e, render_refusal(e, reason, connection_out(e)))


cdef void exchange_head_bad(exchange *e, int reason) noexcept nogil:
    """A head that cannot be understood, or a client too slow to send what it announced."""
    if e.ref is NULL:
        begin(e)
        e.fault = e.req.fault
        e.req.minor = 1
        e.req.nfields = 0
        memset(e.req.first, 0, sizeof(e.req.first))
        memcpy(e.client, e.down.address, 16)
    e.flags &= ~EX_KEEP_ALIVE
    if e.flags & EX_SUSPENDED:
        exchange_gone(e)
    else:
        exchange_refuse(e, reason)


# ---- forwarding -----------------------------------------------------------------------------------

cdef uint64_t hash_key(exchange *e) noexcept nogil:
    cdef const field *f
    cdef uint32_t i
    cdef const char *name
    cdef uint32_t by = e.main.group.hash_by
    if by == HASH_BY_CONSUMER and e.has_consumer:
        return e.consumer.identity
    if by == HASH_BY_PATH:
        return hash_bytes(e.path, e.path_len, 0)
    if by == HASH_BY_HEADER:
        name = snap_str(e.snap, e.main.group.hash_header)
        for i in range(e.req.nfields):
            f = &e.req.fields[i]
            if same_name(e.base, f, name, e.main.group.hash_header.len):
                return hash_bytes(e.base + f.value, f.value_len, 0)
    return address_hash(e.client)


cdef int same_name(const char *base, const field *f, const char *lowered, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t x
    if f.name_len != n:
        return 0
    for i in range(n):
        x = <uint8_t>base[f.name + i]
        if 65 <= x <= 90:
            x |= 0x20
        if x != <uint8_t>lowered[i]:
            return 0
    return 1


cdef void begin_proxy(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef call *k = &e.main
    cdef int reason
    k.owner = c
    k.ex = e
    k.snap = e.snap
    k.service = e.service
    k.group = snap_upstream(e.snap, e.service.upstream)
    k.method_id = e.req.method_id
    k.first_byte_ms = e.route.timeout_ms if e.route.timeout_ms else e.service.first_byte_ms
    k.idle_ms = e.service.idle_ms
    if IDEMPOTENT >> k.method_id & 1:
        k.flags |= CALL_IDEMPOTENT
    if e.body_state == BODY_NONE:
        k.flags |= CALL_REPLAYABLE
    if e.upgrading:
        k.flags |= CALL_UPGRADE
    if k.group.balance == 3:
        k.hash = hash_key(e)
    e.relaying = k
    reason = call_start(c, k)
    if reason != 0:
        exchange_refuse(e, reason)
    elif e.body_state == BODY_MORE and k.state == CALL_SEND:
        pump_request(e)


cdef int render_python(call *k) noexcept nogil:
    """A handler's request, with the chosen target's Host where the handler named none."""
    cdef const char *request = buf_head(k.py_request)
    cdef const char *authority = snap_str(k.snap, k.target.authority)
    cdef uint32_t rest = buf_len(k.py_request) - k.py_line
    cdef char *p
    cdef buf *b = buf_borrow(&k.owner.bufs, buf_len(k.py_request) + k.target.authority.len + 8)
    if b is NULL:
        return -1
    p = buf_head(b)
    if k.py_line:
        p = put(p, request, k.py_line)
        p = put_lit(p, "Host: ")
        p = put(p, authority, k.target.authority.len)
        p = put_lit(p, "\r\n")
    p = put(p, request + k.py_line, rest)
    b.end = <uint32_t>(p - buf_data(b))
    k.flags |= CALL_REQUEST_DONE
    call_queue(k.owner, k, b)
    return 0


cdef int call_must_render(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    cdef uint32_t inlined
    if k.flags & CALL_PYTHON:
        return render_python(k)
    inlined = e.inline_len
    b = render_request(e, k, inlined)
    if b is NULL:
        return -1
    if inlined:
        memcpy(buf_data(b) + b.end, e.inline_body, inlined)
        b.end += inlined
    if e.body_state == BODY_NONE:
        k.flags |= CALL_REQUEST_DONE
    call_queue(k.owner, k, b)
    e.attempts = k.attempts
    e.log_flags = (e.log_flags | LOG_UPSTREAM_REUSED) if k.up.reused else (e.log_flags & ~LOG_UPSTREAM_REUSED)
    return 0


cdef buf *take_request(exchange *e, int decode) noexcept nogil:
    """The next piece of the request's body, as a buffer of its own; NULL: none now. Ends
    body_state, or refuses and leaves e ended."""
    cdef downstream *d = e.down
    cdef buf *b = down_body(d, e)
    cdef buf *out
    cdef uint32_t length, consumed, produced
    cdef int result
    if b is NULL:
        return NULL
    length = buf_len(b)
    if e.req.framing == FRAMING_LENGTH:
        consumed = length if length < e.body_left else <uint32_t>e.body_left
        produced = consumed
        e.body_left -= consumed
        if e.body_left == 0:
            e.body_state = BODY_NONE
    else:
        if decode:
            result = chunk_decode(&e.body_chunks, buf_head(b), length, &consumed, &produced)
        else:
            result = chunk_relay(&e.body_chunks, buf_head(b), length, &consumed, &produced)
        if result < 0:
            e.flags &= ~EX_KEEP_ALIVE
            exchange_refuse(e, -result)
            return NULL
        if result == CHUNK_END:
            e.body_state = BODY_NONE
        if e.route.body_cap and e.body_chunks.total > e.route.body_cap:
            e.flags &= ~EX_KEEP_ALIVE
            exchange_refuse(e, BODY_TOO_LARGE)
            return NULL
    e.bytes_in += consumed
    if b is d.io.inb and consumed == length:
        d.io.inb = NULL                  # goes over whole
        b.end = b.start + produced
        out = b
    else:
        out = buf_borrow(&e.owner.bufs, produced)
        if out is NULL:
            exchange_abort(e, OVERLOADED)
            return NULL
        memcpy(buf_head(out), buf_head(b), produced)
        out.end = out.start + produced
        b.start += consumed
    if produced == 0:
        buf_return(&e.owner.bufs, out)
        return NULL
    return out


cdef void send_continue(exchange *e) noexcept nogil:
    cdef buf *b
    if e.flags & EX_CONTINUE_DUE and not e.flags & EX_RESPONSE_STARTED:
        e.flags &= ~EX_CONTINUE_DUE
        b = buf_borrow(&e.owner.bufs, 32)
        if b is not NULL:
            memcpy(buf_head(b), b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            b.end = b.start + 25
            down_send(e.down, b)
            down_flush(e.down)


cdef void pump_request(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef call *k = &e.main
    cdef buf *b
    cdef int done
    if k.up is NULL or e.body_state != BODY_MORE:
        return
    send_continue(e)
    while True:
        b = take_request(e, 0)
        if e.flags & EX_ENDED or e.relaying is not k:
            return                       # refused meanwhile
        if b is not NULL:
            k.flags &= ~CALL_REPLAYABLE
            if k.up is NULL:
                buf_return(&c.bufs, b)
                return
            call_queue(c, k, b)
        elif e.body_state == BODY_MORE:
            if down_body(e.down, e) is not NULL:
                continue                 # only framing was consumed
            break
        if e.body_state == BODY_NONE:
            k.flags |= CALL_REQUEST_DONE
            down_read(e.down, 0)
        done = call_flush(c, k)
        if done < 0:
            # The upstream takes no more. It may have answered already: its answer, or its
            # end, will be read and settle the matter.
            down_read(e.down, 0)
            return
        if e.body_state == BODY_NONE:
            if e.flags & EX_RESPONSE_DONE and k.flags & CALL_RESPONSE_DONE:
                call_end(c, k)
            return
        if done == 0:
            down_read(e.down, 0)         # the rest when the queue is empty
            return
    down_read(e.down, 1)


cdef void call_can_write(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & CALL_PYTHON:
        return
    if e.flags & EX_TUNNEL:
        down_read(e.down, 1)
    elif e.body_state == BODY_MORE:
        pump_request(e)


cdef void exchange_body(exchange *e) noexcept nogil:
    """Request bytes came, or (tunnel) the client's end."""
    if e.flags & EX_TUNNEL:
        tunnel_up(e)
    elif e.flags & EX_AWAIT_BODY:
        collect_body(e)
    else:
        pump_request(e)


# ---- the answer ---------------------------------------------------------------------------------------

cdef void call_got_interim(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    if k.flags & CALL_PYTHON or e.req.minor == 0 or e.flags & EX_RESPONSE_STARTED:
        return
    b = render_interim(e, k)
    if b is not NULL:
        down_send(e.down, b)
        if down_flush(e.down) < 0:
            exchange_gone(e)


cdef void call_got_head(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    cdef buf *b
    if k.flags & CALL_PYTHON:
        # Python looks at it later: the head is kept.
        b = buf_borrow(&k.owner.bufs, k.resp.size)
        if b is NULL:
            call_abort(k.owner, k)
            k.state = CALL_FAILED
        else:
            memcpy(buf_head(b), k.resp_base, k.resp.size)
            k.py_head = b
            k.resp_base = buf_head(b)
            call_read(k.owner, k, 0)
        wake(e, WAKE_CALL)
        return
    e.upstream_ns += k.first_byte_ns - k.sent_ns
    mark(e, PHASE_FORWARD, k.sent_ns)
    answer_from(e, k)


cdef void answer_from(exchange *e, call *k) noexcept nogil:
    """Filter the answer's head, send it, and let the body follow."""
    cdef core *c = e.owner
    cdef head *r = &k.resp
    cdef buf *b
    cdef buf *body
    cdef int out
    mark(e, PHASE_FILTER_RESPONSE, k.first_byte_ns)
    e.status = r.status
    if r.status == 101:
        begin_tunnel(e, k)
        return
    if r.status == 204 or r.status == 304:
        e.flags |= EX_HEAD_ONLY
    if not e.flags & EX_HEAD_ONLY:
        if r.framing == FRAMING_CLOSE:
            if e.req.minor == 1:
                e.flags |= EX_CHUNK_OUT
            else:
                e.flags |= EX_CLOSE_OUT
        elif r.framing == FRAMING_CHUNKED and e.req.minor == 0:
            e.flags |= EX_CLOSE_OUT | EX_DECODE
        elif r.framing == FRAMING_CHUNKED:
            e.flags |= EX_CHUNK_OUT      # the head says chunked; the chunks pass as they come
    elif r.framing == FRAMING_CHUNKED or (e.req.method_id == METHOD_HEAD and r.content_length < 0):
        pass
    out = connection_out(e)
    b = render_response(e, k, out, INLINE_BODY)
    if b is NULL:
        drop_calls(e)
        exchange_abort(e, OVERLOADED)
        return
    e.flags |= EX_RESPONSE_STARTED
    e.flags &= ~EX_CONTINUE_DUE
    if e.hold is not NULL and e.status < 500:
        charge_due(e)
    if r.framing == FRAMING_LENGTH and k.up is not NULL and k.up.io.inb is not NULL \
            and buf_len(k.up.io.inb) <= INLINE_BODY:
        # A short body, or its beginning, goes out in one piece with the head.
        body = call_take(c, k, 0)
        if body is not NULL:
            memcpy(buf_data(b) + b.end, buf_head(body), buf_len(body))
            b.end += buf_len(body)
            buf_return(&c.bufs, body)
    e.bytes_out += buf_len(b)
    down_send(e.down, b)
    pump_response(e, k)


cdef buf *wrap_chunk(buf *b) noexcept nogil:
    """Write the size line before and the CRLF behind the bytes, into the buffer's rooms."""
    cdef char *p = buf_head(b)
    cdef uint32_t n = buf_len(b), v = n
    p -= 1
    p[0] = 10
    p -= 1
    p[0] = 13
    while True:
        p -= 1
        p[0] = b"0123456789abcdef"[v & 15]
        v >>= 4
        if v == 0:
            break
    buf_data(b)[b.end] = 13
    buf_data(b)[b.end + 1] = 10
    b.end += 2
    b.start = <uint32_t>(p - buf_data(b))
    return b


cdef int queue_literal(exchange *e, const char *text, uint32_t n) noexcept nogil:
    cdef buf *b = buf_borrow(&e.owner.bufs, n)
    if b is NULL:
        return -1
    memcpy(buf_head(b), text, n)
    b.end = b.start + n
    e.bytes_out += n
    down_send(e.down, b)
    return 0


cdef void pump_response(exchange *e, call *k) noexcept nogil:
    cdef core *c = e.owner
    cdef buf *b
    cdef int done
    b = call_take(c, k, e.flags & EX_DECODE)
    if e.flags & EX_ENDED or e.relaying is not k:
        if b is not NULL:
            buf_return(&c.bufs, b)
        return                           # it failed meanwhile, and that has been dealt with
    if b is not NULL:
        if k.resp.framing == FRAMING_CLOSE and e.flags & EX_CHUNK_OUT:
            if b.start < HEADROOM:       # never: reads leave the headroom alone
                buf_return(&c.bufs, b)
                exchange_abort(e, INTERNAL_ERROR)
                return
            b = wrap_chunk(b)
        e.bytes_out += buf_len(b)
        down_send(e.down, b)
    if k.flags & CALL_RESPONSE_DONE:
        if k.resp.framing == FRAMING_CLOSE and e.flags & EX_CHUNK_OUT:
            if queue_literal(e, b"0\r\n\r\n", 5) < 0:
                exchange_abort(e, OVERLOADED)
                return
        e.flags |= EX_RESPONSE_DONE
        if k.flags & CALL_REQUEST_DONE or e.body_state == BODY_NONE:
            call_end(c, k)
    done = down_flush(e.down)
    if done < 0:
        exchange_gone(e)
    elif e.flags & EX_RESPONSE_DONE:
        if done == 1:
            finish(e)
        else:
            call_read(c, k, 0)
    else:
        call_read(c, k, done)


cdef void call_got_body(call *k) noexcept nogil:
    cdef exchange *e = k.ex
    if k.flags & CALL_PYTHON:
        call_read(k.owner, k, 0)
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        tunnel_down(e)
    else:
        pump_response(e, k)


cdef void call_has_failed(call *k, int reason) noexcept nogil:
    cdef exchange *e = k.ex
    k.failure = <uint16_t>reason
    if k.flags & CALL_PYTHON:
        wake(e, WAKE_CALL)
    elif e.flags & EX_TUNNEL:
        end_tunnel(e)
    elif e.flags & EX_RESPONSE_STARTED:
        exchange_abort(e, reason)
    else:
        if k.sent_ns:
            mark(e, PHASE_FORWARD, k.sent_ns)
        exchange_refuse(e, reason)


cdef void exchange_drained(exchange *e) noexcept nogil:
    cdef call *k = e.relaying
    if e.flags & EX_TUNNEL:
        call_read(e.owner, k, 1)
    elif e.flags & EX_RESPONSE_DONE:
        if e.flags & EX_SUSPENDED:
            wake(e, WAKE_DONE)
        else:
            finish(e)
    elif e.flags & EX_SUSPENDED:
        wake(e, WAKE_WRITABLE)
    elif k is not NULL and e.flags & EX_RESPONSE_STARTED:
        call_read(e.owner, k, 1)


# ---- tunnels --------------------------------------------------------------------------------------------

cdef void begin_tunnel(exchange *e, call *k) noexcept nogil:
    cdef buf *b = render_response(e, k, OUT_UPGRADE, 0)
    e.flags &= ~EX_KEEP_ALIVE
    if b is NULL:
        drop_calls(e)
        exchange_abort(e, OVERLOADED)
        return
    e.owner.counters.tunnels += 1
    e.flags |= EX_TUNNEL | EX_RESPONSE_STARTED
    e.log_flags |= LOG_TUNNEL
    e.down.state = DOWN_TUNNEL
    e.bytes_out += buf_len(b)
    down_send(e.down, b)
    tunnel_down(e)
    if not e.flags & EX_ENDED:
        down_read(e.down, 1)


cdef void tunnel_up(exchange *e) noexcept nogil:
    """Client → upstream."""
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef call *k = e.relaying
    cdef buf *b = down_body(d, e)
    cdef buf *copy
    cdef int done
    if b is NULL:
        if d.io.io & IO_EOF:
            end_tunnel(e)
        return
    if k.up is NULL:
        end_tunnel(e)
        return
    e.bytes_in += buf_len(b)
    if b is d.io.inb:
        d.io.inb = NULL
    else:
        copy = buf_borrow(&c.bufs, buf_len(b))
        if copy is NULL:
            end_tunnel(e)
            return
        memcpy(buf_head(copy), buf_head(b), buf_len(b))
        copy.end = copy.start + buf_len(b)
        b.start = b.end
        b = copy
    call_queue(c, k, b)
    done = call_flush(c, k)
    if done < 0:
        end_tunnel(e)
    elif done == 0:
        down_read(d, 0)


cdef void tunnel_down(exchange *e) noexcept nogil:
    """Upstream → client."""
    cdef core *c = e.owner
    cdef call *k = e.relaying
    cdef buf *b = call_take(c, k, 0)
    cdef int done
    if b is not NULL:
        e.bytes_out += buf_len(b)
        down_send(e.down, b)
    done = down_flush(e.down)
    if done < 0 or k.flags & CALL_RESPONSE_DONE:
        end_tunnel(e)
    else:
        call_read(c, k, done)


cdef void end_tunnel(exchange *e) noexcept nogil:
    if e.flags & EX_ENDED:
        return
    down_flush(e.down)
    drop_calls(e)
    e.reason = TUNNEL_CLOSED
    e.flags |= EX_RESPONSE_DONE
    finish(e)


# ---- Python handlers: the C half --------------------------------------------------------------------------

cdef void wake(exchange *e, uint32_t bit) noexcept nogil:
    cdef core *c = e.owner
    e.wake |= bit
    if e.flags & EX_WAKE or e.py is NULL:
        return                           # queued already, or Python has not begun: it will look
    e.flags |= EX_WAKE
    e.next = NULL
    if c.wake_tail is NULL:
        c.wake_head = e
    else:
        c.wake_tail.next = e
    c.wake_tail = e


cdef void begin_upcall(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    if c.n_upcalls >= e.snap.max_upcalls:
        c.counters.upcalls_rejected += 1
        exchange_refuse(e, OVERLOADED)
        return
    c.n_upcalls += 1
    e.flags |= EX_COUNTED_UPCALL
    e.log_flags |= LOG_UPCALL
    if e.body_state == BODY_MORE:
        e.flags |= EX_AWAIT_BODY
        send_continue(e)
        collect_body(e)
    else:
        queue_upcall(e)


cdef void queue_upcall(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    c.counters.upcalls += 1
    e.flags = (e.flags | EX_SUSPENDED) & ~EX_AWAIT_BODY
    mark(e, PHASE_FILTER_REQUEST, monotonic_ns())
    e.next = NULL
    if c.upcall_tail is NULL:
        c.upcall_head = e
    else:
        c.upcall_tail.next = e
    c.upcall_tail = e


cdef void collect_body(exchange *e) noexcept nogil:
    """A handler is given the whole body: gather it, up to the route's cap."""
    cdef core *c = e.owner
    cdef buf *b
    cdef buf *larger
    cdef uint32_t need
    while e.body_state == BODY_MORE:
        b = take_request(e, 1)
        if e.flags & EX_ENDED or e.flags & EX_REFUSED:
            return
        if b is NULL:
            if e.body_state == BODY_MORE and down_body(e.down, e) is NULL:
                down_read(e.down, 1)
                return
            continue
        if e.body is NULL:
            e.body = b
            continue
        if buf_room(e.body) < buf_len(b):
            need = buf_len(e.body) + buf_len(b)
            larger = buf_borrow(&c.bufs, need * 2)
            if larger is NULL:
                buf_return(&c.bufs, b)
                exchange_refuse(e, OVERLOADED)
                return
            memcpy(buf_head(larger), buf_head(e.body), buf_len(e.body))
            larger.end = larger.start + buf_len(e.body)
            buf_return(&c.bufs, e.body)
            e.body = larger
        memcpy(buf_data(e.body) + e.body.end, buf_head(b), buf_len(b))
        e.body.end += buf_len(b)
        buf_return(&c.bufs, b)
    down_read(e.down, 0)
    queue_upcall(e)


cdef int exchange_start(exchange *e, uint32_t status, const char *fields, uint32_t fields_len,
                        int64_t length) noexcept nogil:
    """The head of a handler's answer. length < 0: not known, chunked. 0, or -1: no memory."""
    cdef buf *b
    if status == 204 or status == 304:
        e.flags |= EX_HEAD_ONLY
    elif length < 0:
        e.flags |= EX_CHUNK_OUT if e.req.minor == 1 else EX_CLOSE_OUT
    e.status = <uint16_t>status
    mark(e, PHASE_RELAY, monotonic_ns())
    b = render_start(e, status, fields, fields_len, -1 if e.flags & EX_HEAD_ONLY and length < 0 else length,
                     connection_out(e))
    if b is NULL:
        return -1
    e.flags |= EX_RESPONSE_STARTED
    if e.hold is not NULL and status < 500:
        charge_due(e)
    e.bytes_out += buf_len(b)
    down_send(e.down, b)
    return 0


cdef int exchange_write(exchange *e, const char *data, uint32_t length) noexcept nogil:
    """Body bytes of a handler's answer; written at once as far as the kernel takes them.
    1: the queue is empty; 0: it is not; -1: the client is gone."""
    cdef buf *b
    if e.flags & EX_ABORTED:
        return -1
    if length and not e.flags & EX_HEAD_ONLY:
        b = buf_borrow(&e.owner.bufs, length)
        if b is NULL:
            return -1
        memcpy(buf_head(b), data, length)
        b.end = b.start + length
        if e.flags & EX_CHUNK_OUT:
            b = wrap_chunk(b)
        e.bytes_out += buf_len(b)
        down_send(e.down, b)
    return down_flush(e.down)


cdef void exchange_complete(exchange *e) noexcept nogil:
    """The handler's answer is whole."""
    if e.flags & (EX_ABORTED | EX_RESPONSE_DONE):
        return
    if e.flags & EX_CHUNK_OUT and not e.flags & EX_HEAD_ONLY:
        queue_literal(e, b"0\r\n\r\n", 5)
    e.flags |= EX_RESPONSE_DONE
    if down_flush(e.down) < 0:
        e.flags |= EX_ABORTED


cdef void exchange_relay(exchange *e, call *k) noexcept nogil:
    """Hand the answer of a handler's call to the client, in C from here on."""
    k.flags &= ~CALL_PYTHON
    e.relaying = k
    e.upstream_ns += k.first_byte_ns - k.sent_ns
    answer_from(e, k)


cdef void exchange_release(exchange *e) noexcept nogil:
    """Python is done with the exchange."""
    cdef core *c = e.owner
    e.flags &= ~EX_SUSPENDED
    if e.flags & EX_ABORTED:
        finish(e)
    elif e.flags & EX_RESPONSE_DONE and e.down.io.out_head is NULL:
        finish(e)


# ---- the end ----------------------------------------------------------------------------------------------

cdef void drop_calls(exchange *e) noexcept nogil:
    if e.main.up is not NULL:
        call_abort(e.owner, &e.main)
    if e.relaying is not NULL and e.relaying.up is not NULL:
        call_abort(e.owner, e.relaying)
    e.relaying = NULL


cdef void exchange_abort(exchange *e, int reason) noexcept nogil:
    """Break off: the client's connection is closed without anything that looks like an end."""
    drop_calls(e)
    if e.flags & EX_ENDED:
        return
    e.reason = <uint16_t>reason
    e.flags = (e.flags | EX_ABORTED) & ~EX_KEEP_ALIVE
    if e.flags & EX_SUSPENDED:
        poller_close(e.owner, &e.down.io)
        wake(e, WAKE_GONE)
    else:
        finish(e)


cdef void exchange_gone(exchange *e) noexcept nogil:
    """The client left."""
    if e.flags & (EX_ENDED | EX_ABORTED):
        return
    if e.flags & EX_TUNNEL:
        end_tunnel(e)
        return
    if e.status == 0:
        e.status = 499
    e.log_flags |= LOG_ABORTED
    exchange_abort(e, CLIENT_CLOSED)


cdef int discard_rest(exchange *e) noexcept nogil:
    """Skip what is here of a body that nobody wanted. 1: all of it."""
    cdef buf *b
    cdef uint32_t consumed, produced
    cdef int result
    while e.body_state == BODY_MORE:
        b = down_body(e.down, e)
        if b is NULL:
            return 0
        if e.req.framing == FRAMING_LENGTH:
            consumed = buf_len(b) if buf_len(b) < e.body_left else <uint32_t>e.body_left
            e.body_left -= consumed
            if e.body_left == 0:
                e.body_state = BODY_NONE
        else:
            result = chunk_decode(&e.body_chunks, buf_head(b), buf_len(b), &consumed, &produced)
            if result < 0:
                return 0
            if result == CHUNK_END:
                e.body_state = BODY_NONE
        b.start += consumed
    return 1


cdef void snapref_release(core *c, snapref *r) noexcept nogil:
    r.in_flight -= 1                     # what is retired and free is collected by the engine


cdef int served(exchange *e) noexcept nogil:
    """Whether the caller got an answer that it owes for: one that did not fail on our side or upstream."""
    if not e.flags & EX_RESPONSE_STARTED or e.flags & EX_REFUSED or e.status >= 500:
        return 0
    return e.reason == REASON_NONE or e.reason == CLIENT_CLOSED or e.reason == TUNNEL_CLOSED


cdef void finish(exchange *e) noexcept nogil:
    """settle, log, and what becomes of the connection."""
    cdef core *c = e.owner
    cdef downstream *d = e.down
    cdef uint64_t now
    if e.flags & (EX_ENDED | EX_SUSPENDED):
        return                           # a handler still holds it: exchange_release comes back here
    if e.relaying is not NULL and e.relaying.up is not NULL:
        # Answered before the request was wholly sent: the upstream connection is not reused.
        call_abort(c, e.relaying)
    e.flags |= EX_ENDED
    now = monotonic_ns()
    admit_settle(c, e)
    if e.hold is not NULL or e.nspent or e.flags & EX_METERED:
        charge_settle(c, e, served(e))
    if e.flags & EX_COUNTED_UPCALL:
        c.n_upcalls -= 1
    write_log(e, now)
    snapref_release(c, e.ref)
    if e.flags & EX_ABORTED:
        down_close(d)
    elif e.flags & EX_KEEP_ALIVE and not c.draining and discard_rest(e):
        down_next(d, e)
    elif e.flags & EX_TUNNEL:
        down_close(d)
    elif e.body_state == BODY_MORE or e.flags & EX_REFUSED or d.io.io & IO_READABLE \
            or down_body(d, e) is not NULL:
        down_linger(d)
    else:
        down_close(d)


cdef void write_log(exchange *e, uint64_t now) noexcept nogil:
    cdef core *c = e.owner
    cdef log_record *r
    cdef uint64_t total = now - e.started_ns
    cdef uint32_t slot = e.route.slot if e.route is not NULL else NONE32, used = 0
    cdef call *k = &e.main
    cdef const field *f
    e.rc = counters_route(c.segment, c.worker, slot)
    count_outcome(e.rc, e.status, e.reason)
    observe(&e.rc.total, total)
    observe(&e.rc.gateway, total - e.upstream_ns if total > e.upstream_ns else 0)
    if e.upstream_ns:
        observe(&e.rc.upstream, e.upstream_ns)
    e.rc.bytes_in += e.bytes_in + e.req.size
    e.rc.bytes_out += e.bytes_out
    if not e.snap.flags & 2 or (e.route is not NULL and e.route.flags & ROUTE_LOG_OFF):
        return
    r = logring_reserve(c.segment, c.worker)
    if r is NULL:
        c.counters.ring_drops += 1
        return
    mark(e, PHASE_SETTLE, now)
    mark(e, PHASE_LOG, now)
    r.started_unix_ns = e.started_unix_ns
    memcpy(r.request_id, e.request_id, 16)
    memcpy(r.trace_id, e.trace_id, 16)
    memcpy(r.span_id, &e.span_id, 8)
    memcpy(r.address, e.client, 16)
    r.bytes_in = e.bytes_in + e.req.size
    r.bytes_out = e.bytes_out
    r.duration_ns = total
    r.upstream_ns = e.upstream_ns
    r.amount_micros = <uint64_t>e.charged
    memcpy(r.phase_us, e.phase_us, sizeof(r.phase_us))
    r.generation = <uint32_t>e.snap.generation
    r.route_slot = slot
    r.status = e.status
    r.reason = e.reason
    r.port = e.down.port
    r.attempts = e.attempts
    r.fault = e.fault
    r.worker = <uint8_t>c.worker
    r.flags = e.log_flags | (LOG_KEEP_ALIVE if e.flags & EX_KEEP_ALIVE else 0)
    if e.req.size and e.req.minor == 0:
        r.flags |= LOG_HTTP_1_0
    if e.req.size:
        used = log_text(r, used, TEXT_METHOD, e.base + e.req.method.off, e.req.method.len)
        used = log_text(r, used, TEXT_HOST, e.base + e.req.host.off, e.req.host.len)
        if e.path is not NULL:
            used = log_text(r, used, TEXT_PATH, e.path, e.path_len)
    if e.route is not NULL:
        used = log_text(r, used, TEXT_ROUTE, snap_str(e.snap, e.route.name), e.route.name.len)
    if e.consumer.id_len:
        used = log_text(r, used, TEXT_CONSUMER, e.consumer.name, e.consumer.name_len)
    if k.target is not NULL:
        used = log_text(r, used, TEXT_TARGET, snap_str(e.snap, k.target.name), k.target.name.len)
    if has_field(&e.req, F_USER_AGENT):
        f = field_of(&e.req, F_USER_AGENT)
        used = log_text(r, used, TEXT_USER_AGENT, e.base + f.value, f.value_len)
    if e.tightest is not NULL and e.flags & EX_REFUSED:
        used = log_text(r, used, TEXT_LIMIT, snap_str(e.snap, e.tightest.name), e.tightest.name.len)
    logring_commit(c.segment, c.worker, r)
