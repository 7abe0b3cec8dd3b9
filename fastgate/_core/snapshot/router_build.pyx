"""router_build: builds the tables that `router` reads, and checks them.

    builder = RouterBuilder()
    builder.add(index, name, hosts=[...], pattern="/orders/{id}", methods=mask, ...)
    blob = builder.build(image)

`add` keeps patterns in Python objects: a dict of static paths, and for each host a tree of
segments for the patterns with parameters. `build` ranks the routes of each pattern, finds
conflicts, cuts the tree at its first parameters (the way there becomes a prefix), and
writes each piece depth first into one block, so that what a lookup reads next follows what it
has just read. The structs are in `router.pxd`, the drawing in `router.pyx`.

Two routes are in **conflict** if only their names could decide which of them takes a request: same
host, equivalent pattern (names of parameters do not count), same predicates, same priority, and
overlapping methods (or both take any method). `build` raises `RouteConflict`.
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastgate._core.http.head cimport METHOD_CONNECT
from fastgate._core.snapshot.image cimport ImageBuilder
from fastgate._core.snapshot.router cimport (
    CANDIDATE_PREDICATES, CANDIDATE_TOKENS, ENTRY, MAX_DEPTH, MAX_PARAMS, MAX_SEGMENTS, MAX_VISITS,
    ROUTER_HOSTS, ROUTER_WILDCARDS, SEED_HOST, SEED_PATH, SEED_PREFIX, SEED_SEGMENT, SEED_WILDCARD,
    candidate, host_rec, leaf, node, node_of, path_key, prefix_rec, slot_of, slot_tag, static_path)
from fastgate._core.snapshot.snapshot cimport Snapshot, hash64, snap_route, snapshot_header

from fastgate.errors import SnapshotError

cdef enum:
    TABLES_MAX = ENTRY << 24      # bytes

METHOD_NUMBERS = {
    "GET": 1, "HEAD": 2, "POST": 3, "PUT": 4, "DELETE": 5, "CONNECT": 6, "OPTIONS": 7,
    "TRACE": 8, "PATCH": 9,
}
ANY_METHOD = 0x3FF & ~(1 << METHOD_CONNECT)


class RouteConflict(ValueError):
    """Two routes that differ only in their names: `first` and `second`, in the order of adding."""

    def __init__(self, first: int, second: int, host: str, pattern: str) -> None:
        super().__init__(f"routes {first} and {second} both answer {host or 'any host'} {pattern}")
        self.first = first
        self.second = second
        self.host = host
        self.pattern = pattern


class TrieTooBroad(ValueError):
    """The patterns of one host allow a lookup that visits too many nodes."""

    def __init__(self, host: str, visits: int) -> None:
        super().__init__(
            f"the patterns of {host or 'any host'} can send one lookup through {visits} nodes, "
            f"more than {MAX_VISITS}")
        self.host = host
        self.visits = visits


def method_mask(methods: list[str]) -> tuple[int, tuple[str, ...]]:
    """Bits of the methods that have a number, and the tokens that have none; no methods: any."""
    if not methods:
        return ANY_METHOD, ()
    mask = 0
    tokens = ()
    for method in methods:
        number = METHOD_NUMBERS.get(method)
        if number is None:
            tokens += (method,)
        else:
            mask |= 1 << number
    return mask, tokens


def pattern_params(pattern: str) -> list[str]:
    """Names of a pattern's parameters, in order; raises ValueError if the pattern is invalid."""
    if "{" not in pattern and "}" not in pattern:
        return []
    names = []
    segments = pattern.split("/")[1:]
    for i, segment in enumerate(segments):
        if "{" not in segment and "}" not in segment:
            continue
        inner = segment.removeprefix("{").removesuffix("}")
        if segment != "{%s}" % inner or "{" in inner or "}" in inner or not inner.rstrip("*"):
            raise ValueError(
                f"{pattern!r}: a parameter is a whole segment; {segment!r} is not one")
        if inner.endswith("*"):
            if i != len(segments) - 1:
                raise ValueError(f"{pattern!r}: {segment!r} takes all the rest and must be last")
            inner = inner.removesuffix("*")
        names.append(inner)
    return names


cdef class _Tree:
    """A segment of the patterns of one host, while they are collected."""


cdef class _Host:
    """The patterns of one host, while they are collected."""


cdef object _with(object entries, uint32_t index):
    """Add a route to those that share a pattern; mostly there is only one."""
    if entries is None:
        return index
    if isinstance(entries, list):
        entries.append(index)
        return entries
    return [entries, index]


cdef class RouterBuilder:
    """Collects routes and builds the router's tables from them."""

    def __init__(self):
        self.names = []
        self.tokens = []
        self.hosts = {}
        self.statics = {}

    def __dealloc__(self):
        free(self.infos)
        free(self.out)

    def add(self, route: int, name: str, *, hosts: list[str], pattern: str, methods: int,
            tokens: tuple[str, ...] = (), ranking: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
        """Add a route.

        `hosts`: lower-case, exact or "*.example.com"; empty: any. `pattern`: canonical path with
        `{param}` segments and a final `{rest*}`. `methods`: bits, as `method_mask` returns them.
        `ranking`: priority, number of predicates, handle of the table of predicates, and which
        parameters have a pattern: the first one is the highest of 16 bits.
        The pattern is trusted here; `pattern_params` validates one.
        """
        cdef uint32_t index = self._remember(route, name, methods, tokens, ranking)
        cdef _Host host
        cdef bytes raw
        if not pattern.startswith("/"):
            raise ValueError(f"{pattern!r} does not begin with '/'")
        raw = pattern.encode()
        literal = b"{" not in raw and b"}" not in raw
        if not literal and raw.count(b"{") > MAX_PARAMS:
            raise ValueError(f"{pattern!r} has more than {MAX_PARAMS} parameters")
        for key in hosts or ("",):
            host = self.hosts.get(key)
            if host is None:
                host = _Host()
                host.id = <uint32_t>len(self.hosts) + 1
                self.hosts[key] = host
            if literal:
                place = (host.id, raw)
                entries = self.statics.get(place)
                if entries is None:
                    host.statics += 1
                self.statics[place] = _with(entries, index)
            else:
                self._grow_tree(host, raw, index)

    cdef uint32_t _remember(self, uint32_t route, str name, object methods, tuple tokens,
                            object ranking) except? 0xFFFFFFFF:
        cdef info *i
        if self.count == self.capacity:
            capacity = max(64, self.capacity * 2)
            data = <info *>realloc(self.infos, capacity * sizeof(info))
            if data == NULL:
                raise MemoryError()
            self.infos = data
            self.capacity = capacity
        i = &self.infos[self.count]
        i.route = route
        i.methods = methods
        i.priority, i.npredicates, i.predicates, i.patterned = ranking
        i.flags = (CANDIDATE_TOKENS if tokens else 0) | (CANDIDATE_PREDICATES if ranking[1] else 0)
        self.names.append(name)
        self.tokens.append(tokens)
        self.count += 1
        return self.count - 1

    def _grow_tree(self, _Host host, bytes pattern, uint32_t index):
        cdef _Tree at, child
        segments = pattern[1:].split(b"/")
        if len(segments) > MAX_SEGMENTS:
            raise ValueError(f"{pattern.decode()!r} has more than {MAX_SEGMENTS} segments")
        if host.tree is None:
            host.tree = _Tree()
        at = host.tree
        for segment in segments:
            if segment.endswith(b"*}"):
                at.rest = _with(at.rest, index)
                return
            if segment.startswith(b"{"):
                if at.param is None:
                    at.param = _Tree()
                at = at.param
                continue
            if at.kids is None:
                at.kids = {}
            child = at.kids.get(segment)
            if child is None:
                child = at.kids[segment] = _Tree()
            at = child
        at.leaf = _with(at.leaf, index)

    # ---- ranks and conflicts --------------------------------------------------------------

    cdef list _ranked(self, object entries, str pattern):
        """The routes of one pattern in the order of precedence."""
        if not isinstance(entries, list):
            return [entries]
        ranks = []
        groups = {}
        for index in entries:
            i = &self.infos[<uint32_t>index]
            any_method = i.methods == ANY_METHOD
            ranks.append((
                -<int64_t>i.patterned, -i.priority, any_method, -<int64_t>i.npredicates, self.names[index], index))
            group = groups.setdefault((i.priority, any_method, i.predicates), [])
            taken = {*self.tokens[index], *[m for m in range(10) if i.methods >> m & 1]}
            for other, methods in group:
                if not methods.isdisjoint(taken):
                    raise RouteConflict(
                        self.infos[<uint32_t>other].route, i.route, self.host_now, pattern)
            group.append((index, taken))
        ranks.sort()
        return [rank[5] for rank in ranks]

    # ---- writing --------------------------------------------------------------------------

    cdef uint32_t _space(self, uint64_t size, uint64_t step=4) except? 0:
        """Allocate `size` bytes, zeroed, at a multiple of `step` (ENTRY: slots can refer to it)."""
        cdef uint64_t at = (self.size + step - 1) & ~(step - 1)
        cdef uint64_t end = at + size
        if end > TABLES_MAX:
            raise SnapshotError(
                f"the router's tables are larger than {TABLES_MAX >> 20} MiB: split the routes over"
                " several gateways")
        if end > self.room:
            room = max(end + 4096, self.room * 2)
            data = <char *>realloc(self.out, room)
            if data == NULL:
                raise MemoryError()
            self.out = data
            self.room = room
        memset(self.out + self.size, 0, end - self.size)
        self.size = end
        return <uint32_t>at

    cdef int _bytes(self, uint32_t at, bytes raw) except -1:
        memcpy(self.out + at, <const char *>raw, len(raw))
        return 0

    cdef int _candidates(self, uint32_t at, list entries) except -1:
        cdef candidate *c = <candidate *>(self.out + at)
        cdef info *i
        for index in entries:
            i = &self.infos[<uint32_t>index]
            c.route = i.route
            c.policy = self.routes[i.route].policy
            c.slot = self.routes[i.route].slot
            c.methods = i.methods
            c.flags = i.flags
            c += 1
        return 0

    cdef uint32_t _leaf(self, object entries, str pattern) except 0:
        cdef list ranked = self._ranked(entries, pattern)
        cdef uint32_t at = self._space(sizeof(leaf) + len(ranked) * sizeof(candidate))
        (<leaf *>(self.out + at)).count = <uint32_t>len(ranked)
        self._candidates(at + sizeof(leaf), ranked)
        return at

    cdef int _slots(self, object entries, slot_table *t) except -1:
        """An empty slot table for this many entries, at most two thirds full."""
        cdef uint64_t count = <uint64_t>len(entries)
        t.count = <uint32_t>(count + count // 2 + 1)
        t.off = self._space(t.count * sizeof(uint32_t))
        return 0

    cdef int _put(self, const slot_table *t, uint64_t key, uint32_t entry) except -1:
        cdef uint32_t *slots = <uint32_t *>(self.out + t.off)
        cdef uint32_t i = slot_of(key, t.count)
        while slots[i]:
            i = i + 1 if i + 1 < t.count else 0
        slots[i] = slot_tag(key) << 24 | entry // ENTRY
        return 0

    cdef uint32_t _node(self, object tree, bytes label, str pattern, uint64_t *worst) except 0:
        """Write a node and everything below it. `worst`: the most nodes that a lookup can visit here.

        `label` is None if no literal leads to the node: at the root, below a parameter.
        """
        cdef _Tree t = tree
        cdef _Tree child
        cdef slot_table table
        cdef uint32_t at, off
        cdef uint64_t below = 0, most = 0
        # A chain of literal segments with nothing else at them becomes one node.
        while label is not None and t.kids is not None and len(t.kids) == 1 \
                and t.param is None and t.leaf is None and t.rest is None:
            for segment, child in t.kids.items():
                break
            if len(label) + len(segment) >= 0xFFFF:
                break
            label = label + b"/" + segment
            pattern = f"{pattern}/{segment.decode()}"
            t = child
        at = self._space(sizeof(node)) if label is None else \
            self._space(sizeof(node) + len(label), ENTRY)
        label = label or b""
        (<node *>(self.out + at)).label_len = <uint16_t>len(label)
        self._bytes(at + sizeof(node), label)
        worst[0] = 1
        if t.leaf is not None:
            off = self._leaf(t.leaf, pattern)
            (<node *>(self.out + at)).leaf = off
        if t.rest is not None:
            off = self._leaf(t.rest, pattern + "/{rest*}")
            (<node *>(self.out + at)).rest = off
        if t.param is not None:
            off = self._node(t.param, None, pattern + "/{param}", &below)
            (<node *>(self.out + at)).param = off
            worst[0] += below
        if t.kids is None:
            return at
        if len(t.kids) == 1:
            for segment, child in t.kids.items():
                off = self._node(child, segment, f"{pattern}/{segment.decode()}", &most)
                (<node *>(self.out + at)).kids.off = off
        else:
            self._slots(t.kids, &table)
            (<node *>(self.out + at)).kids = table
            for segment, child in t.kids.items():
                off = self._node(child, segment, f"{pattern}/{segment.decode()}", &below)
                most = max(most, below)
                self._put(&table, hash64(segment, <uint32_t>len(segment), SEED_SEGMENT), off)
        worst[0] += most
        return at

    def build(self, ImageBuilder image not None) -> bytes:
        """The tables for the routes as they are in this image.

        Raises RouteConflict, TrieTooBroad, SnapshotError (over 256 MiB), ValueError for a route that
        is not in the image.
        """
        cdef router_head r
        cdef uint32_t off, index
        cdef uint64_t worst = 0
        cdef _Host host
        for index in range(self.count):
            if self.infos[index].route >= image.routes.size // sizeof(route_rec):
                raise ValueError(f"the image has no route {self.infos[index].route}")
        self.routes = <const route_rec *>image.routes.data
        memset(&r, 0, sizeof(r))
        self.size = 0
        self._space(sizeof(router_head))
        named = [key for key in self.hosts if key]
        self._slots(self.statics, &r.statics)
        if named:
            self._slots(named, &r.hosts)
        found = []
        for key, host in self.hosts.items():
            self.host_now = key
            off = self._host(key, host, &r, found)
            if not key:
                r.any = off
        self._slots(found, &r.prefixes)
        for h, off, length in found:
            self._put(&r.prefixes, h, off)
            r.longest_prefix = max(r.longest_prefix, <uint32_t>length)
        hosts_by_id = list(self.hosts)
        for (host_id, path), entries in self.statics.items():
            self.host_now = hosts_by_id[host_id - 1]
            self._put(&r.statics,
                      path_key(hash64(path, <uint32_t>len(path), SEED_PATH), host_id),
                      self._static(host_id, path, entries))
            r.longest = max(r.longest, <uint32_t>len(path))
        memcpy(self.out, &r, sizeof(r))
        return self.out[:self.size]

    cdef uint32_t _host(self, str key, _Host host, router_head *r, list found) except 0:
        cdef bint wildcard = key.startswith("*.")
        cdef bytes raw = (key[1:] if wildcard else key).encode()
        cdef uint32_t off = self._space(sizeof(host_rec) + len(raw), ENTRY)
        cdef uint64_t worst
        cdef host_rec *h = <host_rec *>(self.out + off)
        h.id = host.id
        h.statics = host.statics
        h.key_len = <uint16_t>len(raw)
        h.wildcard = wildcard
        self._bytes(off + sizeof(host_rec), raw)
        if host.tree is not None:
            self.trie_now = self.depths_now = 0
            worst = self._prefix(host, host.tree, b"", found)
            (<host_rec *>(self.out + off)).trie = self.trie_now
            (<host_rec *>(self.out + off)).depths = self.depths_now
            if worst > MAX_VISITS:
                raise TrieTooBroad(key, worst)
        if not key:
            return off
        if wildcard:
            r.flags |= ROUTER_WILDCARDS
            r.longest_suffix = max(r.longest_suffix, <uint32_t>len(raw))
            r.shortest_suffix = min(r.shortest_suffix or 0xFFFF, <uint32_t>len(raw))
        else:
            r.flags |= ROUTER_HOSTS
        self._put(&r.hosts,
                  hash64(raw, <uint32_t>len(raw), SEED_WILDCARD if wildcard else SEED_HOST), off)
        return off

    cdef uint64_t _prefix(self, _Host host, _Tree tree, bytes path, list found) except? 0:
        """Write the patterns whose literal prefix is `path` or longer; returns how many nodes a lookup can
        visit there at most. `found` gets (hash, offset, length) of each prefix."""
        cdef uint32_t depth = path.count(b"/"), at
        cdef uint64_t own = 0, most = 0
        cdef bint last = depth == MAX_DEPTH
        cdef _Tree bare
        if tree.param is not None or tree.rest is not None or (last and tree.kids is not None):
            bare = _Tree()
            bare.param, bare.rest, bare.kids = tree.param, tree.rest, tree.kids if last else None
            if depth == 0:
                self.trie_now = self._node(bare, None, "", &own)
            else:
                at = self._space(sizeof(prefix_rec) + len(path), ENTRY)
                (<prefix_rec *>(self.out + at)).host = host.id
                (<prefix_rec *>(self.out + at)).length = <uint32_t>len(path)
                self._bytes(at + sizeof(prefix_rec), path)
                self._node(bare, None, path.decode(), &own)
                self.depths_now |= <uint32_t>1 << (depth - 1)
                h = path_key(hash64(path, <uint32_t>len(path), SEED_PREFIX), host.id)
                found.append((h, at, len(path)))
        if tree.kids is not None and not last:
            for segment, child in tree.kids.items():
                most = max(most, self._prefix(host, child, path + b"/" + <bytes>segment, found))
        return own + most

    cdef uint32_t _static(self, uint32_t host, bytes path, object entries) except 0:
        cdef list ranked = self._ranked(entries, path.decode() if isinstance(entries, list) else "")
        cdef uint64_t rows = len(ranked) * sizeof(candidate)
        cdef uint32_t off = self._space(sizeof(static_path) + rows + len(path), ENTRY)
        cdef static_path *p = <static_path *>(self.out + off)
        p.host = host
        p.path_len = <uint32_t>len(path)
        p.count = <uint32_t>len(ranked)
        self._candidates(off + sizeof(static_path), ranked)
        self._bytes(<uint32_t>(off + sizeof(static_path) + rows), path)
        return off


# ---- checking the tables: control, once per image ------------------------------------------

cdef bint leaf_out(const snapshot_header *s, const char *base, uint32_t at) noexcept nogil:
    cdef uint64_t size = s.router.count
    cdef const leaf *l = <const leaf *>(base + at)
    if at & 3 or at + sizeof(leaf) > size:
        return True
    if at + sizeof(leaf) + <uint64_t>l.count * sizeof(candidate) > size:
        return True
    return candidates_out(s, <const candidate *>(l + 1), l.count)


cdef bint candidates_out(const snapshot_header *s, const candidate *c, uint32_t count) noexcept nogil:
    cdef uint32_t i
    cdef const route_rec *r
    for i in range(count):
        if c[i].route >= s.routes.count:
            return True
        r = snap_route(s, c[i].route)
        if c[i].policy != r.policy or c[i].slot != r.slot:
            return True
    return count == 0


cdef bint slots_out(uint64_t size, const slot_table *t) noexcept nogil:
    return t.off & 3 or t.count == 0 or t.off + <uint64_t>t.count * sizeof(uint32_t) > size


cdef inline uint32_t entry_at(const char *base, const slot_table *t, uint32_t i) noexcept nogil:
    """0: the slot is empty. A slot that is not empty, but has the offset 0, gives an offset that no entry has."""
    cdef uint32_t found = (<const uint32_t *>(base + t.off))[i]
    return (found & 0xFFFFFF) * ENTRY if found == 0 or found & 0xFFFFFF else <uint32_t>TABLES_MAX


cdef bint node_out(const snapshot_header *s, const char *base, uint32_t at, uint32_t depth,
                   uint32_t nparams) noexcept nogil:
    """Offsets grow from a node to the nodes below it, so that no walk can be circular."""
    cdef uint64_t size = s.router.count
    cdef const node *n = <const node *>(base + at)
    cdef uint32_t i, below, empty = 0
    if at & 3 or at + sizeof(node) > size or at + sizeof(node) + n.label_len > size:
        return True
    if depth > MAX_SEGMENTS + 1 or nparams > MAX_PARAMS or (n.rest and nparams == MAX_PARAMS):
        return True
    if (n.leaf and leaf_out(s, base, n.leaf)) or (n.rest and leaf_out(s, base, n.rest)):
        return True
    if n.param and (n.param <= at or node_out(s, base, n.param, depth + 1, nparams + 1)):
        return True
    if not n.kids.off:
        return False
    if n.kids.off <= at:
        return True
    if n.kids.count == 0:
        return node_out(s, base, n.kids.off, depth + 1, nparams)
    if slots_out(size, &n.kids):
        return True
    for i in range(n.kids.count):
        below = entry_at(base, &n.kids, i)
        if below == 0:
            empty += 1
        elif below <= at or node_out(s, base, below, depth + 1, nparams):
            return True
    return empty == 0                   # probing ends at an empty slot


cdef bint host_out(const snapshot_header *s, const char *base, uint32_t at) noexcept nogil:
    cdef const host_rec *h = <const host_rec *>(base + at)
    if at & 3 or at + sizeof(host_rec) > s.router.count:
        return True
    if at + sizeof(host_rec) + h.key_len > s.router.count:
        return True
    return h.trie != 0 and node_out(s, base, h.trie, 0, 0)


cdef bint prefix_out(const snapshot_header *s, const char *base, uint32_t at) noexcept nogil:
    cdef const prefix_rec *p = <const prefix_rec *>(base + at)
    cdef uint64_t size = s.router.count
    if at & 3 or at + sizeof(prefix_rec) > size or at + sizeof(prefix_rec) + <uint64_t>p.length > size:
        return True
    return node_out(s, base, node_of(at, p.length), 0, 0)


cdef bint static_out(const snapshot_header *s, const char *base, uint32_t at) noexcept nogil:
    cdef const static_path *p = <const static_path *>(base + at)
    cdef uint64_t size = s.router.count
    if at & 3 or at + sizeof(static_path) > size:
        return True
    if at + sizeof(static_path) + <uint64_t>p.count * sizeof(candidate) + p.path_len > size:
        return True
    return candidates_out(s, <const candidate *>(p + 1), p.count)


ctypedef bint (*entry_out)(const snapshot_header *s, const char *base, uint32_t at) noexcept nogil

cdef enum:
    ALL_RIGHT = -1
    TABLE_OUT = -2


cdef int64_t table_wrong(const snapshot_header *s, const slot_table *t, entry_out out) noexcept nogil:
    """The first slot of a table whose entry is out of bounds, TABLE_OUT (a lookup needs an empty slot to
    end at), or ALL_RIGHT."""
    cdef const char *base = <const char *>s + s.router.off
    cdef uint32_t i, at, empty = 0
    if slots_out(s.router.count, t):
        return TABLE_OUT
    for i in range(t.count):
        at = entry_at(base, t, i)
        if at == 0:
            empty += 1
        elif out(s, base, at):
            return i
    return ALL_RIGHT if empty else TABLE_OUT


cdef str router_wrong(const snapshot_header *s):
    cdef const char *base = <const char *>s + s.router.off
    cdef const router_head *r = <const router_head *>base
    cdef int64_t at
    if s.router.count == 0:
        return None
    if s.router.count < sizeof(router_head):
        return "the head"
    if r.flags & (ROUTER_HOSTS | ROUTER_WILDCARDS):
        at = table_wrong(s, &r.hosts, host_out)
        if at != ALL_RIGHT:
            return "the table of hosts" if at == TABLE_OUT else f"host {at}"
    at = table_wrong(s, &r.statics, static_out)
    if at != ALL_RIGHT:
        return "the table of static paths" if at == TABLE_OUT else f"static path {at}"
    at = table_wrong(s, &r.prefixes, prefix_out)
    if at != ALL_RIGHT:
        return "the table of prefixes" if at == TABLE_OUT else f"prefix {at}"
    if r.any and host_out(s, base, r.any):
        return "the routes of any host"
    return None


def verify_router(Snapshot snapshot not None) -> None:
    """Check that nothing in the router's tables refers to anything outside them. Raises SnapshotError."""
    wrong = router_wrong(snapshot.header)
    if wrong is not None:
        raise SnapshotError(f"the router's tables refer outside themselves: {wrong}")


