"""records: strings and small records of an image, in its heap. `image.ImageBuilder` is made on top of it.

- A **string** is interned: equal strings are in the image once.
- A **record** method (`limit`, `header_rule`, ...) returns the bytes of one C struct; `table` puts
  a list of them into the image and returns its handle, an opaque number (0: the empty table).
  Equal tables are in the image once, so that 100,000 routes that share their rules also share
  them in memory.

The heap begins right after the header, so offsets are final when they are created. The keyword arguments
of a record are its fields; `snapshot.pxd` describes them. Numbers that do not fit their field raise
OverflowError.
"""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastgate._core.snapshot.sealing cimport LARGEST_IMAGE
from fastgate._core.snapshot.auth cimport auth_method, scope_rule
from fastgate._core.snapshot.traffic cimport split_rec
from fastgate._core.snapshot.snapshot cimport (
    HEADER_REMOVE, PREDICATE_SEGMENT, address_rule, header_rule, limit_rec, predicate, price_step, snapshot_header, sticky_rec, url_piece)

import ipaddress

from fastgate.errors import SnapshotError


cdef inline object _packed(uint32_t off, uint32_t length):
    return (<uint64_t>off << 32) | length


cdef class RecordHeap:
    """Collects strings and tables of small records."""

    def __cinit__(self):
        self.interned = {}
        self.tables = {}

    def __dealloc__(self):
        free(self.heap.data)

    cdef int _grow(self, growing *g, uint64_t more) except -1:
        cdef uint64_t wanted = g.size + more
        cdef uint64_t capacity
        if wanted <= g.capacity:
            return 0
        if wanted > LARGEST_IMAGE:
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

    def ids(self, values: list[int]) -> int:
        """The handle of a table of 64-bit ids."""
        cdef uint64_t n
        records = []
        for value in values:
            n = value
            records.append(<bytes>(<char *>&n)[:8])
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

    def segment_predicate(self, segment: int, automaton: bytes) -> bytes:
        """The predicate that a segment of the path, counted from 0, matches; `automaton`: see predicates.pyx."""
        cdef predicate r
        memset(&r, 0, sizeof(r))
        r.value = self._string(automaton)
        r.kind = PREDICATE_SEGMENT
        r.segment = segment
        return (<char *>&r)[:sizeof(r)]

    def auth_method(self, kind: int, *, flags=0, ids=0, scopes=0, upstream=0xFFFFFFFF, timeout_ms=0, path="", forwarded=0,
                    lent=0, consumer="") -> bytes:
        """One auth_method."""
        cdef auth_method r
        memset(&r, 0, sizeof(r))
        r.kind = kind
        r.flags = flags
        r.ids = self._handle(ids)
        r.scopes = self._handle(scopes)
        r.upstream = upstream
        r.timeout_ms = timeout_ms
        r.path = self._string(path)
        r.forwarded = self._handle(forwarded)
        r.lent = self._handle(lent)
        r.consumer = self._string(consumer)
        return (<char *>&r)[:sizeof(r)]

    def scope_rule(self, methods: int, scopes: int) -> bytes:
        """One scope_rule; `methods`: a mask of Method bits."""
        cdef scope_rule r
        memset(&r, 0, sizeof(r))
        r.methods = methods
        r.scopes = self._handle(scopes)
        return (<char *>&r)[:sizeof(r)]

    def sticky(self, cookie: str, *, attributes: str, secure: int) -> int:
        """The handle of an upstream's sticky_rec. `attributes`: what follows the cookie's value."""
        cdef sticky_rec r
        memset(&r, 0, sizeof(r))
        r.cookie = self._string(cookie)
        r.before = self._string(f"Set-Cookie: {cookie}=")
        r.after = self._string(attributes)
        r.secure = secure
        return self.table([(<char *>&r)[:sizeof(r)]])

    def split(self, *, policy, row, weight, tag, when=0) -> bytes:
        """One split_rec."""
        cdef split_rec r
        memset(&r, 0, sizeof(r))
        r.when = self._handle(when)
        r.policy = policy
        r.row = row
        r.weight = weight
        r.tag = tag
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

    def price_steps(self, steps) -> int:
        """The handle of a plan's price list: (the last request with this price, micro-units)."""
        cdef price_step step
        records = []
        for up_to, micros in steps:
            step.up_to = 0 if up_to is None else up_to
            step.micros = micros
            records.append(<bytes>(<char *>&step)[:sizeof(step)])
        return self.table(records)
