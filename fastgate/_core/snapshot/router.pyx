"""router: host, path, method, predicates → route. No allocation, no pointer, no lock.

How a lookup works (`docs/routing.md` describes it for people who write routes):

1. **Hosts**, in this order, until a route is found: the exact host, wildcards from the longest
   to the shortest, the routes without hosts.
2. Within a host, **static paths** through one hash table, then the patterns with parameters.
   A static path is literal in every segment, so it takes precedence over all of these.
3. Patterns by their **literal prefix**, the segments before the first parameter, through another
   hash table: the longest prefix of the path, then the next shorter one, and finally the patterns
   that begin with a parameter. The host knows which lengths, in segments, occur at all.
4. From the prefix on through a **trie**. At each segment: the literal child, then `{param}`, then
   `{rest*}`. If a way does not lead to a route, the lookup backtracks, up to a shorter prefix.
5. At the end of a pattern are its **candidates**, in the order of precedence: parameters with a
   pattern of their own, from the left, before others; priority; listed methods before any method;
   more predicates first; name. The first whose method and predicates
   hold is the route.

        hosts ────► host_rec ─► node of the patterns that begin with a parameter
        (slots)
        statics ──► static_path: host, candidates, "/orders"
        (slots: hash of path and host)
        prefixes ─► prefix_rec: host, "/v1/orders" ─► node ─┬─ param ─► node ─┬─ kids ──► node "items"
        (slots: hash of prefix and host)                    └─ rest ──► leaf  └─ leaf ──► candidates

**The trie is a trie of segments**, and compressed: a chain of literal segments with nothing else at
any of its nodes is one node, whose label is the chain ("items/open"). The literal children of a
node are in a small open-addressing table by the hash of their first segment, so a node with
100,000 children costs one probe, like a node with ten. A node is directly before what it leads
to, so that a step is mostly within the cache line just read, or the next.

**Memory dominates the time** with very many routes: on random paths, nothing of the tables is in the
cache. So a lookup waits for memory twice, however deep the pattern: for the slots, which are all
fetched at once since their places depend on the path alone, and for what the right slot leads to, two
lines of which are fetched at once. If no route names a host, the first fetch starts as soon as the
request line is there, and is complete when the fields are read (`route_ahead`); the second runs while ids
and addresses are handled (`route_nearer`). A candidate has everything of its route that an exchange needs
to continue, so that it need not wait for the route's record.

**Bounds.** A node of a trie corresponds to one way through the segments, so a lookup visits each node
at most once. The largest number of visits (one literal child and the parameter at every level) is
computed when the router is built, and more than MAX_VISITS is an error there. The usual lookup
visits one node for a static path and two or three for a pattern, independent of the number of
routes. No prefix longer than the longest existing one is hashed. Recursion is as deep as the longest
pattern has nodes, at most MAX_SEGMENTS.
"""
from libc.string cimport memchr, memcmp, memset

from fastgate._core.platform.atomics cimport fg_prefetch
from fastgate._core.http.head cimport F_COOKIE, F_OTHER, FIELD_UNDERSCORE, MAX_FIELDS, METHOD_OTHER, method_of
from fastgate._core.snapshot.predicates cimport predicates_hold
from fastgate._core.snapshot.snapshot cimport (
    NONE32, hash64, route_rec, snap_route, snap_str, snap_table, str_ref)

from typing import NamedTuple

cdef enum:
    HOST_MAX = 255
    LINE = 64                 # bytes of a cache line

# The state of one lookup.
cdef struct lookup:
    const snapshot_header *snap
    const char *base              # of the router's tables
    const char *path
    uint32_t path_len
    uint32_t method               # 1 << Method
    const char *buf
    const head *req
    route_match *out


# ---- the candidates of a pattern --------------------------------------------------------

cdef bint has_token(const lookup *k, uint32_t route, const char *p, uint32_t n) noexcept nogil:
    cdef const route_rec *r = snap_route(k.snap, route)
    cdef const str_ref *tokens = <const str_ref *>snap_table(k.snap, r.tokens)
    cdef uint32_t i
    for i in range(r.tokens.count):
        if tokens[i].len == n and memcmp(snap_str(k.snap, tokens[i]), p, n) == 0:
            return True
    return False


cdef bint takes_method(const lookup *k, const candidate *c) noexcept nogil:
    cdef const head *h = k.req
    if c.methods & k.method:
        return True
    if c.flags & CANDIDATE_TOKENS and k.method == 1 << METHOD_OTHER:
        return has_token(k, c.route, k.buf + h.method.off, h.method.len)
    return False


cdef bint choose(lookup *k, const candidate *c, uint32_t count) noexcept nogil:
    """The first candidate whose method and predicates hold; collects the methods for a 405."""
    cdef uint32_t i
    cdef bint method
    for i in range(count):
        method = takes_method(k, &c[i])
        if c[i].flags & CANDIDATE_PREDICATES and not predicates_hold(
                k.snap, snap_route(k.snap, c[i].route).predicates, k.buf, k.req, k.path, k.path_len):
            continue
        if method:
            k.out.route = c[i].route
            k.out.policy = c[i].policy
            k.out.slot = c[i].slot
            return True
        if k.out.allowed == 0:
            k.out.policy = c[i].policy
        k.out.allowed |= c[i].methods
        if c[i].flags & CANDIDATE_TOKENS:
            k.out.allowed |= 1 << METHOD_OTHER
            k.out.token_route = c[i].route
    return False


cdef inline bint choose_leaf(lookup *k, uint32_t at) noexcept nogil:
    cdef const leaf *l = <const leaf *>(k.base + at)
    return choose(k, <const candidate *>(l + 1), l.count)


# ---- paths --------------------------------------------------------------------------------

cdef inline uint32_t probe(const char *base, const slot_table *t, probing *p) noexcept nogil:
    """The next entry that may be the key's; 0: none."""
    cdef const uint32_t *slots = <const uint32_t *>(base + t.off)
    cdef uint32_t found
    while True:
        found = slots[p.next]
        if found == 0:
            p.entry = 0
            return 0
        p.next += 1
        if p.next == t.count:
            p.next = 0
        if found >> 24 == slot_tag(p.key):
            p.entry = (found & 0xFFFFFF) * ENTRY
            return p.entry


cdef inline uint32_t probe_first(const char *base, const slot_table *t, uint64_t key, probing *p) noexcept nogil:
    p.key = key
    p.next = slot_of(key, t.count)
    return probe(base, t, p)


cdef inline const node *child_of(const lookup *k, const node *n, const char *segment,
                                 uint32_t size, uint32_t left) noexcept nogil:
    """The literal child with which the path continues, or NULL. left: bytes of path from segment."""
    cdef const node *child
    cdef probing p
    cdef uint32_t at
    if n.kids.count == 0:
        child = <const node *>(k.base + n.kids.off)
        return child if is_next(child, segment, left) else NULL
    at = probe_first(k.base, &n.kids, hash64(segment, size, SEED_SEGMENT), &p)
    while at:
        child = <const node *>(k.base + at)
        fg_prefetch(<const char *>child + LINE)
        if is_next(child, segment, left):
            return child
        at = probe(k.base, &n.kids, &p)
    return NULL


cdef inline bint is_next(const node *child, const char *segment, uint32_t left) noexcept nogil:
    cdef uint32_t n = child.label_len
    return (
        left >= n and memcmp(child + 1, segment, n) == 0
        and (left == n or segment[n] == c'/')
    )


cdef bint walk(lookup *k, const node *n, uint32_t at, uint32_t nparams) noexcept nogil:
    """From a node whose label ends at `at` (a "/" or the path's end) to a candidate."""
    cdef const node *child
    cdef const char *segment
    cdef const char *slash
    cdef uint32_t left, size, next
    while True:
        if at >= k.path_len:
            if n.leaf:
                k.out.nparams = nparams
                if choose_leaf(k, n.leaf):
                    return True
            if n.rest:                  # "/files/{rest*}" matches "/files", too
                k.out.params[nparams].off = k.path_len
                k.out.params[nparams].len = 0
                k.out.nparams = nparams + 1
                return choose_leaf(k, n.rest)
            return False
        segment = k.path + at + 1
        left = k.path_len - at - 1
        slash = <const char *>memchr(segment, c'/', left)
        size = <uint32_t>(slash - segment) if slash != NULL else left
        if n.kids.off:
            child = child_of(k, n, segment, size, left)
            if child != NULL:
                next = at + 1 + child.label_len
                if not n.param and not n.rest:
                    n = child
                    at = next
                    continue
                if walk(k, child, next, nparams):
                    return True
        if n.param and size:
            k.out.params[nparams].off = at + 1
            k.out.params[nparams].len = size
            child = <const node *>(k.base + n.param)
            if not n.rest:
                n = child
                at = at + 1 + size
                nparams += 1
                continue
            if walk(k, child, at + 1 + size, nparams + 1):
                return True
        if n.rest:
            k.out.params[nparams].off = at + 1
            k.out.params[nparams].len = left
            k.out.nparams = nparams + 1
            return choose_leaf(k, n.rest)
        return False


cdef bint find_static(lookup *k, const router_head *r, uint32_t host, const probing *begun) noexcept nogil:
    cdef probing p = begun[0]
    cdef const static_path *found
    while p.entry:
        found = <const static_path *>(k.base + p.entry)
        if (found.path_len == k.path_len and found.host == host
                and memcmp(<const char *>(found + 1) + found.count * sizeof(candidate),
                           k.path, k.path_len) == 0):
            k.out.nparams = 0
            return choose(k, <const candidate *>(found + 1), found.count)
        probe(k.base, &r.statics, &p)
    return False


# ---- hosts --------------------------------------------------------------------------------

cdef const host_rec *find_host(const char *base, const router_head *r, const char *key,
                               uint32_t n, uint64_t seed) noexcept nogil:
    cdef const host_rec *found
    cdef probing p
    cdef uint32_t at = probe_first(base, &r.hosts, hash64(key, n, seed), &p)
    while at:
        found = <const host_rec *>(base + at)
        if (found.key_len == n and found.wildcard == (seed == SEED_WILDCARD)
                and memcmp(found + 1, key, n) == 0):
            return found
        at = probe(base, &r.hosts, &p)
    return NULL


cdef inline uint32_t lower_host(const char *host, uint32_t n, char *out) noexcept nogil:
    """Without the root's dot; 0 if it is longer than any host."""
    cdef uint32_t i
    cdef uint8_t c
    if n and host[n - 1] == c'.':
        n -= 1
    if n > HOST_MAX:
        return 0
    for i in range(n):
        c = <uint8_t>host[i]
        out[i] = <char>(c | 32 if c - 65 < 26 and c >= 65 else c)
    return n


cdef inline const node *find_prefix(const lookup *k, const router_head *r, uint32_t host,
                                    const probing *begun, uint32_t length) noexcept nogil:
    """The node that the path's first `length` bytes lead to, or NULL."""
    cdef probing p = begun[0]
    cdef const prefix_rec *found
    while p.entry:
        found = <const prefix_rec *>(k.base + p.entry)
        if found.length == length and found.host == host and memcmp(found + 1, k.path, length) == 0:
            return <const node *>(k.base + node_of(p.entry, length))
        probe(k.base, &r.prefixes, &p)
    return NULL


cdef inline void fetch_slots(const char *base, const slot_table *t, uint64_t key, probing *p) noexcept nogil:
    p.key = key
    p.next = slot_of(key, t.count)
    fg_prefetch(base + t.off + p.next * sizeof(uint32_t))


cdef inline void fetch_entry(const char *base, const slot_table *t, probing *p) noexcept nogil:
    if probe(base, t, p):
        fg_prefetch(base + p.entry)
        fg_prefetch(base + p.entry + LINE)


cdef void make_keys(const char *base, const router_head *r, const host_rec *host, const char *path,
                    uint32_t path_len, uint64_t path_hash, route_keys *keys) noexcept nogil:
    """Compute the keys of a path at a host, and start fetching all slots that they can be in."""
    cdef uint32_t at = 0, depth = 0, depths = host.depths
    cdef const char *slash
    keys.statics = host.statics != 0 and path_len <= r.longest
    if keys.statics:
        fetch_slots(base, &r.statics, path_key(path_hash, host.id), &keys.whole)
    while depths >> depth and at < path_len:
        slash = <const char *>memchr(path + at + 1, c'/', path_len - at - 1)
        at = <uint32_t>(slash - path) if slash != NULL else path_len
        if at > r.longest_prefix:
            break
        if depths >> depth & 1:
            keys.ends[depth] = at
            fetch_slots(base, &r.prefixes, path_key(hash64(path, at, SEED_PREFIX), host.id),
                        &keys.prefixes[depth])
        depth += 1
    keys.depth = depth


cdef void fetch_entries(const char *base, const router_head *r, const host_rec *host, route_keys *keys) noexcept nogil:
    """Start fetching everything that the slots refer to, at once."""
    cdef uint32_t depth = keys.depth
    if keys.statics:
        fetch_entry(base, &r.statics, &keys.whole)
    while depth:
        depth -= 1
        if host.depths >> depth & 1:
            fetch_entry(base, &r.prefixes, &keys.prefixes[depth])


cdef void route_ahead(const snapshot_header *s, const char *path, uint32_t path_len,
                      route_keys *keys) noexcept nogil:
    cdef const char *base = <const char *>s + s.router.off
    cdef const router_head *r = <const router_head *>base
    cdef uint64_t path_hash = 0
    keys.generation = 0
    keys.fetched = 0
    if s.router.count == 0 or r.flags & (ROUTER_HOSTS | ROUTER_WILDCARDS) or r.any == 0:
        return
    if path_len <= r.longest:
        path_hash = hash64(path, path_len, SEED_PATH)
    make_keys(base, r, <const host_rec *>(base + r.any), path, path_len, path_hash, keys)
    keys.generation = s.generation


cdef void route_nearer(const snapshot_header *s, route_keys *keys) noexcept nogil:
    cdef const char *base = <const char *>s + s.router.off
    cdef const router_head *r = <const router_head *>base
    if keys.generation and keys.generation == s.generation:
        fetch_entries(base, r, <const host_rec *>(base + r.any), keys)
        keys.fetched = 1


cdef bint find_path(lookup *k, const router_head *r, const host_rec *host, const route_keys *keys) noexcept nogil:
    cdef uint32_t depth = keys.depth
    cdef const node *found
    if keys.statics and find_static(k, r, host.id, &keys.whole):
        return True
    while depth:
        depth -= 1
        if host.depths >> depth & 1:
            found = find_prefix(k, r, host.id, &keys.prefixes[depth], keys.ends[depth])
            if found != NULL and walk(k, found, keys.ends[depth], 0):
                return True
    return host.trie != 0 and walk(k, <const node *>(k.base + host.trie), 0, 0)


cdef bint find_at(lookup *k, const router_head *r, const host_rec *host, uint64_t path_hash) noexcept nogil:
    cdef route_keys keys
    make_keys(k.base, r, host, k.path, k.path_len, path_hash, &keys)
    fetch_entries(k.base, r, host, &keys)
    return find_path(k, r, host, &keys)


cdef bint find_named(lookup *k, const router_head *r, const char *host, uint32_t host_len,
                     uint64_t path_hash) noexcept nogil:
    """By the exact host, then by wildcards from the longest to the shortest."""
    cdef char lower[HOST_MAX + 1]
    cdef uint32_t n = lower_host(host, host_len, lower)
    cdef uint32_t i
    cdef const host_rec *found
    if n == 0:
        return False
    if r.flags & ROUTER_HOSTS:
        found = find_host(k.base, r, lower, n, SEED_HOST)
        if found != NULL and find_at(k, r, found, path_hash):
            return True
    if r.flags & ROUTER_WILDCARDS:
        for i in range(1, n):           # at least one byte stands for the "*"
            if lower[i] != c'.' or n - i > r.longest_suffix:
                continue
            if n - i < r.shortest_suffix:
                break
            found = find_host(k.base, r, lower + i, n - i, SEED_WILDCARD)
            if found != NULL and find_at(k, r, found, path_hash):
                return True
    return False


cdef int route_find(const snapshot_header *s, const char *host, uint32_t host_len,
                    const char *path, uint32_t path_len, const char *buf, const head *h,
                    const route_keys *ahead, route_match *out) noexcept nogil:
    cdef const router_head *r = <const router_head *>(<const char *>s + s.router.off)
    cdef lookup k
    cdef uint64_t path_hash = 0
    out.route = NONE32
    out.token_route = NONE32
    out.nparams = 0
    out.allowed = 0
    if s.router.count == 0 or path_len == 0 or path[0] != c'/':
        return ROUTE_MISSING
    k.snap = s
    k.base = <const char *>r
    k.path = path
    k.path_len = path_len
    k.method = <uint32_t>1 << h.method_id
    k.buf = buf
    k.req = h
    k.out = out
    if ahead != NULL and ahead.fetched and ahead.generation == s.generation:
        if find_path(&k, r, <const host_rec *>(k.base + r.any), ahead):
            return ROUTE_FOUND
    else:
        if path_len <= r.longest:
            path_hash = hash64(path, path_len, SEED_PATH)
        if r.flags & (ROUTER_HOSTS | ROUTER_WILDCARDS) and find_named(&k, r, host, host_len, path_hash):
            return ROUTE_FOUND
        if r.any and find_at(&k, r, <const host_rec *>(k.base + r.any), path_hash):
            return ROUTE_FOUND
    out.route = NONE32
    out.nparams = 0
    return ROUTE_METHOD if out.allowed else ROUTE_MISSING


# ---- the border: tests, `fastgate explain` -------------------------------------

METHODS = ("", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


class Found(NamedTuple):
    """The result of a lookup."""

    status: int
    """200 found, 404 nothing, 405 only the method does not match."""
    route: int | None
    """Index of the route."""
    name: str | None
    params: tuple[str, ...]
    """Values of the pattern's parameters, in its order, not decoded."""
    allowed: frozenset[str]
    """For 405: the allowed methods; "" for tokens without a number."""


cdef class Router:
    """Looks routes up in a snapshot, as the engine does, from Python.

    `ahead`: start with the path alone, as the engine does before a request's fields are read; the
    result is the same.
    """

    def __init__(self, Snapshot snapshot not None, bint ahead=False):
        self.snapshot = snapshot
        self.ahead = ahead

    def find(self, host: str = "", path: str = "/", method: str = "GET",
             headers=(), query=None):
        """The route of a request. `path` is canonical, `host` without port."""
        cdef head h
        cdef route_match m
        cdef bytes raw_host = host.encode(), raw_path = path.encode()
        cdef bytes buf = fill_head(&h, method.encode(), headers, query)
        cdef const snapshot_header *s = self.snapshot.header
        cdef route_keys keys
        if self.ahead:
            route_ahead(s, raw_path, <uint32_t>len(raw_path), &keys)
            route_nearer(s, &keys)
        cdef int status = route_find(
            s, raw_host, <uint32_t>len(raw_host), raw_path, <uint32_t>len(raw_path), buf, &h,
            &keys if self.ahead else NULL, &m)
        if status == ROUTE_FOUND:
            params = tuple([
                raw_path[m.params[i].off:m.params[i].off + m.params[i].len].decode()
                for i in range(m.nparams)
            ])
            name = self.snapshot._text(snap_route(self.snapshot.header, m.route).name).decode()
            return Found(200, m.route, name, params, frozenset())
        allowed = frozenset([text for i, text in enumerate(METHODS) if m.allowed >> i & 1])
        return Found(405 if status == ROUTE_METHOD else 404, None, None, (), allowed)


cdef bytes fill_head(head *h, bytes method, object headers, object query):
    """A request's head as the parser leaves it, with the parts that routes check; returns its buffer."""
    cdef uint32_t at
    memset(h, 0, sizeof(head))
    if len(headers) > MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} header fields")
    parts = [method]
    h.method.len = at = <uint32_t>len(method)
    h.method_id = method_of(method, <uint32_t>len(method))
    for i, (name, value) in enumerate(headers):
        raw_name, raw_value = name.encode(), value.encode()
        h.fields[i].name = at
        h.fields[i].name_len = <uint16_t>len(raw_name)
        h.fields[i].value = at + <uint32_t>len(raw_name)
        h.fields[i].value_len = <uint32_t>len(raw_value)
        h.fields[i].flags = FIELD_UNDERSCORE if "_" in name else 0
        h.fields[i].id = F_COOKIE if name.lower() == "cookie" else F_OTHER
        if h.fields[i].id == F_COOKIE and not h.first[<int>F_COOKIE]:
            h.first[<int>F_COOKIE] = i + 1
        at = h.fields[i].value + h.fields[i].value_len
        parts += [raw_name, raw_value]
    h.nfields = <uint16_t>len(headers)
    if query is not None:
        raw_value = query.encode()
        h.has_query = 1
        h.query.off = at
        h.query.len = <uint32_t>len(raw_value)
        parts.append(raw_value)
    return b"".join(parts)
