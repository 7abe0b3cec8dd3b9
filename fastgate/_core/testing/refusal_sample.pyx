"""refusal_sample: what a refusal looks like, and what it costs, without a connection."""
cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.reason cimport REASON_COUNT
from fastgate._core.state cimport EX_REFUSED, answer, core, downstream, exchange
from fastgate._core.http.head cimport F_ACCEPT, F_HOST, field
from fastgate._core.platform.buffer cimport buf_head, buf_len, buffers_free, buffers_init
from fastgate._core.exchange.refusal cimport start_refusal
from fastgate._core.http1.server cimport server_http1
from fastgate._core.io.transport cimport conn_drop
from fastgate._core.snapshot.snapshot cimport (
    Snapshot, limit_rec, snap_policy, snap_route, snap_table)



@cython.final
cdef class Sample:
    """An exchange without a connection, to see or time a refusal of it.

    `route`: index in the snapshot, -1: none. `consumer`: hash of the caller's id; 0: not known.
    Amounts in micro-units; `currency` of three letters, "": the request costs no money. `now`: Unix
    seconds. `limit`: position among the route's limits of the one that refused; -1: none.
    """
    cdef core *c
    cdef downstream *d
    cdef exchange *e
    cdef bytes base
    cdef Snapshot snapshot

    def __cinit__(self):
        self.c = <core *>calloc(1, sizeof(core))
        self.d = <downstream *>calloc(1, sizeof(downstream))
        self.e = <exchange *>calloc(1, sizeof(exchange))
        if self.c == NULL or self.d == NULL or self.e == NULL:
            raise MemoryError
        buffers_init(&self.c.loop.bufs, 4, 4)
        self.d.io.loop = &self.c.loop
        self.d.io.fd = -1
        self.d.codec = server_http1()

    def __dealloc__(self):
        if self.c != NULL:
            buffers_free(&self.c.loop.bufs)
        free(self.c)
        free(self.d)
        free(self.e)

    def __init__(self, Snapshot snapshot not None, *, int route=-1, object accept=(), bytes host=b"",
                 bytes request_id=b"\0" * 16, uint64_t consumer=0, int64_t balance=0, int64_t required=0,
                 str currency="", int64_t spending=0, uint32_t resets=0, int64_t now=0, int limit=-1):
        cdef exchange *e = self.e
        cdef field *f
        self.snapshot = snapshot
        self.base = host + b"".join(accept)
        self.c.loop.now = 0
        self.c.unix_offset = now * 1000000000
        self.c.date_second = -1
        e.owner = self.c
        e.down = self.d
        e.snap = snapshot.header
        e.base = self.base
        e.flags = EX_REFUSED
        if route >= 0:
            snapshot._bounds(route, snapshot.header.routes.count)
            e.route = snap_route(snapshot.header, route)
            e.policy = snap_policy(snapshot.header, e.route.policy)
            if limit >= 0:
                snapshot._bounds(limit, e.policy.limits.count)
                e.tightest = <const limit_rec *>snap_table(e.snap, e.policy.limits) + limit
        if len(request_id) != 16:
            raise ValueError("a request id has 16 bytes")
        memcpy(e.request_id, <const char *>request_id, 16)
        e.consumer.identity = consumer
        e.has_consumer = consumer != 0
        e.money_balance, e.money_required = balance, required
        e.money_limit, e.money_resets = spending, resets
        for i, letter in enumerate(currency.encode("ascii")):
            e.money_currency |= <uint32_t>letter << (8 * i)
        at = 0
        for name, value in [(F_HOST, host), *((F_ACCEPT, one) for one in accept)]:
            if value:
                f = &e.req.fields[e.req.nfields]
                f.id = name
                f.value = at
                f.value_len = len(value)
                e.req.nfields += 1
                if not e.req.first[<int>name]:
                    e.req.first[<int>name] = e.req.nfields
            at += len(value)

    def render(self, int reason) -> bytes:
        """The answer, as it is sent. Raises ValueError for a reason without one."""
        if not 0 < reason < REASON_COUNT or not self.snapshot.refusal(reason)["status"]:
            raise ValueError(f"the reason {reason} has no answer")
        self.e.status = <uint16_t>self.snapshot.refusal(reason)["status"]
        if start_refusal(self.e, reason) < 0:
            raise MemoryError
        answer = buf_head(self.d.io.out_head)[:buf_len(self.d.io.out_head)]
        conn_drop(&self.d.io)
        return answer

    def bench(self, int reason, int n) -> float:
        """Nanoseconds per answer, over n."""
        cdef uint64_t began = monotonic_ns()
        cdef int i
        self.e.status = <uint16_t>self.snapshot.refusal(reason)["status"]
        with nogil:
            for i in range(n):
                start_refusal(self.e, reason)
                conn_drop(&self.d.io)
        return <double>(monotonic_ns() - began) / n
