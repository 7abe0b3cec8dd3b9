"""router: host, path, method, predicates → route. Flattened into the snapshot's image."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastgate._core.http.head cimport head, span
from fastgate._core.snapshot.snapshot cimport Snapshot, snapshot_header

cdef enum:
    MAX_PARAMS = 16
    MAX_SEGMENTS = 128        # of a pattern
    MAX_DEPTH = 31            # segments of a prefix that is hashed; deeper segments are in its trie
    MAX_VISITS = 4096         # trie nodes that one lookup may visit at most; checked when the tables are built
    ROUTE_FOUND = 1
    ROUTE_MISSING = 0         # 404
    ROUTE_METHOD = -1         # 405: out.allowed is set

cdef struct route_match:
    uint32_t route            # index into the snapshot's routes
    uint32_t nparams
    uint32_t policy           # of the route: index into the snapshot's policies; for 405: of the first such route
    uint32_t slot             # of the route: its metrics row
    uint64_t allowed          # for 405: bits (1 << Method) of all routes of this host and path
    uint32_t token_route      # for 405: a route whose `tokens` are also allowed, or NONE32
    uint32_t reserved
    span params[MAX_PARAMS]   # within `path`, in the order of the pattern

cdef struct probing:          # a key in a slot table
    uint64_t key
    uint32_t entry            # the first that may be the key's; 0: none
    uint32_t next             # slot to continue from

cdef struct route_keys:       # where a path's entries are in the tables, for one host
    uint64_t generation       # of the snapshot that they belong to; 0: none
    uint32_t fetched          # the entries are being fetched: `route_find` can continue from here
    uint32_t reserved
    probing whole             # the path as a static one
    uint32_t statics          # 0: no static path is that long
    uint32_t depth            # how many segments ends and prefixes cover
    uint32_t ends[MAX_DEPTH]  # where the path's first d + 1 segments end, and these as a prefix,
    probing prefixes[MAX_DEPTH]   # if the host has prefixes of that length

cdef void route_ahead(const snapshot_header *s, const char *path, uint32_t path_len,
                      route_keys *keys) noexcept nogil
    # A lookup's first wait for memory, started when only the path is known. path: canonical.
cdef void route_nearer(const snapshot_header *s, route_keys *keys) noexcept nogil
    # The second wait, some hundred instructions later. Both help if there are many routes, and if a
    # path's host makes no difference; a lookup works without them.
cdef int route_find(const snapshot_header *s,
                    const char *host, uint32_t host_len,
                    const char *path, uint32_t path_len,
                    const char *buf, const head *h,
                    const route_keys *ahead, route_match *out) noexcept nogil
    # host: as sent, any case, without port. path: canonical. buf, h: the parsed request
    # (method, fields and query for predicates). ahead: of this path, by route_ahead, or NULL.
    # For a CORS preflight, call it with method_id and method of the announced request.

# ---- the tables, as `router_build` writes them; offsets in bytes from router_head ---------
cdef enum:
    ROUTER_HOSTS = 1          # router_head.flags: there are exact hosts
    ROUTER_WILDCARDS = 2
    CANDIDATE_PREDICATES = 1
    CANDIDATE_TOKENS = 2
    SEED_HOST = 1
    SEED_WILDCARD = 2
    SEED_SEGMENT = 3
    SEED_PATH = 4
    SEED_PREFIX = 5

# A slot has 8 bits of a key and 24 bits of its entry's position, in steps of ENTRY bytes. This is small
# enough for the slots of 100,000 routes to fit into a processor's second-level cache.
cdef enum:
    ENTRY = 16

cdef struct slot_table:       # open addressing, linear probing, at most two thirds full
    uint32_t off              # of its slots, 4 bytes each; a slot of 0 is empty
    uint32_t count

cdef inline uint32_t slot_of(uint64_t key, uint32_t count) noexcept nogil:
    # where to start
    return <uint32_t>(<uint64_t><uint32_t>key * count >> 32)

cdef inline uint32_t slot_tag(uint64_t key) noexcept nogil:
    return <uint32_t>(key >> 56)

cdef struct router_head:
    uint32_t flags
    slot_table hosts          # of host_rec, by key
    slot_table statics        # of static_path, by path and host
    slot_table prefixes       # of prefix_rec, by prefix and host
    uint32_t longest          # static path, bytes
    uint32_t longest_prefix
    uint32_t any              # host_rec of the routes without hosts; 0: none
    uint32_t shortest_suffix  # of a wildcard, with its dot
    uint32_t longest_suffix

cdef struct host_rec:         # key follows
    uint32_t id
    uint32_t trie             # node of the patterns that begin with a parameter; 0: none
    uint32_t statics          # how many static paths it has
    uint32_t depths           # bit d: it has prefixes of d + 1 segments
    uint16_t key_len
    uint16_t wildcard         # the key is ".example.com"

cdef struct candidate:
    uint32_t route
    uint32_t policy           # the route's own; repeated here so that a request need not read its record
    uint32_t slot
    uint16_t methods          # bits (1 << Method); bit METHOD_OTHER: every other token
    uint16_t flags            # CANDIDATE_*

cdef struct leaf:             # candidates follow, in the order of precedence
    uint32_t count

cdef struct static_path:      # candidates follow, then the path's bytes
    uint32_t host
    uint32_t path_len
    uint32_t count

cdef struct prefix_rec:       # the prefix's bytes follow ("/v1/orders"), then, 4-byte aligned, its node
    uint32_t host
    uint32_t length

cdef struct node:             # label follows
    uint16_t label_len        # literal segments, joined by "/"; no "/" at either end
    uint16_t reserved
    uint32_t leaf             # a pattern ends here
    uint32_t rest             # leaf of a final {rest*}
    uint32_t param            # node below a {param}
    slot_table kids           # of literal children, by first segment; count 0: off is the only child

cdef inline uint64_t path_key(uint64_t path_hash, uint32_t host) noexcept nogil:
    # of a static path: its hash, distinguished by host
    cdef uint64_t h = path_hash + <uint64_t>host * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 31)

cdef inline uint32_t node_of(uint32_t prefix, uint32_t length) noexcept nogil:
    # where the node of the prefix_rec at `prefix` is
    return (prefix + <uint32_t>sizeof(prefix_rec) + length + 3) & ~<uint32_t>3

cdef class Router:
    cdef readonly Snapshot snapshot
    cdef bint ahead
