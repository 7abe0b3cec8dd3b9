"""ending: how an exchange ends: answered by us, refused, broken off, or served.

All ways go through `finish`, once:

    send_last   the whole answer is in one buffer (static, refusal, preflight)
    refuse      the answer for a reason; if an answer has begun, it is broken off instead
    abort       the client's connection is closed without anything that looks like the end of an answer
    gone        the client left
    unread      the client reads its answer too slowly

`finish` leaves the concurrency limits, captures or releases money, writes the record and releases the
snapshot; then the connection is reused, closed, or lingers. While a Python handler still holds the
exchange, `finish` does nothing: `exchange_release` calls it again.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.exchange.admission cimport admit_settle
from fastgate._core.exchange.asking cimport stop_asking
from fastgate._core.exchange.charging cimport charge_abandoned, charge_settle
from fastgate._core.exchange.fault cimport fault_status
from fastgate._core.shared.counters cimport count_outcome, counters_route, observe

from fastgate._core.http.head cimport F_USER_AGENT, HTTP_1_0, field, field_of, has_field
from fastgate._core.exchange.intake cimport mark
from fastgate._core.exchange.key_places cimport loggable_query
from fastgate._core.shared.log_ring cimport (
    LOG_ABORTED, LOG_CERTIFICATE, LOG_HTTP_1_0, LOG_KEEP_ALIVE, LOG_TLS, PHASE_LOG, PHASE_SETTLE, TEXT_CONSUMER,
    TEXT_HOST, TEXT_LIMIT, TEXT_METHOD, TEXT_PATH, TEXT_QUERY, TEXT_ROUTE, TEXT_SERVICE, TEXT_TARGET, TEXT_USER_AGENT, log_record,
    log_text, logring_commit, logring_reserve)
from fastgate._core.io.transport cimport conn_drained
from fastgate._core.reason cimport (
    CLIENT_CLOSED, CLIENT_TIMEOUT, DRAINING, FAULT_INJECTED, OVERLOADED, REASON_NONE, REQUEST_INVALID, RESPONSE_TRUNCATED,
    TUNNEL_CLOSED, failed_here)
from fastgate._core.exchange.refusal cimport start_refusal
from fastgate._core.exchange.snapshot_ref cimport leave_snapshot
from fastgate._core.exchange.split cimport count_choice
from fastgate._core.exchange.subrequest cimport sub_drop
from fastgate._core.snapshot.snapshot cimport LOG_QUERY, NONE32, ROUTE_LOG_OFF, refusal_rec, snap_str, snap_table
from fastgate._core.state cimport (
    CALL_REQUEST_DONE, CALL_SEND, EX_ABORTED, EX_CERTIFIED, EX_COUNTED_STREAM, EX_COUNTED_UPCALL, EX_ENDED,
    EX_KEEP_ALIVE, EX_METERED, EX_OWED, EX_REFUSED, EX_RESPONSE_DONE, EX_RESPONSE_STARTED,
    EX_SUSPENDED, EX_TUNNEL, EX_WAKE, WAKE_GONE, core)
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.tokens.verdicts cimport verdict_let_go
from fastgate._core.upstream.call cimport call_abort


cdef void send_last(exchange *e, int started) noexcept nogil:
    """The whole answer is queued, unless `started` is negative: then there was no memory."""
    cdef int done
    if started < 0:
        exchange_abort(e, OVERLOADED)
        return
    e.flags |= EX_RESPONSE_STARTED | EX_RESPONSE_DONE
    done = e.down.codec.flush(e)
    if done < 0:
        exchange_gone(e)
    elif done == 1:
        finish(e)


cdef void exchange_refuse(exchange *e, int reason) noexcept nogil:
    """Answer with the problem for this reason; if an answer has begun, break it off."""
    cdef const refusal_rec *r
    drop_calls(e)
    if e.flags & EX_RESPONSE_STARTED:
        exchange_abort(e, reason)
        return
    r = <const refusal_rec *>snap_table(e.snap, e.snap.refusals) + reason
    e.reason = <uint16_t>reason
    e.status = <uint16_t>r.status if reason != FAULT_INJECTED else fault_status(e)
    e.flags |= EX_REFUSED
    if r.close:
        e.flags &= ~EX_KEEP_ALIVE
    e.owner.counters.refused += 1
    send_last(e, start_refusal(e, reason))


cdef void end_tunnel(exchange *e, int reason) noexcept nogil:
    if e.flags & EX_ENDED:
        return
    e.down.codec.flush(e)
    drop_calls(e)
    e.reason = <uint16_t>reason
    e.flags |= EX_RESPONSE_DONE
    finish(e)


cdef void wake(exchange *e, uint32_t bit) noexcept nogil:
    cdef core *c = e.owner
    e.wake |= bit
    if e.flags & EX_WAKE or e.py is NULL:
        return                           # queued already, or the handler has not begun and will look itself
    e.flags |= EX_WAKE
    e.next = NULL
    if c.wake_tail is NULL:
        c.wake_head = e
    else:
        c.wake_tail.next = e
    c.wake_tail = e


cdef void wake_forget(exchange *e) noexcept nogil:
    """Python has finished with the exchange: drop any pending wake-up."""
    cdef core *c = e.owner
    cdef exchange **at = &c.wake_head
    cdef exchange *last = NULL
    if not e.flags & EX_WAKE:
        return
    while at[0] is not NULL:
        if at[0] is e:
            at[0] = e.next
            if c.wake_tail is e:
                c.wake_tail = last
            break
        last = at[0]
        at = &last.next
    e.flags &= ~EX_WAKE


cdef void drop_calls(exchange *e) noexcept nogil:
    if e.main.up is not NULL or e.main.waiter is not NULL:
        call_abort(e.owner, &e.main)
    if e.relaying is not NULL and e.relaying.up is not NULL:
        call_abort(e.owner, e.relaying)
    if e.sub is not NULL:
        sub_drop(e.sub)
    e.relaying = NULL


cdef void exchange_abort(exchange *e, int reason) noexcept nogil:
    """Break off: the client's connection is closed without anything that looks like the end of an answer."""
    drop_calls(e)
    if e.flags & EX_ENDED:
        return
    e.reason = <uint16_t>reason
    e.flags = (e.flags | EX_ABORTED) & ~EX_KEEP_ALIVE
    if e.flags & EX_SUSPENDED:
        e.down.codec.reset(e)
        wake(e, WAKE_GONE)
    else:
        finish(e)


cdef void exchange_gone(exchange *e) noexcept nogil:
    """The client left."""
    if e.flags & (EX_ENDED | EX_ABORTED):
        return
    if e.flags & EX_TUNNEL:
        end_tunnel(e, TUNNEL_CLOSED)
        return
    if not e.flags & EX_RESPONSE_STARTED and executing(e) and charge_abandoned(e):
        e.flags |= EX_OWED
    if e.status == 0:
        e.status = 499
    e.log_flags |= LOG_ABORTED
    exchange_abort(e, CLIENT_CLOSED)


cdef void exchange_unread(exchange *e) noexcept nogil:
    """The client took nothing for too long, or less than the minimum rate; its connection will be reset."""
    if e.flags & (EX_ENDED | EX_ABORTED):
        return
    if e.flags & EX_TUNNEL:
        end_tunnel(e, CLIENT_TIMEOUT)
        return
    e.log_flags |= LOG_ABORTED
    exchange_abort(e, CLIENT_TIMEOUT)


cdef int executing(exchange *e) noexcept nogil:
    """Whether the whole request is with what answers it: the upstream's kernel, or a running handler."""
    if e.flags & EX_SUSPENDED:
        return e.py is not NULL
    return call_handed_over(&e.main)


cdef int call_handed_over(const call *k) noexcept nogil:
    """Whether the upstream's kernel has the whole request, and no answer has come yet."""
    return k is not NULL and k.state == CALL_SEND and k.flags & CALL_REQUEST_DONE and k.up is not NULL \
        and conn_drained(&k.up.io)


cdef void exchange_cut(exchange *e) noexcept nogil:
    """This worker ends: exchanges in progress are broken off, and fail on our side."""
    if e.flags & EX_TUNNEL:
        end_tunnel(e, TUNNEL_CLOSED)
        return
    e.log_flags |= LOG_ABORTED
    exchange_abort(e, DRAINING)


cdef int served(exchange *e) noexcept nogil:
    """Whether the caller owes for it: it got an answer that did not fail on our side or upstream, or it
    left before an answer began but after the request was handed over."""
    if e.flags & EX_OWED:
        return 1
    if not e.flags & EX_RESPONSE_STARTED or e.flags & EX_REFUSED or e.status >= 500:
        return 0
    return e.reason == REASON_NONE or e.reason == CLIENT_CLOSED or e.reason == CLIENT_TIMEOUT \
        or e.reason == TUNNEL_CLOSED


cdef int failed(exchange *e) noexcept nogil:
    """Whether it failed on our side or upstream, or was not valid: then it does not count against a quota."""
    return failed_here(e.reason, e.status) or e.reason == RESPONSE_TRUNCATED or e.reason == REQUEST_INVALID


cdef void uncount_handler(exchange *e) noexcept nogil:
    if e.flags & EX_COUNTED_UPCALL:
        e.owner.n_upcalls -= 1
    elif e.flags & EX_COUNTED_STREAM:
        e.owner.n_streams -= 1
    e.flags &= ~(EX_COUNTED_UPCALL | EX_COUNTED_STREAM)


cdef void finish(exchange *e) noexcept nogil:
    """Settle, log, and continue or close the connection."""
    cdef core *c = e.owner
    cdef uint64_t now
    if e.flags & (EX_ENDED | EX_SUSPENDED):
        return                           # a handler still holds it: exchange_release comes back here
    if e.relaying is not NULL and e.relaying.up is not NULL:
        # Answered before the whole request was sent: the upstream connection cannot be reused.
        call_abort(c, e.relaying)
    e.flags |= EX_ENDED
    if e.sub is not NULL:
        sub_drop(e.sub)                  # the rest of its body does not come: there is nothing to mirror
    if e.waits:
        stop_asking(c, e)
    now = monotonic_ns()
    if e.ntaken:
        admit_settle(c, e, failed(e))
    if e.hold is not NULL or e.nspent or e.flags & EX_METERED:
        charge_settle(c, e, served(e))
    if e.flags & (EX_COUNTED_UPCALL | EX_COUNTED_STREAM):
        uncount_handler(e)
    if e.verdict is not NULL:
        verdict_let_go(e.verdict)
    if e.told is not NULL:
        verdict_let_go(e.told)
    write_log(e, now)
    leave_snapshot(c, e.ref)
    e.down.codec.release(e)


cdef void write_log(exchange *e, uint64_t now) noexcept nogil:
    cdef core *c = e.owner
    cdef log_record *r
    cdef uint64_t total = now - e.started_ns
    cdef uint32_t slot = e.match.slot if e.route is not NULL else NONE32, used = 0
    cdef call *k = &e.main
    cdef const field *f
    cdef char query[255]
    e.rc = counters_route(c.segment, c.worker, slot)
    count_outcome(e.rc, e.status, e.reason)
    observe(&e.rc.total, total)
    observe(&e.rc.gateway, total - e.upstream_ns if total > e.upstream_ns else 0)
    if e.upstream_ns:
        observe(&e.rc.upstream, e.upstream_ns)
    if e.split_row:
        count_choice(e, total, total - e.upstream_ns if total > e.upstream_ns else 0)
    e.rc.bytes_in += e.bytes_in + e.req.size
    e.rc.bytes_out += e.bytes_out
    if not e.snap.flags & 2 or (e.policy is not NULL and e.policy.flags & ROUTE_LOG_OFF):
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
    if e.req.size and e.req.version == HTTP_1_0:
        r.flags |= LOG_HTTP_1_0
    if e.down.secure:
        r.flags |= LOG_TLS | (LOG_CERTIFICATE if e.flags & EX_CERTIFIED else 0)
    if e.req.size:
        used = log_text(r, used, TEXT_METHOD, e.base + e.req.method.off, e.req.method.len)
        used = log_text(r, used, TEXT_HOST, e.base + e.req.host.off, e.req.host.len)
        if e.path is not NULL:
            used = log_text(r, used, TEXT_PATH, e.path, e.path_len)
    if e.route is not NULL:
        used = log_text(r, used, TEXT_ROUTE, snap_str(e.snap, e.route.name), e.route.name.len)
    if e.split_row:
        used = log_text(r, used, TEXT_SERVICE, snap_str(e.snap, e.service.name), e.service.name.len)
    if e.consumer.id_len:
        used = log_text(r, used, TEXT_CONSUMER, e.consumer.name, e.consumer.name_len)
    if k.target is not NULL:
        used = log_text(r, used, TEXT_TARGET, snap_str(e.snap, k.target.name), k.target.name.len)
    if e.snap.flags & LOG_QUERY and e.req.size:
        used = log_text(r, used, TEXT_QUERY, query, loggable_query(e, query, sizeof(query)))
    if has_field(&e.req, F_USER_AGENT):
        f = field_of(&e.req, F_USER_AGENT)
        used = log_text(r, used, TEXT_USER_AGENT, e.base + f.value, f.value_len)
    if e.tightest is not NULL and e.flags & EX_REFUSED:
        used = log_text(r, used, TEXT_LIMIT, snap_str(e.snap, e.tightest.name), e.tightest.name.len)
    logring_commit(c.segment, c.worker, r)
