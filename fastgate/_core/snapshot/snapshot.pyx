"""snapshot: mapping, checking and reading the image that workers serve from.

    ┌─────────────────┬──────────────────────────────┬───────────────┬──────────┬────────┬────────┐
    │ snapshot_header │ heap: strings and sub-tables │ services, ... │ policies │ routes │ router │
    └─────────────────┴──────────────────────────────┴───────────────┴──────────┴────────┴────────┘
    0                 sizeof(header)                                                   size (× 32)

How an image is verified, and what that costs:

- `image.ImageBuilder` writes it into a memfd and seals that against writing, growing and
  shrinking. From then on nobody can change a byte of it, not even the process that wrote it.
- Control maps the sealed image once with `verify=True`, which checks the checksum of the whole. Then
  `bounds.verify_records` checks every string, sub-table and index in every record, and
  `router_build.verify_router` the router's tables. Tens of milliseconds at 100,000 routes, outside the
  workers.
- A worker asks the kernel whether the image is sealed, and checks magic, version, size, the
  checksum of the header and that every table is within the image. The time does not depend on the
  number of routes: microseconds. Workers also check the whole checksum of images up to 2 MiB, which
  costs next to nothing. Pages are faulted in as requests touch them.

Large images are in huge pages if the kernel provides them (Linux 6.1 and later, on request, whatever
its settings): on random paths among 100,000 routes every request would otherwise also wait for page
tables, and behind a hypervisor for two levels of them. For that, their size is a multiple of a huge
page, and they are mapped at such an address.

Invariants: nothing in the image is a pointer, so it may be mapped anywhere, and twice. The
mapping is read-only and private (older kernels refuse a shared mapping of a sealed file, and both
share the same page-cache pages). It lives exactly as long as its `Snapshot`.
"""
from libc.string cimport memcmp, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, PROT_NONE, PROT_READ, mmap, munmap
from posix.unistd cimport close

from fastgate._core.reason cimport REASON_COUNT
from fastgate._core.snapshot.traffic cimport split_rec

import fcntl
import os

from fastgate.errors import SnapshotError

cdef enum:
    CHECK_WHOLE = 2 << 20         # images up to this size are checksummed whole by every reader
    IMAGE_ALIGN = 32              # of the image's size: the checksum reads four words at a time

cdef struct header_block:         # the header, padded so that the checksum may run past its end
    snapshot_header head
    uint64_t padding[4]

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK

HEADER_SIZE = sizeof(snapshot_header)
ROUTE_SIZE = sizeof(route_rec)


def stable_hash(data: bytes | str) -> int:
    """The 64-bit hash that identifies names in shared memory and over restarts; never 0.

    The same for the same bytes on every machine, in every version. Not for secrets.
    """
    cdef bytes raw = data.encode() if isinstance(data, str) else data
    cdef uint64_t h = hash64(raw, <uint32_t>len(raw), HASH_SEED)
    return h if h else 1


cdef void *map_image(int fd, uint64_t size, int prot, int flags) noexcept:
    cdef char *room
    cdef char *start
    cdef void *at
    if size % HUGE:
        return mmap(NULL, size, prot, flags, fd, 0)
    # We choose the address: reserve more room than needed, and release what is around it.
    room = <char *>mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if room == MAP_FAILED:
        return room
    start = <char *>((<uint64_t>room + HUGE - 1) & ~(<uint64_t>HUGE - 1))
    at = mmap(start, size, prot, flags | MAP_FIXED, fd, 0)
    if at == MAP_FAILED:
        munmap(room, size + HUGE)
        return at
    if start != room:
        munmap(room, start - room)
    munmap(start + size, room + HUGE - start)
    return at


cdef uint64_t image_checksum(const char *base, uint64_t size) noexcept nogil:
    # Four independent lanes, so that the multiplications overlap: it runs at memory speed.
    cdef const uint64_t *p = <const uint64_t *>base
    cdef const uint64_t *end = p + (size >> 3)
    cdef uint64_t k = <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t a = size, b = k, c = ~k, d = <uint64_t>0xC2B2AE3D27D4EB4F
    while p < end:
        a = (a ^ p[0]) * k
        b = (b ^ p[1]) * k
        c = (c ^ p[2]) * k
        d = (d ^ p[3]) * k
        a ^= a >> 31
        b ^= b >> 31
        c ^= c >> 31
        d ^= d >> 31
        p += 4
    a = (a ^ (b >> 29) ^ (c << 17) ^ b) * k
    a = (a ^ (d >> 31) ^ c ^ (d << 23)) * k
    return a ^ (a >> 32)


cdef uint64_t checksum_without(const char *base, uint64_t size, bint whole) noexcept nogil:
    """The checksum of header or image, computed as if the checksum words were zero."""
    cdef header_block block
    cdef uint64_t rest, first
    memset(&block, 0, sizeof(header_block))
    memcpy(&block, base, sizeof(snapshot_header))
    block.head.checksum = 0
    if not whole:
        block.head.head_checksum = 0
        return image_checksum(<const char *>&block, sizeof(header_block) & ~(<uint64_t>31))
    first = image_checksum(<const char *>&block, sizeof(header_block) & ~(<uint64_t>31))
    # The rest of the header, from the last multiple of 32 within it.
    rest = sizeof(snapshot_header) & ~(<uint64_t>31)
    rest = image_checksum(base + rest, size - rest)
    return (first ^ rest) * <uint64_t>0x9E3779B97F4A7C15


# ---- bounds -----------------------------------------------------------------------------

cdef str tables_wrong(const snapshot_header *h):
    """The name of a table that is not within the image; None if all are."""
    for name, out in (
        ("routes", table_out(h, h.routes, sizeof(route_rec))),
        ("policies", table_out(h, h.policies, sizeof(policy_rec))),
        ("traffic", table_out(h, h.traffic, sizeof(traffic_rec))),
        ("services", table_out(h, h.services, sizeof(service_rec))),
        ("upstreams", table_out(h, h.upstreams, sizeof(upstream_rec))),
        ("targets", table_out(h, h.targets, sizeof(target_rec))),
        ("plans", table_out(h, h.plans, sizeof(plan_rec))),
        ("handlers", table_out(h, h.handlers, sizeof(handler_rec))),
        ("auths", table_out(h, h.auths, sizeof(auth_rec))),
        ("cors", table_out(h, h.cors, sizeof(cors_rec))),
        ("statics", table_out(h, h.statics, sizeof(static_rec))),
        ("refusals", table_out(h, h.refusals, sizeof(refusal_rec))),
        ("faults", table_out(h, h.faults, sizeof(str_ref))),
        ("trusted_proxies", table_out(h, h.trusted_proxies, sizeof(address_rule))),
        ("listeners", table_out(h, h.listeners, sizeof(listener_rec))),
        ("hidden_params", str_out(h, h.hidden_params)),
        ("router", table_out(h, h.router, 1)),
        ("via", str_out(h, h.via)),
        ("server", str_out(h, h.server)),
        ("refusals (their number)", h.refusals.count != 0 and h.refusals.count != REASON_COUNT),
    ):
        if out:
            return name
    return None


cdef class Snapshot:
    """A mapped, checked, read-only image.

    `fd` is duplicated, so the caller may close its own at once. With `verify`, every byte is checked,
    not only the header and the tables (see the module).

    Raises `fastgate.errors.SnapshotError` with the fault, OSError if it cannot be
    mapped.
    """

    def __cinit__(self, int fd, *, bint verify=False):
        self.fd = -1
        self.base = NULL
        self.size = os.fstat(fd).st_size
        if (fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS) != _SEALS:
            raise SnapshotError("the image is not sealed against change")
        if self.size < sizeof(snapshot_header):
            raise SnapshotError(f"the image ends within its header ({self.size} bytes)")
        cdef void *at = map_image(fd, self.size, PROT_READ, MAP_PRIVATE)
        if at == MAP_FAILED:
            raise OSError("the image cannot be mapped")
        self.base = <const char *>at
        self.header = <const snapshot_header *>at
        self._check(verify)
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(<void *>self.base, self.size)
        if self.fd >= 0:
            close(self.fd)  # libc's: at the interpreter's exit the module `os` is gone

    cdef _check(self, bint verify):
        cdef const snapshot_header *h = self.header
        if memcmp(self.base, b"FGSNAP\0\0", 8) != 0:
            raise SnapshotError("this is not an image: its first bytes are not FGSNAP")
        if h.version != SNAPSHOT_VERSION:
            raise SnapshotError(
                f"the image is of version {h.version}, but this build reads version {SNAPSHOT_VERSION}")
        if h.size != self.size or self.size % IMAGE_ALIGN:
            raise SnapshotError(f"the image's header gives {h.size} bytes, but it has {self.size}")
        if h.head_checksum != checksum_without(self.base, self.size, False):
            raise SnapshotError("the checksum of the image's header does not match")
        wrong = tables_wrong(h)
        if wrong is not None:
            raise SnapshotError(f"not within the image: {wrong}")
        if verify or self.size <= CHECK_WHOLE:
            if h.checksum != checksum_without(self.base, self.size, True):
                raise SnapshotError("the checksum of the image does not match")

    # ---- reading it: tests, `fastgate explain`, the control API ------------------------

    cdef bytes _text(self, dict ref):
        return self.base[<uint32_t>ref["off"]:<uint32_t>ref["off"] + <uint32_t>ref["len"]]

    cdef dict _open(self, dict record):
        """The record with its strings in place of the references to them."""
        return {
            key: self._text(value) if isinstance(value, dict) and "len" in value else value
            for key, value in record.items()
        }

    cdef list _limits(self, table_ref t):
        cdef const limit_rec *rows = <const limit_rec *>snap_table(self.header, t)
        return [self._open(rows[i]) | {"headers": self._strings(rows[i].headers)} for i in range(t.count)]

    cdef list _strings(self, table_ref t):
        cdef const str_ref *rows = <const str_ref *>snap_table(self.header, t)
        return [self._text(rows[i]) for i in range(t.count)]

    cdef list _rules(self, table_ref t):
        cdef const header_rule *rows = <const header_rule *>snap_table(self.header, t)
        return [self._open(rows[i]) for i in range(t.count)]

    cdef list _predicates(self, table_ref t):
        cdef const predicate *rows = <const predicate *>snap_table(self.header, t)
        return [self._open(rows[i]) for i in range(t.count)]

    cdef list _pieces(self, table_ref t):
        cdef const url_piece *rows = <const url_piece *>snap_table(self.header, t)
        return [self._open(rows[i]) for i in range(t.count)]

    cdef list _addresses(self, table_ref t):
        cdef const address_rule *rows = <const address_rule *>snap_table(self.header, t)
        return [
            (<bytes>(<const char *>rows[i].address)[:16], rows[i].prefix, bool(rows[i].allow))
            for i in range(t.count)
        ]

    cdef int _bounds(self, object index, uint32_t count) except -1:
        if not 0 <= index < count:
            raise IndexError(index)
        return 0

    @property
    def generation(self) -> int:
        """The number that control gave this configuration."""
        return self.header.generation

    @property
    def checksum(self) -> int:
        return self.header.checksum

    @property
    def bytes(self) -> int:
        """Size of the image."""
        return self.size

    def settings(self) -> dict:
        """The header: caps, timeouts, identity, and where the tables are."""
        record = self._open(self.header[0])
        del record["capability_key"]     # a secret, which no caller needs
        record["trusted_proxies"] = self._addresses(self.header.trusted_proxies)
        return record

    def listeners(self) -> list:
        """The records of the listeners that have one; `hsts` is a whole line."""
        cdef const listener_rec *rows = <const listener_rec *>snap_table(self.header, self.header.listeners)
        return [
            self._open(rows[i]) | {"proxies": self._addresses(rows[i].proxies)}
            for i in range(self.header.listeners.count)
        ]

    def routes(self) -> list:
        """Names of the routes, by index."""
        cdef uint32_t i
        return [
            self._text(snap_route(self.header, i).name).decode()
            for i in range(self.header.routes.count)
        ]

    def services(self) -> list:
        """Names of the services, by index."""
        cdef uint32_t i
        return [
            self._text(snap_service(self.header, i).name).decode()
            for i in range(self.header.services.count)
        ]

    def upstreams(self) -> list:
        """Names of the upstreams, by index."""
        cdef uint32_t i
        return [
            self._text(snap_upstream(self.header, i).name).decode()
            for i in range(self.header.upstreams.count)
        ]

    def handlers(self) -> list:
        """Names of the Python handlers ("package.module:function"), by index."""
        return [name.decode() for name in self._strings(self.header.handlers)]

    def plans(self) -> dict:
        """Slot → name of every plan."""
        cdef const plan_rec *rows = <const plan_rec *>snap_table(self.header, self.header.plans)
        return {
            i: self._text(rows[i].name).decode()
            for i in range(self.header.plans.count)
            if rows[i].name.len
        }

    def route(self, index: int) -> dict:
        """One route with its policy and all tables that either refers to."""
        self._bounds(index, self.header.routes.count)
        cdef const route_rec *r = snap_route(self.header, index)
        cdef const policy_rec *p = snap_policy(self.header, r.policy)
        cdef const uint64_t *authorities = <const uint64_t *>snap_table(self.header, p.client_auth)
        record = self._open(p[0]) | self._open(r[0])
        record["tokens"] = self._strings(r.tokens)
        record["params"] = self._strings(r.params)
        record["limits"] = self._limits(p.limits)
        record["addresses"] = self._addresses(p.addresses)
        record["predicates"] = self._predicates(r.predicates)
        record["request_rules"] = self._rules(p.request_rules)
        record["response_rules"] = self._rules(p.response_rules)
        record["rewrite"] = self._pieces(p.rewrite)
        record["client_auth"] = [authorities[i] for i in range(p.client_auth.count)]
        return record

    def traffic(self, index: int) -> dict:
        """What one route does with its traffic besides forwarding it; `index`: its `traffic`."""
        self._bounds(index, self.header.traffic.count)
        cdef const traffic_rec *r = <const traffic_rec *>snap_table(self.header, self.header.traffic) + <uint32_t>index
        record = self._open(r[0])
        record["fault_when"] = self._predicates(r.fault_when)
        record["maintenance_allow"] = self._addresses(r.maintenance_allow)
        record["split"] = []
        cdef const split_rec *rows = <const split_rec *>snap_table(self.header, r.split)
        for i in range(r.split.count):
            side = self._open(rows[i])
            side["when"] = self._predicates(rows[i].when)
            side["service"] = snap_policy(self.header, rows[i].policy).service
            side["limits"] = self._limits(snap_policy(self.header, rows[i].policy).limits)
            record["split"].append(side)
        return record

    def service(self, index: int) -> dict:
        """One service."""
        self._bounds(index, self.header.services.count)
        cdef const service_rec *s = snap_service(self.header, index)
        cdef const uint32_t *plans = <const uint32_t *>snap_table(self.header, s.plans)
        record = self._open(s[0])
        record["limits"] = self._limits(s.limits)
        record["plans"] = [plans[i] for i in range(s.plans.count)]
        return record

    def upstream(self, index: int) -> dict:
        """One upstream; `targets` are indexes."""
        self._bounds(index, self.header.upstreams.count)
        cdef const upstream_rec *u = snap_upstream(self.header, index)
        cdef uint32_t first = 0
        if u.targets.count:
            first = <uint32_t>((u.targets.off - self.header.targets.off) // sizeof(target_rec))
        record = self._open(u[0])
        record["targets"] = list(range(first, first + u.targets.count))
        record["sticky"] = None
        if u.sticky.count:
            record["sticky"] = self._open((<const sticky_rec *>snap_table(self.header, u.sticky))[0])
        return record

    def target(self, index: int) -> dict:
        """One target; `sockaddr` as bytes, in its actual length."""
        self._bounds(index, self.header.targets.count)
        cdef const target_rec *t = snap_target(self.header, index)
        record = self._open(t[0])
        record["sockaddr"] = <bytes>(<const char *>t.sockaddr)[:t.sockaddr_len]
        return record

    def plan(self, slot: int) -> dict:
        """The plan in this slot; its name is empty if the slot has no plan."""
        self._bounds(slot, self.header.plans.count)
        cdef const plan_rec *p = <const plan_rec *>snap_table(self.header, self.header.plans) + <uint32_t>slot
        record = self._open(p[0])
        record["limits"] = self._limits(p.limits)
        return record

    def auth(self, index: int) -> dict:
        """How one kind of credential is read and requested."""
        self._bounds(index, self.header.auths.count)
        return self._open(snap_auth(self.header, index)[0])

    def cors(self, index: int) -> dict:
        """One cross-origin policy."""
        self._bounds(index, self.header.cors.count)
        cdef const cors_rec *c = <const cors_rec *>snap_table(self.header, self.header.cors) + <uint32_t>index
        record = self._open(c[0])
        record["origins"] = self._strings(c.origins)
        return record

    def static(self, index: int) -> dict:
        """One static response."""
        self._bounds(index, self.header.statics.count)
        cdef const static_rec *s = <const static_rec *>snap_table(self.header, self.header.statics) + <uint32_t>index
        record = self._open(s[0])
        record["location"] = self._pieces(s.location)
        return record

    def refusal(self, reason: int) -> dict:
        """The rendered refusal for a reason; status 0: there is none."""
        self._bounds(reason, self.header.refusals.count)
        cdef const refusal_rec *r = <const refusal_rec *>snap_table(self.header, self.header.refusals) + <uint32_t>reason
        return self._open(r[0])

    def faults(self) -> list:
        """Texts for parse faults, by number."""
        return [text.decode() for text in self._strings(self.header.faults)]
