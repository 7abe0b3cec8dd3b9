"""image: builds the image that `snapshot` maps. Used by the compiler, in control only.

    builder = ImageBuilder()
    limits = builder.table([builder.limit(...), builder.limit(...)])
    builder.add_route("orders-read", slot=0, service=0, limits=limits, ...)
    fd = builder.finish(generation)              # a sealed memfd, the caller's to close

- A **string** is interned: equal strings are in the image once.
- A **record** method (`limit`, `header_rule`, ...) returns the bytes of one C struct; `table` puts
  a list of them into the image and returns its handle, an opaque number (0: the empty table).
  Equal tables are in the image once, so that 100,000 routes that share their rules also share
  them in memory. The same holds for equal policies of routes.
- `add_*` appends to one of the image's main tables and returns the index (or takes the slot).
- Strings and sub-tables go to the *heap*, which begins right after the header: their offsets
  are final when they are created, and only the targets of the upstreams need fixing up.

The keyword arguments of a record are its fields; `snapshot.pxd` describes them. Numbers
that do not fit their field raise OverflowError; an image over 4 GiB raises SnapshotError.
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, munmap

from fastgate._core.reason cimport REASON_COUNT
from fastgate._core.snapshot.currency cimport currency_code
from fastgate._core.snapshot.snapshot cimport (
    HASH_SEED, HEADER_REMOVE, HUGE, SNAPSHOT_VERSION, STATUS_COUNT, STATUS_FIRST, address_rule,
    auth_rec, checksum_without, cors_rec, hash64, header_rule, limit_rec, map_image, plan_rec,
    ROUTE_MAKES_URL, predicate, price_step, refusal_rec, route_rec, service_rec, static_rec, target_rec,
    upstream_rec, url_piece)

import fcntl
import ipaddress
import os

from fastgate.errors import SnapshotError

NONE = 0xFFFFFFFF               # NONE32

cdef enum:
    PAYMENT_LINE = 8192
    MADV_COLLAPSE = 25

cdef uint64_t LARGEST = 0xFFFFFF00
cdef const char *NOTHING = b"\0" * 64
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


cdef inline object _packed(uint32_t off, uint32_t length):
    return (<uint64_t>off << 32) | length


cdef uint64_t _identity(object name) except? 0:
    cdef bytes raw = name.encode() if isinstance(name, str) else name
    cdef uint64_t h = hash64(raw, <uint32_t>len(raw), HASH_SEED)
    return h if h else 1


cdef int _set_statuses(uint64_t *words, object statuses) except -1:
    cdef uint32_t i
    for status in statuses:
        if not STATUS_FIRST <= status < STATUS_FIRST + STATUS_COUNT:
            raise ValueError(f"{status} is not a status between 400 and 599")
        i = status - STATUS_FIRST
        words[i >> 6] |= 1ull << (i & 63)
    return 0


cdef class ImageBuilder:
    """Collects records and builds one image from them. It can be used once: `finish` ends it."""

    def __cinit__(self):
        self.interned = {}
        self.tables = {}
        self.handlers = []
        self.handler_index = {}
        self.policy_index = {}
        self.refusals = {}
        self.faults = []
        self.router = b""
        self.finished = False

    def __dealloc__(self):
        free(self.heap.data)
        free(self.routes.data)
        free(self.policies.data)
        free(self.services.data)
        free(self.upstreams.data)
        free(self.targets.data)
        free(self.plans.data)
        free(self.auths.data)
        free(self.cors.data)
        free(self.statics.data)

    cdef int _grow(self, growing *g, uint64_t more) except -1:
        cdef uint64_t wanted = g.size + more
        cdef uint64_t capacity
        if wanted <= g.capacity:
            return 0
        if wanted > LARGEST:
            raise SnapshotError("the configuration compiles to more than 4 GiB")
        capacity = max(wanted, g.capacity * 2, <uint64_t>4096)
        data = <char *>realloc(g.data, capacity)
        if data == NULL:
            raise MemoryError()
        g.data = data
        g.capacity = capacity
        return 0

    cdef uint64_t _append(self, growing *g, const void *p, uint64_t size, uint64_t align) except? 0:
        """Copy data in; returns its offset within the block."""
        cdef uint64_t at = (g.size + align - 1) & ~(align - 1)
        self._grow(g, at - g.size + size)
        memset(g.data + g.size, 0, at - g.size)
        if size:
            memcpy(g.data + at, p, size)
        g.size = at + size
        return at

    cdef str_ref _string(self, object text) except *:
        cdef str_ref r
        cdef bytes raw
        cdef uint64_t packed
        r.off = r.len = 0
        if not text:
            return r
        raw = (<str>text).encode() if isinstance(text, str) else text
        found = self.interned.get(raw)
        if found is None:
            r.len = <uint32_t>len(raw)
            r.off = <uint32_t>(
                self._append(&self.heap, <const char *>raw, r.len, 1) + sizeof(snapshot_header))
            self.interned[raw] = _packed(r.off, r.len)
            return r
        packed = found
        r.off = <uint32_t>(packed >> 32)
        r.len = <uint32_t>packed
        return r

    cdef table_ref _handle(self, object handle) except *:
        cdef table_ref t
        cdef uint64_t packed = handle
        t.off = <uint32_t>(packed >> 32)
        t.count = <uint32_t>packed
        return t

    cdef table_ref _place(self, const void *p, uint64_t count, uint64_t item) except *:
        """Move a block of records to the heap."""
        cdef table_ref t
        t.off = t.count = 0
        if count:
            t.off = <uint32_t>(
                self._append(&self.heap, p, count * item, 8) + sizeof(snapshot_header))
            t.count = <uint32_t>count
        return t

    # ---- sub-tables -----------------------------------------------------------------------

    def table(self, records: list[bytes]) -> int:
        """The handle of a table of these records, which are all of one kind."""
        if not records:
            return 0
        cdef bytes raw = b"".join(records)
        key = (raw, len(records))
        found = self.tables.get(key)
        if found is None:
            place = self._place(<const char *>raw, 1, len(raw))
            found = _packed(place.off, <uint32_t>len(records))
            self.tables[key] = found
        return found

    def strings(self, texts: list[str]) -> int:
        """The handle of a table of strings."""
        return self.table([self.string(text) for text in texts])

    def numbers(self, values: list[int]) -> int:
        """The handle of a table of 32-bit numbers."""
        cdef uint32_t n
        records = []
        for value in values:
            n = value
            records.append(<bytes>(<char *>&n)[:4])
        return self.table(records)

    def string(self, text) -> bytes:
        """The record of one string, for `table`."""
        cdef str_ref r = self._string(text)
        return (<char *>&r)[:sizeof(str_ref)]

    def limit(self, *, identity, kind, scope, amount, name, policy, interval_ns=0,
              tolerance_ns=0, window_s=0, period=0, flags=0, headers=0, override_key=0) -> bytes:
        """One limit_rec."""
        cdef limit_rec r
        memset(&r, 0, sizeof(r))
        r.identity = identity
        r.interval_ns = interval_ns
        r.tolerance_ns = tolerance_ns
        r.amount = amount
        r.window_s = window_s
        r.name = self._string(name)
        r.policy = self._string(policy)
        r.headers = self._handle(headers)
        r.override_key = override_key
        r.kind = kind
        r.scope = scope
        r.period = period
        r.flags = flags
        return (<char *>&r)[:sizeof(r)]

    def header_rule(self, name: str, value: str, action: int) -> bytes:
        """One header_rule; its line, if it has one, spells the name as given here."""
        cdef header_rule r
        memset(&r, 0, sizeof(r))
        r.name = self._string(name.lower())
        r.value = self._string(value)
        if action != HEADER_REMOVE:
            r.line = self._string(f"{name}: {value}\r\n")
        r.action = action
        return (<char *>&r)[:sizeof(r)]

    def address_rule(self, network: str, allow: bool) -> bytes:
        """One address_rule of a network or an address in any usual notation.

        Raises ValueError if it is invalid, or has bits set to the right of its prefix.
        """
        cdef address_rule r
        net = ipaddress.ip_network(network)
        raw = net.network_address.packed
        if len(raw) == 4:
            raw = b"\0" * 10 + b"\xff\xff" + raw
        memset(&r, 0, sizeof(r))
        memcpy(r.address, <const char *><bytes>raw, 16)
        r.prefix = net.prefixlen + (96 if net.version == 4 else 0)
        r.allow = 1 if allow else 0
        return (<char *>&r)[:sizeof(r)]

    def predicate(self, kind: int, name: str, value: str) -> bytes:
        """One predicate; `name` of a header in lower case."""
        cdef predicate r
        memset(&r, 0, sizeof(r))
        r.name = self._string(name)
        r.value = self._string(value)
        r.kind = kind
        return (<char *>&r)[:sizeof(r)]

    def url_piece(self, kind: int, *, text="", param=0, encode=False) -> bytes:
        """One url_piece."""
        cdef url_piece r
        memset(&r, 0, sizeof(r))
        r.text = self._string(text)
        r.kind = kind
        r.encode = 1 if encode else 0
        r.param = param
        return (<char *>&r)[:sizeof(r)]

    # ---- main tables ----------------------------------------------------------------------

    def add_route(self, name: str, *, slot, methods=0, body_cap=0, service=NONE, handler=NONE,
                  static_response=NONE, auth=NONE, cors=NONE, flags=0, priority=0, strip=0,
                  timeout_ms=0, idle_ms=0, replace="", tokens=0, limits=0, addresses=0, predicates=0,
                  request_rules=0, response_rules=0, notice="", price_micros=0, price_currency="", pattern="",
                  params=0, payment_required="", host="", rewrite=0) -> int:
        """Append a route_rec, with its policy_rec; returns its index. Tables are handles.

        `payment_required`: whole lines with their CRLF. Raises ValueError for a line over 8 KiB.
        """
        cdef route_rec r
        cdef policy_rec p
        cdef bytes raw = name.encode()
        memset(&r, 0, sizeof(r))
        memset(&p, 0, sizeof(p))
        r.name = self._string(raw)
        r.identity = _identity(raw)
        r.pattern = self._string(pattern)
        r.params = self._handle(params)
        r.tokens = self._handle(tokens)
        r.predicates = self._handle(predicates)
        r.methods = methods
        r.slot = slot
        r.priority = priority
        p.body_cap = body_cap
        p.service = service
        p.handler = handler
        p.static_response = static_response
        p.auth = auth
        p.cors = cors
        p.flags = flags
        p.strip = strip
        p.timeout_ms = timeout_ms
        p.idle_ms = idle_ms
        p.replace = self._string(replace)
        p.host = self._string(host)
        p.rewrite = self._handle(rewrite)
        if strip or replace or rewrite or self._redirects(static_response):
            p.flags |= ROUTE_MAKES_URL
        p.limits = self._handle(limits)
        p.addresses = self._handle(addresses)
        p.request_rules = self._handle(request_rules)
        p.response_rules = self._handle(response_rules)
        p.notice = self._string(notice)
        p.price_micros = price_micros
        p.price_currency = currency_code(price_currency)
        if payment_required:
            if any(len(line) > PAYMENT_LINE for line in payment_required.split("\r\n")):
                raise ValueError("a header of a 402 is over 8 KiB, which clients refuse")
            p.payment_required = self._string(payment_required)
        r.policy = self._policy(&p)
        return self._append(&self.routes, &r, sizeof(r), 8) // sizeof(r)

    cdef bint _redirects(self, uint32_t index) noexcept:
        """Whether the static response with this index, if there is one, is a redirect."""
        cdef const static_rec *statics = <const static_rec *>self.statics.data
        return index < self.statics.size // sizeof(static_rec) and statics[index].location.count != 0

    cdef uint32_t _policy(self, const policy_rec *p) except? 0:
        """The index of a policy; equal policies have the same index."""
        cdef bytes raw = (<const char *>p)[:sizeof(policy_rec)]
        found = self.policy_index.get(raw)
        if found is None:
            found = self._append(&self.policies, p, sizeof(policy_rec), 8) // sizeof(policy_rec)
            self.policy_index[raw] = found
        return found

    def add_service(self, name: str, *, slot, upstream, first_byte_ms, idle_ms, attempts=1,
                    retry_budget=0, retry_statuses=(), limits=0, plans=0, flags=0) -> int:
        """Append a service_rec; returns its index."""
        cdef service_rec r
        memset(&r, 0, sizeof(r))
        r.name = self._string(name)
        r.identity = _identity(name)
        r.slot = slot
        r.upstream = upstream
        r.first_byte_ms = first_byte_ms
        r.idle_ms = idle_ms
        r.attempts = attempts
        r.retry_budget = retry_budget
        _set_statuses(r.retry_statuses, retry_statuses)
        r.limits = self._handle(limits)
        r.plans = self._handle(plans)
        r.flags = flags
        return self._append(&self.services, &r, sizeof(r), 8) // sizeof(r)

    def add_upstream(self, name: str, *, slot, balance=0, hash_by=0, hash_header="", connect_ms=0, write_ms=0,
                     keepalive_idle_ms=0, keepalive_max=0, max_connections=0, eject_after=0,
                     eject_within_ms=0, eject_ms=0, eject_statuses=(), flags=0) -> int:
        """Append an upstream_rec; returns its index. Its targets are those that are added next."""
        cdef upstream_rec r
        memset(&r, 0, sizeof(r))
        r.name = self._string(name)
        r.identity = _identity(name)
        r.targets.off = <uint32_t>(self.targets.size // sizeof(target_rec))  # index; see finish
        r.hash_header = self._string(hash_header)
        r.slot = slot
        r.balance = balance
        r.hash_by = hash_by
        r.connect_ms = connect_ms
        r.write_ms = write_ms
        r.keepalive_idle_ms = keepalive_idle_ms
        r.keepalive_max = keepalive_max
        r.max_connections = max_connections
        r.eject_after = eject_after
        r.eject_within_ms = eject_within_ms
        r.eject_ms = eject_ms
        _set_statuses(r.eject_statuses, eject_statuses)
        r.flags = flags
        return self._append(&self.upstreams, &r, sizeof(r), 8) // sizeof(r)

    def add_target(self, name: str, *, identity, slot, sockaddr: bytes, authority, weight=1,
                   path="") -> int:
        """Append a target_rec to the upstream added last; returns its index.

        `sockaddr` is a packed struct sockaddr_in, _in6 or _un; empty: not resolved yet.
        """
        cdef target_rec r
        cdef upstream_rec *owner
        if self.upstreams.size == 0:
            raise ValueError("a target needs an upstream before it")
        if <size_t>len(sockaddr) > sizeof(r.sockaddr):
            raise ValueError("the socket address is too long")
        owner = <upstream_rec *>(self.upstreams.data + self.upstreams.size - sizeof(upstream_rec))
        memset(&r, 0, sizeof(r))
        memcpy(r.sockaddr, <const char *>sockaddr, len(sockaddr))
        r.sockaddr_len = <uint32_t>len(sockaddr)
        r.weight = weight
        r.identity = identity
        r.slot = slot
        r.upstream = <uint32_t>(self.upstreams.size // sizeof(upstream_rec) - 1)
        r.name = self._string(name)
        r.authority = self._string(authority)
        r.path = self._string(path)
        index = self._append(&self.targets, &r, sizeof(r), 8) // sizeof(r)
        owner.targets.count += 1
        return index

    def price_steps(self, steps) -> int:
        """The handle of a plan's price list: (the last request with this price, micro-units)."""
        cdef price_step step
        records = []
        for up_to, micros in steps:
            step.up_to = 0 if up_to is None else up_to
            step.micros = micros
            records.append(<bytes>(<char *>&step)[:sizeof(step)])
        return self.table(records)

    def add_plan(self, name: str, *, slot: int, limits=0, flags=0, prices=0, price_currency="",
                 price_period=0) -> None:
        """Store a plan_rec in its slot; the slots in between are holes."""
        cdef plan_rec r
        cdef uint32_t at = slot
        cdef uint64_t needed = (<uint64_t>at + 1) * sizeof(plan_rec)
        memset(&r, 0, sizeof(r))
        r.name = self._string(name)
        r.identity = _identity(name)
        r.slot = at
        r.flags = flags
        r.limits = self._handle(limits)
        r.prices = self._handle(prices)
        r.price_identity = _identity("price of plan " + name)
        r.price_currency = currency_code(price_currency)
        r.price_period = price_period
        if self.plans.size < needed:
            self._grow(&self.plans, needed - self.plans.size)
            memset(self.plans.data + self.plans.size, 0, needed - self.plans.size)
            self.plans.size = needed
        memcpy(self.plans.data + at * sizeof(plan_rec), &r, sizeof(r))

    def add_handler(self, name: str) -> int:
        """The index of a Python handler ("package.module:function")."""
        index = self.handler_index.get(name)
        if index is None:
            index = self.handler_index[name] = len(self.handlers)
            self.handlers.append(self.string(name))
        return index

    def add_auth(self, *, flags, header="", query="", challenge="") -> int:
        """Append an auth_rec; returns its index."""
        cdef auth_rec r
        memset(&r, 0, sizeof(r))
        r.flags = flags
        r.header = self._string(header)
        r.query = self._string(query)
        r.challenge = self._string(challenge)
        return self._append(&self.auths, &r, sizeof(r), 8) // sizeof(r)

    def add_cors(self, *, origins, allow_methods, allow_headers, expose_headers, max_age,
                 flags) -> int:
        """Append a cors_rec; returns its index."""
        cdef cors_rec r
        memset(&r, 0, sizeof(r))
        r.origins = self._handle(origins)
        r.allow_methods = self._string(allow_methods)
        r.allow_headers = self._string(allow_headers)
        r.expose_headers = self._string(expose_headers)
        r.max_age = max_age
        r.flags = flags
        return self._append(&self.cors, &r, sizeof(r), 8) // sizeof(r)

    def add_static(self, *, fields: bytes, body: bytes, status: int, location=0) -> int:
        """Append a static_rec; returns its index. `fields`: lines, each with its line end."""
        cdef static_rec r
        memset(&r, 0, sizeof(r))
        r.fields = self._string(fields)
        r.body = self._string(body)
        r.location = self._handle(location)
        r.status = status
        return self._append(&self.statics, &r, sizeof(r), 8) // sizeof(r)

    def set_refusal(self, reason: int, *, fields: bytes, body: bytes, status: int, close: bool,
                    html=(b"", b""), markdown=(b"", b"")) -> None:
        """Set the answer for exchanges that end for this reason. `html`, `markdown`: field
        lines and body of its other forms."""
        cdef refusal_rec r
        if not 0 < reason < REASON_COUNT:
            raise ValueError(f"there is no reason with the number {reason}")
        memset(&r, 0, sizeof(r))
        r.fields = self._string(fields)
        r.body = self._string(body)
        r.status = status
        r.close = 1 if close else 0
        r.html_fields, r.html_body = self._string(html[0]), self._string(html[1])
        r.markdown_fields, r.markdown_body = self._string(markdown[0]), self._string(markdown[1])
        self.refusals[reason] = (<char *>&r)[:sizeof(r)]

    def set_faults(self, texts: list[str]) -> None:
        """Texts for parse faults, by their number."""
        self.faults = [self.string(text) for text in texts]

    def set_capability_key(self, key: bytes) -> None:
        """Set the 16 secret bytes for the tokens in the links of refusals."""
        if len(key) != 16:
            raise ValueError(f"a capability key has 16 bytes, not {len(key)}")
        memcpy(self.head.capability_key, <const char *>key, 16)

    def set_router(self, blob: bytes) -> None:
        """Set the router's tables, as built by `router_build.RouterBuilder`."""
        self.router = blob

    def set_settings(self, *, identity, via, server, trusted_proxies=0, max_line=0, max_head=0,
                     max_fields=0, max_field=0, head_ms=0, body_ms=0, idle_ms=0, write_ms=0,
                     min_rate=0, max_requests=0, max_connections=0, max_upcalls=0, max_streams=0,
                     underscores=0, loop_max=0, flags=0, hidden_params=()) -> None:
        """Set the header's caps, timeouts and names. `hidden_params`: names in lower case."""
        cdef snapshot_header *h = &self.head
        h.identity = identity
        h.via = self._string(via)
        h.server = self._string(server)
        h.hidden_params = self._string("".join(f"{name}\0" for name in hidden_params))
        h.trusted_proxies = self._handle(trusted_proxies)
        h.max_line = max_line
        h.max_head = max_head
        h.max_fields = max_fields
        h.max_field = max_field
        h.head_ms = head_ms
        h.body_ms = body_ms
        h.idle_ms = idle_ms
        h.write_ms = write_ms
        h.min_rate = min_rate
        h.max_requests = max_requests
        h.max_connections = max_connections
        h.max_upcalls = max_upcalls
        h.max_streams = max_streams
        h.underscores = underscores
        h.loop_max = loop_max
        h.flags = flags

    # ---- the end --------------------------------------------------------------------------

    def finish(self, generation: int) -> int:
        """Build the image: returns a sealed memfd, which the caller closes."""
        if self.finished:
            raise ValueError("this builder has already built its image")
        self.finished = True
        self._place_all()
        return self._write(generation)

    cdef int _place_all(self) except -1:
        cdef snapshot_header *h = &self.head
        cdef upstream_rec *upstream
        cdef refusal_rec none
        cdef uint64_t i
        memset(&none, 0, sizeof(none))
        empty = <bytes>(<char *>&none)[:sizeof(none)]
        h.handlers = self._handle(self.table(self.handlers))
        h.faults = self._handle(self.table(self.faults))
        if self.refusals:
            h.refusals = self._handle(
                self.table([self.refusals.get(n, empty) for n in range(REASON_COUNT)]))
        h.targets = self._place(self.targets.data, self.targets.size // sizeof(target_rec), sizeof(target_rec))
        for i in range(self.upstreams.size // sizeof(upstream_rec)):
            upstream = <upstream_rec *>self.upstreams.data + i
            upstream.targets.off = h.targets.off + upstream.targets.off * <uint32_t>sizeof(target_rec)
        h.upstreams = self._place(self.upstreams.data, self.upstreams.size // sizeof(upstream_rec), sizeof(upstream_rec))
        h.services = self._place(self.services.data, self.services.size // sizeof(service_rec), sizeof(service_rec))
        h.plans = self._place(self.plans.data, self.plans.size // sizeof(plan_rec), sizeof(plan_rec))
        h.auths = self._place(self.auths.data, self.auths.size // sizeof(auth_rec), sizeof(auth_rec))
        h.cors = self._place(self.cors.data, self.cors.size // sizeof(cors_rec), sizeof(cors_rec))
        h.statics = self._place(self.statics.data, self.statics.size // sizeof(static_rec), sizeof(static_rec))
        # Align to a cache line, so that a policy takes two lines instead of three, and a route one.
        self._append(&self.heap, NOTHING, -(self.heap.size + sizeof(snapshot_header)) & 63, 1)
        h.policies = self._place(self.policies.data, self.policies.size // sizeof(policy_rec), sizeof(policy_rec))
        h.routes = self._place(self.routes.data, self.routes.size // sizeof(route_rec), sizeof(route_rec))
        h.router = self._place(<const char *>self.router, len(self.router), 1)
        return 0

    cdef int _write(self, uint64_t generation) except -1:
        cdef snapshot_header *h = &self.head
        cdef uint64_t size = (sizeof(snapshot_header) + self.heap.size + 31) & ~(<uint64_t>31)
        cdef void *at
        if size >= 2 * HUGE:
            size = (size + HUGE - 1) & ~(<uint64_t>HUGE - 1)
        if size > LARGEST:
            raise SnapshotError("the configuration compiles to more than 4 GiB")
        memcpy(h.magic, b"FGSNAP\0\0", 8)
        h.version = SNAPSHOT_VERSION
        h.size = <uint32_t>size
        h.generation = generation
        h.checksum = h.head_checksum = 0
        h.head_checksum = checksum_without(<const char *>h, sizeof(snapshot_header), False)
        fd = os.memfd_create("fastgate-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            at = map_image(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED)
            if at == MAP_FAILED:
                raise OSError("the image's memory cannot be mapped")
            memcpy(at, h, sizeof(snapshot_header))
            if self.heap.size:
                memcpy(<char *>at + sizeof(snapshot_header), self.heap.data, self.heap.size)
            (<snapshot_header *>at).checksum = checksum_without(<const char *>at, size, True)
            if size >= 2 * HUGE:
                madvise(at, size, MADV_COLLAPSE)    # best effort: older kernels do not know it
            munmap(at, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(fd)
            raise
        return fd
