"""exchange: the phases of one request with its response, in order. Only this module knows the order.

    head ──► route ─► authenticate ─► admit ─► hold ─┬─► static answer ───────────────┐
      │         │           │        (validate) │    ├─► handler (handling, upcall) ──┤
      ▼         ▼           ▼           ▼       ▼    └─► select ─► connect ─► forward │
    refusal ◄───┴───────────┴───────────┴───────┘        ─► filter_response ─► relay ─┤
      │                                                                               │
      └──────────────────────────────► settle ─► log ◄────────────────────────────────┘

`intake` reads what the head contains, `admission` and `charging` decide, `forward` and `handling` get
the answer, `ending` settles and logs.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastgate._core.exchange.admission cimport (
    address_allowed, admit, admit_address, admit_undo)
from fastgate._core.exchange.asking cimport stop_asking
from fastgate._core.exchange.authentication cimport authenticate
from fastgate._core.platform.atomics cimport fg_prefetch
from fastgate._core.exchange.charging cimport charge_open
from fastgate._core.exchange.client_cert cimport judge_certificate
from fastgate._core.exchange.collecting cimport collect_body
from fastgate._core.exchange.cors cimport asked_method, is_preflight
from fastgate._core.exchange.ending cimport exchange_refuse, send_last
from fastgate._core.exchange.fault cimport inject_fault
from fastgate._core.exchange.forward cimport begin_proxy, pump_request
from fastgate._core.exchange.handling cimport begin_upcall, queue_upcall, upcall_late
from fastgate._core.http.head cimport (
    F_MAX_FORWARDS, F_TRACEPARENT, F_VIA, F_X_REQUEST_ID, HEAD_BAD_EXPECT, HEAD_HAS_ENCODED_SLASH,
    HEAD_HAS_UNDERSCORE, HEAD_KEEP_ALIVE, HEAD_PATH_NEEDS_NORMALIZING, HEAD_UPGRADE_WEBSOCKET,
    HTTP_1_1, METHOD_CONNECT, METHOD_HEAD, TARGET_ASTERISK, has_body, has_field, head, span)
from fastgate._core.exchange.https_only cimport https_only
from fastgate._core.exchange.intake cimport (
    begin, canonical_path, client_address, mark, read_ids, seen_via)
from fastgate._core.shared.log_ring cimport PHASE_ADMIT, PHASE_AUTHENTICATE, PHASE_HOLD, PHASE_ROUTE
from fastgate._core.exchange.maintenance cimport closed_for_maintenance
from fastgate._core.exchange.max_forwards cimport last_hop
from fastgate._core.exchange.parking cimport parked_late, unpark
from fastgate._core.exchange.redirect cimport answer_redirect
from fastgate._core.reason cimport (
    ADDRESS_DENIED, BAD_TARGET, BODY_TOO_LARGE, DEADLINE_EXCEEDED, EXPECTATION_FAILED, LOOP_DETECTED,
    MALFORMED_REQUEST, METHOD_NOT_ALLOWED, NO_ROUTE, REQUEST_TIMEOUT,
    ROUTE_RETIRED, UPSTREAM_TIMEOUT)
from fastgate._core.exchange.render cimport start_own, start_preflight
from fastgate._core.exchange.shedding cimport shed
from fastgate._core.route_deadline cimport is_overdue
from fastgate._core.snapshot.router cimport (
    ROUTE_FOUND, ROUTE_METHOD, route_ahead, route_find, route_keys, route_nearer)
from fastgate._core.snapshot.snapshot cimport (
    NONE32, ROUTE_CERTIFICATES, ROUTE_ENCODED_SLASH, ROUTE_FAULT, ROUTE_MAINTENANCE, ROUTE_MAKES_URL, ROUTE_RETIRED as FLAG_RETIRED,
    ROUTE_SHED, ROUTE_SPLIT, ROUTE_VALIDATE, ROUTE_WEBSOCKET, policy_rec,
    snap_policy, snap_route, snap_service, snap_str, snap_table, static_rec)
from fastgate._core.state cimport (
    BODY_MORE, EX_AWAIT_BODY, EX_HEAD_ONLY, EX_KEEP_ALIVE, EX_PARKED, EX_RESPONSE_STARTED, EX_SUSPENDED, EX_TUNNEL,
    EX_VALIDATING, STAGE_ADMIT, STAGE_AUTHENTICATE, STAGE_CHARGE, STAGE_LIMITS, STAGE_VALIDATE, answer, core)
from fastgate._core.exchange.split cimport choose_service, chosen_early
from fastgate._core.exchange.tunnel cimport tunnel_up
from fastgate._core.exchange.url_pieces cimport url_refused
from fastgate._core.exchange.validation cimport validate, validation_collected
from fastgate._core.platform.text cimport fg_clear


cdef void exchange_line(exchange *e) noexcept nogil:
    """Prefetch the router's tables while the fields are read."""
    cdef core *c = e.owner
    cdef head *h = &e.req
    c.ahead_of = NULL
    if not h.flags & HEAD_PATH_NEEDS_NORMALIZING:
        route_ahead(c.ref.snap, e.base + h.path.off, h.path.len, &c.ahead)
        c.ahead_of = e


cdef void exchange_head(exchange *e) noexcept nogil:
    cdef core *c = e.owner
    cdef head *h = &e.req
    cdef int reason
    if c.ahead_of is e:
        route_nearer(c.ref.snap, &c.ahead)
    begin(e)
    if has_field(h, F_TRACEPARENT) or has_field(h, F_X_REQUEST_ID):
        read_ids(e)
    if h.flags & HEAD_KEEP_ALIVE and not c.draining and (
            e.snap.max_requests == 0 or e.down.requests < e.snap.max_requests):
        e.flags |= EX_KEEP_ALIVE
    if h.method_id == METHOD_HEAD:
        e.flags |= EX_HEAD_ONLY
    reason = e.down.codec.expect_body(e)
    if reason == 0:
        reason = find_route(e)
    if reason == 0:
        reason = check_route(e)
    if reason == 0:
        mark(e, PHASE_AUTHENTICATE, e.started_ns)
        reason = admit_address(c, e) if e.policy.limits.count else 0
        if reason == 0 and e.policy.flags & ROUTE_CERTIFICATES:
            reason = judge_certificate(e)
    if reason == 0:
        if e.policy.deadline_ms:
            e.down.codec.deadline(e)     # it has one from now on
        identify(e)
    elif reason > 0:
        exchange_refuse(e, reason)       # < 0: answered already


cdef void identify(exchange *e) noexcept nogil:
    cdef int reason = authenticate(e.owner, e)
    if reason == 0:
        mark(e, PHASE_ADMIT, e.started_ns)
        go_on_from(e, STAGE_ADMIT)
    elif reason > 0:
        exchange_refuse(e, reason)       # < 0: parked


cdef void exchange_go_on(exchange *e, int reason) noexcept nogil:
    """What it was parked for is decided."""
    if e.waits:
        stop_asking(e.owner, e)          # its time is over
    if reason:
        if e.stage >= STAGE_LIMITS:
            admit_undo(e.owner, e)
        exchange_refuse(e, reason)
        return
    if e.stage == STAGE_AUTHENTICATE:
        identify(e)
    else:
        go_on_from(e, e.stage)


cdef void go_on_from(exchange *e, int stage) noexcept nogil:
    """The stages from this one on. Each may park the exchange (reason < 0) at the next one."""
    cdef core *c = e.owner
    cdef int reason = 0
    if e.policy.flags & ROUTE_SPLIT:     # nobody called: there is no consumer to choose by
        choose_service(e)
    if stage == STAGE_ADMIT and e.policy.flags & ROUTE_FAULT:
        reason = inject_fault(e)
    if reason == 0 and stage <= STAGE_LIMITS:
        reason = admit(c, e)
    if reason == 0 and stage <= STAGE_VALIDATE and e.policy.flags & ROUTE_VALIDATE:
        reason = validate(e)
    if reason == 0 and stage <= STAGE_CHARGE:
        mark(e, PHASE_HOLD, e.started_ns if stage < STAGE_CHARGE else c.loop.now)
        reason = charge_open(c, e)
        if reason != 0:
            admit_undo(c, e)
    if reason == 0:
        start_answer(e)
    elif reason > 0:
        exchange_refuse(e, reason)


cdef void start_answer(exchange *e) noexcept nogil:
    if e.policy.static_response != NONE32:
        answer_static(e)
    elif e.policy.handler != NONE32:
        begin_upcall(e)
    else:
        begin_proxy(e)


cdef inline void take_route(exchange *e) noexcept nogil:
    """Use the route that was found for this exchange."""
    e.route = snap_route(e.snap, e.match.route)
    e.policy = snap_policy(e.snap, e.match.policy)
    # One wait for memory instead of one for each line of a policy, which is cold if no other route uses it.
    fg_prefetch(<const char *>e.policy + 64)
    if e.snap.flags & 2:
        fg_prefetch(e.route)             # its name will be logged


cdef int find_route(exchange *e) noexcept nogil:
    """0, a Reason, or -1 when the exchange has been answered."""
    cdef head *h = &e.req
    cdef const char *host = e.base + h.host.off
    cdef const route_keys *ahead = &e.owner.ahead if e.owner.ahead_of is e else NULL
    cdef span method
    cdef uint8_t method_id
    cdef int found
    mark(e, PHASE_ROUTE, e.started_ns)
    client_address(e)
    if h.method_id == METHOD_CONNECT:
        e.flags &= ~EX_KEEP_ALIVE        # the bytes that follow may be meant for the tunnel
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
        found = 0
    else:
        found = canonical_path(e)
    if found == 0:
        found = https_only(e, ahead)
    if found != 0:
        return found
    if h.form == TARGET_ASTERISK:
        answer_empty(e)
        return -1
    if is_preflight(e):
        method = h.method
        method_id = h.method_id
        h.method = asked_method(e, &h.method_id)
        found = route_find(e.snap, host, h.host.len, e.path, e.path_len, e.base, h, ahead, &e.match)
        h.method = method
        h.method_id = method_id
        if found == ROUTE_FOUND and snap_policy(e.snap, e.match.policy).cors != NONE32:
            take_route(e)
            answer_preflight(e)
            return -1
    found = route_find(e.snap, host, h.host.len, e.path, e.path_len, e.base, h, ahead, &e.match)
    if found == ROUTE_FOUND:
        take_route(e)
        if e.policy.flags & ROUTE_SPLIT and chosen_early(e):
            choose_service(e)
        elif e.policy.service != NONE32:
            e.service = snap_service(e.snap, e.policy.service)
        return 0
    return METHOD_NOT_ALLOWED if found == ROUTE_METHOD else NO_ROUTE


cdef int out_of_service(exchange *e) noexcept nogil:
    cdef int refused = 0
    if e.policy.flags & FLAG_RETIRED:
        return ROUTE_RETIRED
    if e.policy.flags & ROUTE_MAINTENANCE:
        refused = closed_for_maintenance(e)
    if refused == 0 and e.policy.flags & ROUTE_SHED:
        refused = shed(e)
    return refused


cdef int check_route(exchange *e) noexcept nogil:
    """As `find_route`."""
    cdef head *h = &e.req
    cdef const policy_rec *r = e.policy
    cdef int hops, refused
    if r.flags & (FLAG_RETIRED | ROUTE_MAINTENANCE | ROUTE_SHED):
        refused = out_of_service(e)
        if refused != 0:
            return refused
    if h.flags & HEAD_HAS_ENCODED_SLASH and not r.flags & ROUTE_ENCODED_SLASH:
        return BAD_TARGET
    if r.addresses.count and not address_allowed(e, r.addresses):
        return ADDRESS_DENIED
    if has_field(h, F_MAX_FORWARDS):
        hops = last_hop(e)
        if hops != 0:
            return hops
    if h.content_length > 0 and r.body_cap and <uint64_t>h.content_length > r.body_cap:
        return BODY_TOO_LARGE
    if r.flags & ROUTE_MAKES_URL:
        refused = url_refused(e)
        if refused != 0:
            return refused
    if h.flags & HEAD_UPGRADE_WEBSOCKET and r.flags & ROUTE_WEBSOCKET:
        if has_body(h):
            return MALFORMED_REQUEST
        e.upgrading = 1
    return 0


cdef void answer_empty(exchange *e) noexcept nogil:
    """Answer 204."""
    cdef answer a
    fg_clear(&a, sizeof(a))
    a.status = 204
    a.length = -1
    e.status = 204
    e.flags |= EX_HEAD_ONLY
    send_last(e, start_own(e, &a))


cdef void answer_static(exchange *e) noexcept nogil:
    cdef const static_rec *s = <const static_rec *>snap_table(e.snap, e.snap.statics) + e.policy.static_response
    cdef answer a
    if s.location.count:
        answer_redirect(e, s)
        return
    fg_clear(&a, sizeof(a))
    a.status = <uint16_t>s.status
    a.lines = snap_str(e.snap, s.fields)
    a.lines_len = s.fields.len
    a.body = snap_str(e.snap, s.body)
    a.body_len = s.body.len
    a.length = s.body.len
    if s.status == 204 or s.status == 304:
        a.length = -1
        e.flags |= EX_HEAD_ONLY
    e.status = a.status
    send_last(e, start_own(e, &a))


cdef void answer_preflight(exchange *e) noexcept nogil:
    e.status = 204
    e.flags |= EX_HEAD_ONLY
    send_last(e, start_preflight(e))


cdef void exchange_head_bad(exchange *e, int reason) noexcept nogil:
    """The head is invalid, or did not come in time."""
    if e.ref is NULL:
        begin(e)
        e.fault = e.req.fault
        e.req.version = HTTP_1_1
        e.req.nfields = 0
        memset(e.req.first, 0, sizeof(e.req.first))
        memcpy(e.client, e.down.address, 16)
    e.flags &= ~EX_KEEP_ALIVE
    exchange_refuse(e, reason)


cdef void exchange_late(exchange *e) noexcept nogil:
    """The client's body, the handler's answer or a decision did not come in time."""
    if is_overdue(e, e.owner.loop.now):
        overdue(e)
        return
    if e.flags & EX_PARKED:
        parked_late(e)
        return
    e.flags &= ~EX_KEEP_ALIVE
    if e.flags & EX_SUSPENDED:
        upcall_late(e, UPSTREAM_TIMEOUT)
    else:
        exchange_refuse(e, REQUEST_TIMEOUT)


cdef void overdue(exchange *e) noexcept nogil:
    """Its route's deadline has passed, whatever it waits for."""
    if e.flags & EX_PARKED:
        unpark(e, DEADLINE_EXCEEDED)
        return
    if e.body_state == BODY_MORE:
        e.flags &= ~EX_KEEP_ALIVE
    if e.flags & EX_SUSPENDED and not e.flags & EX_RESPONSE_STARTED:
        upcall_late(e, DEADLINE_EXCEEDED)
    else:
        exchange_refuse(e, DEADLINE_EXCEEDED)


cdef void exchange_body(exchange *e) noexcept nogil:
    """Request bytes came or, in a tunnel, the client's end."""
    if e.flags & EX_TUNNEL:
        tunnel_up(e)
    elif e.flags & EX_AWAIT_BODY:
        if collect_body(e):
            if e.flags & EX_VALIDATING:
                validation_collected(e)
            else:
                queue_upcall(e)
    elif e.flags & EX_PARKED:
        e.down.codec.read(e, 0)          # it is read when it is decided
    else:
        pump_request(e)
