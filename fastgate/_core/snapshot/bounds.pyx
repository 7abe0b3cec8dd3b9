"""bounds: whether everything in an image refers to something within it.

Every reader checks that the tables are within the image (snapshot.pyx); control also checks every record
of a new one, here. The router's tables are checked by `router_build.verify_router`.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.snapshot.auth cimport auth_method, auth_rec, scope_rule
from fastgate._core.snapshot.predicates cimport automaton_out
from fastgate._core.snapshot.snapshot cimport (
    LIMIT_RATE, NONE32, PREDICATE_SEGMENT, ROUTE_MIRROR, ROUTE_SPLIT, ROUTE_TRAFFIC, SPLIT_BY_COOKIE, Snapshot, URL_PARAM, URL_PIECES, address_rule, cors_rec, header_rule, limit_rec,
    listener_rec, plan_rec, policy_rec, predicate, price_step, refusal_rec, route_rec, service_rec, snap_auth,
    snap_policy, snap_route, snap_service, snap_str, snap_table, snap_target, snap_upstream, snapshot_header, static_rec,
    sticky_rec, str_out, str_ref, table_out, table_ref, target_rec, upstream_rec, url_piece)
from fastgate._core.snapshot.traffic cimport split_rec, traffic_rec

from fastgate.errors import SnapshotError


cdef inline bint index_out(uint32_t i, table_ref t) noexcept nogil:
    return i != NONE32 and i >= t.count


cdef bint strings_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const str_ref *rows = <const str_ref *>snap_table(h, t)
    cdef uint32_t i
    if table_out(h, t, sizeof(str_ref)):
        return True
    for i in range(t.count):
        if str_out(h, rows[i]):
            return True
    return False


cdef bint limits_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const limit_rec *rows = <const limit_rec *>snap_table(h, t)
    cdef uint32_t i
    if table_out(h, t, sizeof(limit_rec)):
        return True
    for i in range(t.count):
        if str_out(h, rows[i].name) or str_out(h, rows[i].policy) or strings_out(h, rows[i].headers):
            return True
        if rows[i].kind == LIMIT_RATE and rows[i].interval_ns == 0:
            return True
    return False


cdef bint rules_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const header_rule *rows = <const header_rule *>snap_table(h, t)
    cdef uint32_t i
    if table_out(h, t, sizeof(header_rule)):
        return True
    for i in range(t.count):
        if str_out(h, rows[i].name) or str_out(h, rows[i].value) or str_out(h, rows[i].line):
            return True
    return False


cdef bint predicates_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const predicate *rows = <const predicate *>snap_table(h, t)
    cdef uint32_t i
    if table_out(h, t, sizeof(predicate)):
        return True
    for i in range(t.count):
        if str_out(h, rows[i].name) or str_out(h, rows[i].value):
            return True
        if rows[i].kind == PREDICATE_SEGMENT and automaton_out(
                <const uint8_t *>snap_str(h, rows[i].value), rows[i].value.len):
            return True
    return False


cdef bint pieces_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const url_piece *rows = <const url_piece *>snap_table(h, t)
    cdef uint32_t i
    if table_out(h, t, sizeof(url_piece)):
        return True
    for i in range(t.count):
        if str_out(h, rows[i].text) or rows[i].kind >= URL_PIECES:
            return True
    return False


cdef bint params_out(const snapshot_header *h, table_ref pieces, uint32_t params) noexcept nogil:
    """Whether a route's URL has a parameter that the route's path does not have."""
    cdef const url_piece *rows = <const url_piece *>snap_table(h, pieces)
    cdef uint32_t i
    for i in range(pieces.count):
        if rows[i].kind == URL_PARAM and rows[i].param >= params:
            return True
    return False


cdef bint route_out(const snapshot_header *h, const route_rec *r) noexcept nogil:
    return (
        str_out(h, r.name) or str_out(h, r.pattern) or r.policy >= h.policies.count
        or strings_out(h, r.tokens) or strings_out(h, r.params)
        or predicates_out(h, r.predicates)
    )


cdef bint urls_out(const snapshot_header *h, const route_rec *r) noexcept nogil:
    """As params_out, for all URLs of a route. Policies and static responses have been checked before."""
    cdef const policy_rec *p = snap_policy(h, r.policy)
    cdef const static_rec *statics = <const static_rec *>snap_table(h, h.statics)
    return params_out(h, p.rewrite, r.params.count) or (
        p.static_response != NONE32 and params_out(h, statics[p.static_response].location, r.params.count))


cdef bint policy_out(const snapshot_header *h, const policy_rec *p) noexcept nogil:
    return (
        str_out(h, p.replace) or str_out(h, p.notice) or str_out(h, p.payment_required) or str_out(h, p.host)
        or index_out(p.service, h.services) or index_out(p.handler, h.handlers)
        or index_out(p.static_response, h.statics) or index_out(p.auth, h.auths)
        or index_out(p.cors, h.cors) or index_out(p.validator, h.handlers)
        or limits_out(h, p.limits) or table_out(h, p.addresses, sizeof(address_rule))
        or rules_out(h, p.request_rules) or rules_out(h, p.response_rules)
        or pieces_out(h, p.rewrite) or table_out(h, p.client_auth, sizeof(uint64_t))
        or index_out(p.traffic, h.traffic) or (p.flags & ROUTE_TRAFFIC and p.traffic == NONE32)
        or (p.flags & (ROUTE_SPLIT | ROUTE_MIRROR) and lacks_parts(h, p))
    )


cdef bint lacks_parts(const snapshot_header *h, const policy_rec *p) noexcept nogil:
    """Whether a part of its traffic_rec, which is one, is missing."""
    cdef const traffic_rec *t = <const traffic_rec *>snap_table(h, h.traffic) + p.traffic
    return (p.flags & ROUTE_SPLIT and t.split.count == 0) or (p.flags & ROUTE_MIRROR and t.mirror_service == NONE32)


cdef bint sticky_out(const snapshot_header *h, table_ref t) noexcept nogil:
    cdef const sticky_rec *sticky = <const sticky_rec *>snap_table(h, t)
    if t.count > 1 or table_out(h, t, sizeof(sticky_rec)):
        return True
    return t.count and (str_out(h, sticky.cookie) or str_out(h, sticky.before) or str_out(h, sticky.after))


cdef bint split_out(const snapshot_header *h, const traffic_rec *r) noexcept nogil:
    cdef const split_rec *rows = <const split_rec *>snap_table(h, r.split)
    cdef uint32_t i
    if table_out(h, r.split, sizeof(split_rec)) or sticky_out(h, r.split_cookie) or (
            r.split.count and r.split_by == SPLIT_BY_COOKIE and r.split_cookie.count == 0):
        return True
    for i in range(r.split.count):
        if predicates_out(h, rows[i].when) or rows[i].policy >= h.policies.count \
                or snap_policy(h, rows[i].policy).service == NONE32:
            return True
    return False


cdef bint traffic_out(const snapshot_header *h, const traffic_rec *r) noexcept nogil:
    return (
        split_out(h, r) or index_out(r.mirror_service, h.services) or str_out(h, r.mirror_host) or
        predicates_out(h, r.fault_when) or str_out(h, r.maintenance_message)
        or table_out(h, r.maintenance_allow, sizeof(address_rule))
    )


cdef bint upstream_out(const snapshot_header *h, const upstream_rec *u) noexcept nogil:
    if str_out(h, u.name) or str_out(h, u.hash_header) or sticky_out(h, u.sticky):
        return True
    if u.targets.count == 0:
        return False
    return (
        u.targets.off < h.targets.off
        or (u.targets.off - h.targets.off) % sizeof(target_rec) != 0
        or (u.targets.off - h.targets.off) // sizeof(target_rec) + u.targets.count > h.targets.count
    )


cdef bint auth_out(const snapshot_header *h, const auth_rec *a):
    cdef const auth_method *m
    cdef const scope_rule *r
    cdef uint32_t i, k
    if (str_out(h, a.header) or str_out(h, a.query) or str_out(h, a.challenge) or str_out(h, a.anonymous)
            or strings_out(h, a.owned) or a.anonymous.len not in (0, 32)
            or table_out(h, a.methods, sizeof(auth_method))):
        return True
    m = <const auth_method *>snap_table(h, a.methods)
    for i in range(a.methods.count):
        if (table_out(h, m[i].ids, sizeof(uint64_t)) or table_out(h, m[i].scopes, sizeof(scope_rule)) or str_out(h, m[i].path)
                or strings_out(h, m[i].forwarded) or strings_out(h, m[i].lent) or str_out(h, m[i].consumer) or index_out(m[i].upstream, h.upstreams)):
            return True
        r = <const scope_rule *>snap_table(h, m[i].scopes)
        for k in range(m[i].scopes.count):
            if strings_out(h, r[k].scopes):
                return True
    return False


cdef str records_wrong(const snapshot_header *h):
    """A record that refers to something outside the image; None if there is none."""
    cdef uint32_t i
    cdef const service_rec *service
    cdef const traffic_rec *traffic
    cdef const target_rec *target
    cdef const plan_rec *plan
    cdef const auth_rec *auth
    cdef const cors_rec *cors
    cdef const static_rec *static
    cdef const refusal_rec *refusal
    cdef const listener_rec *listener = <const listener_rec *>snap_table(h, h.listeners)
    for i in range(h.listeners.count):
        if str_out(h, listener[i].hsts) or table_out(h, listener[i].proxies, sizeof(address_rule)):
            return f"listener {i}"
    for i in range(h.routes.count):
        if route_out(h, snap_route(h, i)):
            return f"route {i}"
    for i in range(h.policies.count):
        if policy_out(h, snap_policy(h, i)):
            return f"policy {i}"
    traffic = <const traffic_rec *>snap_table(h, h.traffic)
    for i in range(h.traffic.count):
        if traffic_out(h, &traffic[i]):
            return f"traffic {i}"
    for i in range(h.services.count):
        service = snap_service(h, i)
        if (str_out(h, service.name) or service.upstream >= h.upstreams.count
                or limits_out(h, service.limits)
                or table_out(h, service.plans, sizeof(uint32_t))):
            return f"service {i}"
    for i in range(h.upstreams.count):
        if upstream_out(h, snap_upstream(h, i)):
            return f"upstream {i}"
    for i in range(h.targets.count):
        target = snap_target(h, i)
        if (str_out(h, target.name) or str_out(h, target.authority) or str_out(h, target.path)
                or str_out(h, target.host) or str_out(h, target.sticky) or target.upstream >= h.upstreams.count or target.sockaddr_len > 112):
            return f"target {i}"
    plan = <const plan_rec *>snap_table(h, h.plans)
    for i in range(h.plans.count):
        if (str_out(h, plan[i].name) or limits_out(h, plan[i].limits)
                or table_out(h, plan[i].prices, sizeof(price_step))):
            return f"plan {i}"
    if strings_out(h, h.handlers):       # a handler_rec is its name
        return "handlers"
    for i in range(h.auths.count):
        auth = snap_auth(h, i)
        if auth_out(h, auth):
            return f"auth {i}"
    cors = <const cors_rec *>snap_table(h, h.cors)
    for i in range(h.cors.count):
        if (strings_out(h, cors[i].origins) or str_out(h, cors[i].allow_methods)
                or str_out(h, cors[i].allow_headers) or str_out(h, cors[i].expose_headers)):
            return f"cors {i}"
    static = <const static_rec *>snap_table(h, h.statics)
    for i in range(h.statics.count):
        if str_out(h, static[i].fields) or str_out(h, static[i].body) or pieces_out(h, static[i].location):
            return f"static response {i}"
    for i in range(h.routes.count):
        if urls_out(h, snap_route(h, i)):
            return f"a parameter of route {i}"
    refusal = <const refusal_rec *>snap_table(h, h.refusals)
    for i in range(h.refusals.count):
        if (str_out(h, refusal[i].fields) or str_out(h, refusal[i].body)
                or str_out(h, refusal[i].html_fields) or str_out(h, refusal[i].html_body)
                or str_out(h, refusal[i].markdown_fields) or str_out(h, refusal[i].markdown_body)):
            return f"refusal {i}"
    if strings_out(h, h.faults):
        return "faults"
    return None


def verify_records(Snapshot snapshot not None) -> None:
    """Check that no record refers to anything outside the image. Raises SnapshotError."""
    wrong = records_wrong(snapshot.header)
    if wrong is not None:
        raise SnapshotError(f"the image refers to something outside itself: {wrong}")
