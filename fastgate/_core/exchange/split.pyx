"""split: which service gets a request of a route that has several.

    when a condition of a service holds         that service
    otherwise, by turns                         each service in turn, as often as its share says
               by consumer, address, cookie     a hash of it is a point in the shares

The choice comes before everything that depends on the service: its limits, its plans, its policies. For that,
the image has a policy for each of them: what the route's would be with this service (config/splits.py), and
the exchange takes that of the one that is chosen. A choice by consumer waits until the caller is known; what is
done before is the same for all services, which the configuration's checks ensure.

**Turns** are exact. Each worker adds the share up for each service, and gives it the request with which the sum
passes the next whole (Bresenham's line). So the requests of a service differ from its share by less than one in
each worker, however few there are. The second service takes its turns of what the first leaves, and so on. The
workers begin at different points, so that the first requests do not all go to the same service. The sums are in
the counters, and so outlive reloads and workers.

**Points** lie as follows. A share that grows keeps all callers that it had, and the route's own service gets
what is left:

    0 ─── first service ───▶ ··· the route's own ··· ◀── third ── ◀─── second service ─── 1

A caller's point is a hash of who they are, or is in their cookie, so it is the same in all workers and after each
reload. A cookie also says which service it led to, unless that was the route's own: then it leads there as long as
the service is named, whatever its share is now.

    fastgate_split=5d0f3a21              a point; the route's own service, until a growing share reaches it
    fastgate_split=5d0f3a21.c90b7e44     the service with that tag
"""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.exchange.sticky cimport STICKY_NOT, cookie_allowed
from fastgate._core.http.cookies cimport cookie_place, next_cookie
from fastgate._core.http.lines cimport end_line
from fastgate._core.platform.random cimport random64
from fastgate._core.platform.text cimport put, put_lit
from fastgate._core.shared.cells cimport address_hash, mix_key
from fastgate._core.shared.counters cimport count_outcome, counters_route, observe
from fastgate._core.shared.layout cimport route_counters
from fastgate._core.snapshot.predicates cimport predicates_hold
from fastgate._core.snapshot.snapshot cimport (
    SPLIT_BY_CONSUMER, SPLIT_BY_COOKIE, SPLIT_BY_TURNS, STICKY_AUTO, STICKY_SECURE, snap_policy,
    snap_service, snap_str, snap_table, snap_traffic, sticky_rec)
from fastgate._core.snapshot.traffic cimport WHOLE, split_rec, traffic_rec
from fastgate._core.state cimport core

cdef enum:
    DIGITS = 8                # of a point, and of a tag
    SECURE = 10               # bytes of "; Secure" and the line end

cdef uint32_t GOLDEN = 0x9E3779B9     # the golden section of 2^32: its multiples lie evenly


cdef int chosen_early(const exchange *e) noexcept nogil:
    return snap_traffic(e.snap, e.policy).split_by != SPLIT_BY_CONSUMER


cdef void choose_service(exchange *e) noexcept nogil:
    cdef const traffic_rec *t = snap_traffic(e.snap, e.policy)
    cdef const split_rec *s = <const split_rec *>snap_table(e.snap, t.split)
    cdef uint32_t i, own = t.split.count - 1
    for i in range(own):
        if s[i].when.count and predicates_hold(
                e.snap, s[i].when, e.base, &e.req, e.path, e.path_len):
            take_service(e, &s[i])
            return
    if e.base is NULL and (t.split_by == SPLIT_BY_TURNS or t.split_by == SPLIT_BY_COOKIE):
        i = largest(s, own)              # a dry run
    elif t.split_by == SPLIT_BY_TURNS:
        i = by_turns(e.owner, s, own)
    elif t.split_by == SPLIT_BY_COOKIE:
        i = by_cookie(e, t, s, own)
    elif t.split_by == SPLIT_BY_CONSUMER and e.has_consumer:
        i = by_point(s, own, parts(e.consumer.identity, t.split_seed))
    else:
        i = by_point(s, own, parts(address_hash(e.client), t.split_seed))
    take_service(e, &s[i])


cdef void take_service(exchange *e, const split_rec *s) noexcept nogil:
    e.policy = snap_policy(e.snap, s.policy)
    e.service = snap_service(e.snap, e.policy.service)
    e.split_row = s.row + 1


cdef uint32_t largest(const split_rec *s, uint32_t own) noexcept nogil:
    """The service with the largest share; of equal ones the route's own."""
    cdef uint32_t i, found = own
    for i in range(own):
        if s[i].weight > s[found].weight:
            found = i
    return found


# ---- turns ------------------------------------------------------------------------------------

cdef uint32_t by_turns(core *c, const split_rec *s, uint32_t own) noexcept nogil:
    cdef uint32_t i, left = WHOLE
    for i in range(own):
        if s[i].weight:
            if has_turn(c, &s[i], left):
                return i
            left -= s[i].weight
    return own


cdef int has_turn(core *c, const split_rec *s, uint32_t left) noexcept nogil:
    """Whether this request is the service's, of those that the services before it left."""
    cdef route_counters *row
    cdef uint64_t sum, began
    if s.row >= c.segment.route_rows - 1:
        return random64(c.random) % left < s.weight       # there is no row for its sum
    row = counters_route(c.segment, c.worker, s.row)
    sum = row.turn % left                # `left` may have changed
    row.turn = (sum + s.weight) % left
    began = <uint64_t>(GOLDEN * c.worker) * left >> 32
    return (sum + began) % left + s.weight >= left


# ---- points -----------------------------------------------------------------------------------

cdef inline uint32_t parts(uint64_t key, uint64_t seed) noexcept nogil:
    """A point, in parts of the whole."""
    return <uint32_t>((mix_key(key, seed) >> 32) * WHOLE >> 32)


cdef uint32_t by_point(const split_rec *s, uint32_t own, uint32_t point) noexcept nogil:
    cdef uint32_t i, end = WHOLE
    if own and point < s[0].weight:
        return 0
    for i in range(1, own):
        end -= s[i].weight
        if point >= end:
            return i
    return own


cdef int read_digits(const char *p, uint32_t *value) noexcept nogil:
    cdef uint32_t i
    value[0] = 0
    for i in range(DIGITS):
        if c"0" <= p[i] <= c"9":
            value[0] = value[0] << 4 | <uint32_t>(p[i] - c"0")
        elif c"a" <= p[i] <= c"f":
            value[0] = value[0] << 4 | <uint32_t>(p[i] - c"a" + 10)
        else:
            return 0
    return 1


cdef uint32_t by_cookie(exchange *e, const traffic_rec *t, const split_rec *s, uint32_t own) noexcept nogil:
    cdef const sticky_rec *r = <const sticky_rec *>snap_table(e.snap, t.split_cookie)
    cdef cookie_place at = cookie_place(field=0, offset=0)
    cdef const char *value
    cdef uint32_t i, n = 0, point = 0, tag = 0
    cdef int known = 0
    while not known:                     # the first that is one of ours
        value = next_cookie(e.base, &e.req, snap_str(e.snap, r.cookie), r.cookie.len, &at, &n)
        if value is NULL:
            break
        tag = 0
        if n == DIGITS:
            known = read_digits(value, &point)
        elif n == 2 * DIGITS + 1 and value[DIGITS] == c".":
            known = read_digits(value, &point) and read_digits(value + DIGITS + 1, &tag)
    if tag and known:
        for i in range(own):
            if s[i].tag == tag:
                return i
    if not known:
        point = <uint32_t>random64(e.owner.random)
    i = by_point(s, own, parts(point, t.split_seed))
    if not known or tag != s[i].tag:
        e.split_sets = 1
        e.split_point = point
        e.split_tag = s[i].tag
    return i


# ---- answers ----------------------------------------------------------------------------------

cdef inline const sticky_rec *cookie_of(exchange *e) noexcept nogil:
    """That of the route's own policy, which was replaced."""
    cdef const traffic_rec *t = snap_traffic(e.snap, snap_policy(e.snap, e.match.policy))
    return <const sticky_rec *>snap_table(e.snap, t.split_cookie)


cdef int split_answer(exchange *e, const call *k) noexcept nogil:
    return STICKY_NOT if k.resp.status == 304 else cookie_allowed(e, k)


cdef size_t split_cookie_size(exchange *e) noexcept nogil:
    cdef const sticky_rec *r = cookie_of(e)
    return <size_t>r.before.len + 2 * DIGITS + 1 + r.after.len + SECURE


cdef char *put_digits(char *p, uint32_t value) noexcept nogil:
    cdef int shift
    for shift in range(28, -1, -4):
        p[0] = b"0123456789abcdef"[value >> shift & 15]
        p += 1
    return p


cdef char *put_split_cookie(char *p, exchange *e, int secure) noexcept nogil:
    cdef const sticky_rec *r = cookie_of(e)
    p = put(p, snap_str(e.snap, r.before), r.before.len)
    p = put_digits(p, e.split_point)
    if e.split_tag:
        p = put_digits(put_lit(p, "."), e.split_tag)
    p = put(p, snap_str(e.snap, r.after), r.after.len)
    if r.secure == STICKY_SECURE or (r.secure == STICKY_AUTO and secure):
        p = put_lit(p, "; Secure")
    return end_line(p)


# ---- counts -----------------------------------------------------------------------------------

cdef void count_choice(exchange *e, unsigned long long total, unsigned long long gateway) noexcept nogil:
    cdef core *c = e.owner
    cdef route_counters *row
    if e.split_row >= c.segment.route_rows:
        return                           # the last row is for what has none
    row = counters_route(c.segment, c.worker, e.split_row - 1)
    count_outcome(row, e.status, e.reason)
    observe(&row.total, total)
    observe(&row.gateway, gateway)
    if e.upstream_ns:
        observe(&row.upstream, e.upstream_ns)
