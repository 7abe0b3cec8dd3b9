"""image: builds the image that `snapshot` maps. Used by the compiler, in control only.

    builder = ImageBuilder()
    limits = builder.table([builder.limit(...), builder.limit(...)])
    builder.add_route("orders-read", slot=0, service=0, limits=limits, ...)
    fd = builder.finish(generation)              # a sealed memfd, the caller's to close

- Strings, records and tables: `records.RecordHeap`.
- `add_*` appends to one of the image's main tables and returns the index (or takes the slot).
  Equal policies of routes are in the image once.
- Only the offsets of the upstreams' targets need fixing up when the image is written.

The keyword arguments of a record are its fields; `snapshot.pxd` describes them. Numbers
that do not fit their field raise OverflowError; an image over 4 GiB raises SnapshotError.
"""
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastgate._core.reason cimport REASON_COUNT
from fastgate._core.snapshot.currency cimport currency_code
from fastgate._core.snapshot.sealing cimport write_image
from fastgate._core.snapshot.auth cimport auth_rec
from fastgate._core.snapshot.traffic cimport traffic_rec
from fastgate._core.snapshot.snapshot cimport (
    HASH_SEED, LISTENER_HSTS_PRELOAD, LISTENER_HSTS_SUBDOMAINS, ROUTE_CERTIFICATES, ROUTE_MAKES_URL, STATUS_COUNT,
    STATUS_FIRST, cors_rec, hash64, listener_rec, plan_rec, policy_rec, refusal_rec, route_rec, service_rec,
    static_rec, target_rec, upstream_rec)

NONE = 0xFFFFFFFF               # NONE32

cdef enum:
    PAYMENT_LINE = 8192

cdef const char *NOTHING = b"\0" * 64


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


cdef class ImageBuilder(RecordHeap):
    """Collects records and builds one image from them. It can be used once: `finish` ends it."""

    def __cinit__(self):
        self.handlers = []
        self.handler_index = {}
        self.policy_index = {}
        self.traffic_index = {}
        self.refusals = {}
        self.faults = []
        self.router = b""
        self.finished = False

    def __dealloc__(self):
        free(self.routes.data)
        free(self.policies.data)
        free(self.traffic.data)
        free(self.services.data)
        free(self.upstreams.data)
        free(self.targets.data)
        free(self.plans.data)
        free(self.auths.data)
        free(self.cors.data)
        free(self.statics.data)
        free(self.listeners.data)

    # ---- main tables ----------------------------------------------------------------------

    def add_route(self, name: str, *, slot, methods=0, priority=0, tokens=0, predicates=0, pattern="", params=0,
                  **policy) -> int:
        """Append a route_rec; returns its index. Tables are handles. `policy`: see `add_policy`."""
        cdef route_rec r
        cdef bytes raw = name.encode()
        memset(&r, 0, sizeof(r))
        r.name = self._string(raw)
        r.identity = _identity(raw)
        r.pattern = self._string(pattern)
        r.params = self._handle(params)
        r.tokens = self._handle(tokens)
        r.predicates = self._handle(predicates)
        r.methods = methods
        r.slot = slot
        r.priority = priority
        r.policy = self.add_policy(**policy)
        return self._append(&self.routes, &r, sizeof(r), 8) // sizeof(r)

    def add_policy(self, *, body_cap=0, service=NONE, handler=NONE, static_response=NONE, auth=NONE, cors=NONE, flags=0,
                   strip=0, timeout_ms=0, idle_ms=0, replace="", limits=0, addresses=0, request_rules=0,
                   response_rules=0, notice="", price_micros=0, price_currency="", payment_required="", host="",
                   rewrite=0, client_auth=0, traffic=NONE, validator=NONE, deadline_ms=0) -> int:
        """The index of a policy_rec; equal ones have the same index. Tables are handles.

        `client_auth`: of `ids`. `payment_required`: whole lines with their CRLF. Raises ValueError for a line over 8 KiB.
        """
        cdef policy_rec p
        memset(&p, 0, sizeof(p))
        p.body_cap = body_cap
        p.service = service
        p.handler = handler
        p.validator = validator
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
        p.traffic = traffic
        p.deadline_ms = deadline_ms
        p.client_auth = self._handle(client_auth)
        if client_auth:
            p.flags |= ROUTE_CERTIFICATES
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
        return self._shared(&self.policies, self.policy_index, &p, sizeof(p))

    def add_traffic(self, *, delay_ns=0, fault_when=0, delay_permille=0, abort_permille=0, abort_status=0,
                    maintenance_message="", maintenance_allow=0, maintenance_wait_s=0, split=0, split_by=0,
                    split_cookie=0, split_seed=0, mirror_service=NONE, mirror_share=0, mirror_host="",
                    mirror_client_host=False) -> int:
        """The index of a traffic_rec; equal ones have the same index. Tables are handles."""
        cdef traffic_rec r
        memset(&r, 0, sizeof(r))
        r.delay_ns = delay_ns
        r.fault_when = self._handle(fault_when)
        r.delay_permille = delay_permille
        r.abort_permille = abort_permille
        r.abort_status = abort_status
        r.maintenance_message = self._string(maintenance_message)
        r.maintenance_allow = self._handle(maintenance_allow)
        r.maintenance_wait_s = maintenance_wait_s
        r.split = self._handle(split)
        r.split_by = split_by
        r.split_cookie = self._handle(split_cookie)
        r.split_seed = split_seed
        r.mirror_service = mirror_service
        r.mirror_share = mirror_share
        r.mirror_host = self._string(mirror_host)
        r.mirror_client_host = 1 if mirror_client_host else 0
        return self._shared(&self.traffic, self.traffic_index, &r, sizeof(r))

    cdef bint _redirects(self, uint32_t index) noexcept:
        """Whether the static response with this index, if there is one, is a redirect."""
        cdef const static_rec *statics = <const static_rec *>self.statics.data
        return index < self.statics.size // sizeof(static_rec) and statics[index].location.count != 0

    cdef uint32_t _shared(self, growing *g, dict known, const void *p, uint64_t size) except? 0:
        """The index of a record in its table; equal records have the same index."""
        cdef bytes raw = (<const char *>p)[:size]
        found = known.get(raw)
        if found is None:
            found = known[raw] = self._append(g, p, size, 8) // size
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
                     keepalive_idle_ms=0, keepalive_max=0, max_connections=0, queue_max=0, queue_ms=0, tiers=0, eject_after=0,
                     eject_within_ms=0, eject_ms=0, eject_statuses=(), proxy_protocol=0, slow_start_ms=0, sticky=0) -> int:
        """Append an upstream_rec; returns its index. Its targets are those that are added next. `sticky`: of `sticky`."""
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
        r.queue_max = queue_max
        r.queue_ms = queue_ms
        r.tiers = tiers
        r.eject_after = eject_after
        r.eject_within_ms = eject_within_ms
        r.eject_ms = eject_ms
        _set_statuses(r.eject_statuses, eject_statuses)
        r.proxy_protocol = proxy_protocol
        r.slow_start_ms = slow_start_ms
        r.sticky = self._handle(sticky)
        return self._append(&self.upstreams, &r, sizeof(r), 8) // sizeof(r)

    def add_target(self, name: str, *, identity, slot, sockaddr: bytes, authority, weight=1, priority=0,
                   path="", host="", tls=0, pool=0, sticky="") -> int:
        """Append a target_rec to the upstream added last; returns its index.

        `sockaddr` is a packed struct sockaddr_in, _in6 or _un; empty: not resolved yet. `pool`:
        by default, the identity.
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
        r.priority = priority
        r.identity = identity
        r.pool = pool or identity
        r.tls = tls
        r.slot = slot
        r.upstream = <uint32_t>(self.upstreams.size // sizeof(upstream_rec) - 1)
        r.name = self._string(name)
        r.authority = self._string(authority)
        r.path = self._string(path)
        r.host = self._string(host)
        r.sticky = self._string(sticky)
        index = self._append(&self.targets, &r, sizeof(r), 8) // sizeof(r)
        owner.targets.count += 1
        return index

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

    def add_auth(self, *, flags, header="", query="", challenge="", methods=0, owned=0, anonymous=b"") -> int:
        """Append an auth_rec; returns its index."""
        cdef auth_rec r
        memset(&r, 0, sizeof(r))
        r.flags = flags
        r.header = self._string(header)
        r.query = self._string(query)
        r.challenge = self._string(challenge)
        r.methods = self._handle(methods)
        r.owned = self._handle(owned)
        r.anonymous = self._string(anonymous)
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

    def add_listener(self, id: int, *, flags=0, hsts_s=None, redirect_port=0, proxies=0, max_connections=0,
                     handshake_ns=0, handshake_tolerance_ns=0) -> None:
        """Append a listener_rec. `id`: keyring.listener_id of its key; `hsts_s`: the max-age of
        Strict-Transport-Security, None: it is not sent."""
        cdef listener_rec r
        memset(&r, 0, sizeof(r))
        r.id = id
        r.flags = flags
        if hsts_s is not None:
            r.hsts_s = hsts_s
            subdomains = "; includeSubDomains" if r.flags & LISTENER_HSTS_SUBDOMAINS else ""
            preload = "; preload" if r.flags & LISTENER_HSTS_PRELOAD else ""
            r.hsts = self._string(f"Strict-Transport-Security: max-age={hsts_s}{subdomains}{preload}\r\n")
        r.redirect_port = redirect_port
        r.proxies = self._handle(proxies)
        r.max_connections = max_connections
        r.handshake_ns = handshake_ns
        r.handshake_tolerance_ns = handshake_tolerance_ns
        self._append(&self.listeners, &r, sizeof(r), 8)

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
                     max_fields=0, max_field=0, handshake_ms=0, head_ms=0, body_ms=0, idle_ms=0, write_ms=0,
                     min_rate=0, max_requests=0, max_connections=0, max_upcalls=0, max_streams=0,
                     max_handshakes=0, underscores=0, loop_max=0, flags=0, hidden_params=(),
                     shed_lag_ns=0, shed_buffers=0) -> None:
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
        h.handshake_ms = handshake_ms
        h.head_ms = head_ms
        h.body_ms = body_ms
        h.idle_ms = idle_ms
        h.write_ms = write_ms
        h.min_rate = min_rate
        h.max_requests = max_requests
        h.max_connections = max_connections
        h.max_upcalls = max_upcalls
        h.max_streams = max_streams
        h.max_handshakes = max_handshakes
        h.underscores = underscores
        h.loop_max = loop_max
        h.flags = flags
        h.shed_lag_ns = shed_lag_ns
        h.shed_buffers = shed_buffers

    # ---- the end --------------------------------------------------------------------------

    def finish(self, generation: int) -> int:
        """Build the image: returns a sealed memfd, which the caller closes."""
        if self.finished:
            raise ValueError("this builder has already built its image")
        self.finished = True
        self._place_all()
        return write_image(&self.head, self.heap.data, self.heap.size, generation)

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
        h.traffic = self._place(self.traffic.data, self.traffic.size // sizeof(traffic_rec), sizeof(traffic_rec))
        h.upstreams = self._place(self.upstreams.data, self.upstreams.size // sizeof(upstream_rec), sizeof(upstream_rec))
        h.services = self._place(self.services.data, self.services.size // sizeof(service_rec), sizeof(service_rec))
        h.plans = self._place(self.plans.data, self.plans.size // sizeof(plan_rec), sizeof(plan_rec))
        h.auths = self._place(self.auths.data, self.auths.size // sizeof(auth_rec), sizeof(auth_rec))
        h.cors = self._place(self.cors.data, self.cors.size // sizeof(cors_rec), sizeof(cors_rec))
        h.statics = self._place(self.statics.data, self.statics.size // sizeof(static_rec), sizeof(static_rec))
        h.listeners = self._place(
            self.listeners.data, self.listeners.size // sizeof(listener_rec), sizeof(listener_rec))
        # Align to cache lines, so that a policy takes three of them and a route one.
        self._append(&self.heap, NOTHING, -(self.heap.size + sizeof(snapshot_header)) & 63, 1)
        h.policies = self._place(self.policies.data, self.policies.size // sizeof(policy_rec), sizeof(policy_rec))
        h.routes = self._place(self.routes.data, self.routes.size // sizeof(route_rec), sizeof(route_rec))
        h.router = self._place(<const char *>self.router, len(self.router), 1)
        return 0
