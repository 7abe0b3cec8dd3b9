"""upcall: the only way into Python: exchanges that a Python handler answers.

After its rounds, `poll()` starts the handler of each suspended exchange as a task of the worker's
event loop:

    async def handler(exchange): ...

The handler reads the request (it is complete: the body was collected, up to the route's cap). Then it
answers in one of three ways: `respond` at once; `start`, `write`..., `finish` as a stream; or `forward`
to an upstream and `relay` the response, which from there on runs in C. It may make any number of calls
to upstreams, concurrently too, through the engine's own pools (calling.pyx).

The handler waits on futures. The engine keeps what it has to report in bits of the exchange (`wake`);
after its rounds it calls `wake_upcalls`, which resolves the futures:

    WAKE_GONE      the client left: the task is cancelled. It may await in its `finally` for a
                   bounded time (5 s), then it is cancelled again
    WAKE_WRITABLE  the kernel has what was written: `write` returns
    WAKE_LATE      it did not answer within the route's timeout: the client has got a 504, and the task
                   is cancelled in the same way
    WAKE_CALL      one of its calls has a head, body bytes, an end or a failure

The exchange's memory stays until the task is over, whatever happens; afterwards every method raises
`RuntimeError`. If a handler raises, the client gets a 500 problem or, if the answer had begun, a broken-off
connection; never one that hangs.
"""
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint16_t

from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.handlers.calling cimport (
    UpstreamResponse, buf_of, call_made, call_request, query_of, request_id_of, traceparent_of, upstream_named)
from fastgate._core.exchange.charging cimport (
    charge_capture, charge_hold, charge_release, units_capture, units_open, units_release)
from fastgate._core.exchange.ending cimport (
    call_handed_over, exchange_abort, exchange_refuse, wake_forget)
from fastgate._core.exchange.handling cimport (
    exchange_complete, exchange_relay, exchange_release, exchange_start, exchange_stream, exchange_write)
from fastgate._core.handlers.headers cimport field_line, headers_of, render_fields
from fastgate._core.money.holds cimport hold_due
from fastgate._core.http.head cimport METHOD_HEAD
from fastgate._core.handlers.metering cimport MeterUse, meter_use
from fastgate._core.reason cimport CLIENT_CLOSED, INTERNAL_ERROR
from fastgate._core.exchange.refusal cimport CAPABILITY_TEXT, put_capability
from fastgate._core.exchange.render cimport called_securely
from fastgate._core.exchange.request_head cimport put_target, target_size, unbelieved
from fastgate._core.snapshot.snapshot cimport snap_str, snap_table, str_ref, upstream_rec
from fastgate._core.state cimport (
    CALL_BODY, EX_ABORTED, EX_COUNTED_STREAM, EX_COUNTED_UPCALL, EX_METERED, EX_OWED,
    EX_RESPONSE_DONE, EX_RESPONSE_STARTED, WAKE_CALL, WAKE_DONE, WAKE_GONE, WAKE_LATE,
    WAKE_WRITABLE, call)
from fastgate._core.platform.sys cimport monotonic_ns

import logging

from fastgate._core.handlers.errors import ClientDisconnected, PaymentRefused, TooManyStreams
from fastgate._core.snapshot.meters import AMOUNT as AMOUNT_METER
from fastgate._core.snapshot.snapshot import stable_hash

log = logging.getLogger("fastgate.handler")

cdef double SETTLE_S = 5.0    # how long a cancelled handler may still run
cdef uint32_t WRITE_MAX = 1 << 20
cdef uint64_t MOST = <uint64_t>1 << 62

AMOUNT = stable_hash(AMOUNT_METER)


# ---- the exchange -----------------------------------------------------------------------------

cdef class Exchange:
    """One request, and the methods to answer it. Created by the engine; valid until the handler ends."""

    cdef int check(self) except -1:
        if self.e is NULL:
            raise RuntimeError("the exchange is over: its handler has returned")
        if self.gone or self.e.flags & EX_ABORTED:
            raise ClientDisconnected("the client closed the connection")
        if self.late:
            raise TimeoutError("the route's timeout has passed, and the client was answered with a 504")
        return 0

    # ---- the request

    @property
    def method(self) -> str:
        self.check()
        return PyBytes_FromStringAndSize(
            self.e.base + self.e.req.method.off, self.e.req.method.len).decode("ascii")

    @property
    def path(self) -> str:
        """The canonical path, as the router matched it; still percent-encoded."""
        self.check()
        return PyBytes_FromStringAndSize(self.e.path, self.e.path_len).decode("ascii")

    @property
    def query(self) -> str:
        """The query without "?", percent-encoded; without the credential, unless the route forwards it."""
        self.check()
        return query_of(self.e)[1:]

    @property
    def target(self) -> str:
        """Path and query for the upstream, after the route's `rewrite`; without the credential, unless the
        route forwards it."""
        cdef str_ref none
        cdef bytearray room
        cdef char *began
        self.check()
        none.off = none.len = 0
        room = bytearray(target_size(self.e))
        began = PyByteArray_AS_STRING(room)
        return room[:put_target(began, self.e, none) - began].decode("ascii")

    @property
    def params(self) -> dict[str, str]:
        """The values that the route's `{name}`s matched; percent-encoded."""
        cdef dict found = {}
        cdef const str_ref *names
        cdef uint32_t i
        self.check()
        names = <const str_ref *>snap_table(self.e.snap, self.e.route.params)
        for i in range(self.e.route.params.count):
            if i < self.e.match.nparams:
                found[PyBytes_FromStringAndSize(snap_str(self.e.snap, names[i]), names[i].len).decode()] = (
                    PyBytes_FromStringAndSize(
                        self.e.path + self.e.match.params[i].off, self.e.match.params[i].len).decode("ascii"))
        return found

    @property
    def headers(self) -> Headers:
        """The request's fields, without those that are not forwarded: the credential, claims of untrusted clients."""
        self.check()
        if self._headers is None:
            self._headers = headers_of(&self.e.req, self.e.base, unbelieved(self.e))
        return self._headers

    @property
    def body(self) -> bytes:
        self.check()
        if self.e.body is not NULL:
            return PyBytes_FromStringAndSize(buf_head(self.e.body), buf_len(self.e.body))
        if self.e.inline_len:
            return PyBytes_FromStringAndSize(self.e.inline_body, self.e.inline_len)
        return b""

    @property
    def consumer(self) -> dict[str, str] | None:
        """The caller: id, name and plan; None if the route is open and the caller gave no key."""
        self.check()
        if not self.e.has_consumer:
            return None
        return {
            "id": self.e.consumer.id[:self.e.consumer.id_len].decode(),
            "name": self.e.consumer.name[:self.e.consumer.name_len].decode(),
            "plan": self.e.consumer.plan_name[:self.e.consumer.plan_len].decode(),
        }

    @property
    def account(self) -> int:
        """Hash of the paying account's id; 0: none."""
        self.check()
        return self.e.consumer.account if self.e.has_consumer else 0

    @property
    def route(self) -> str:
        self.check()
        return PyBytes_FromStringAndSize(
            snap_str(self.e.snap, self.e.route.name), self.e.route.name.len).decode()

    @property
    def request_id(self) -> str:
        """32 hex digits."""
        self.check()
        return request_id_of(self.e)

    @property
    def capability(self) -> str | None:
        """The token of links that show, for an hour, why this request was refused; None without pages."""
        cdef char text[CAPABILITY_TEXT]
        self.check()
        if self.e.snap.capability_key[0] == 0 and self.e.snap.capability_key[1] == 0:
            return None
        put_capability(text, self.e)
        return PyBytes_FromStringAndSize(text, CAPABILITY_TEXT).decode()

    @property
    def trace(self) -> str:
        """The traceparent for calls made for this exchange (W3C trace context)."""
        self.check()
        return traceparent_of(self.e)

    @property
    def address(self) -> str:
        """The client's address, also behind trusted proxies."""
        import ipaddress
        self.check()
        found = ipaddress.IPv6Address(PyBytes_FromStringAndSize(<const char *>self.e.client, 16))
        return str(found.ipv4_mapped or found)

    @property
    def scheme(self) -> str:
        """"https" or "http", as used by the client; behind a trusted proxy, as reported by it."""
        self.check()
        return "https" if called_securely(self.e) else "http"

    # ---- the answer

    async def start(self, int status, headers=None, length=None):
        """Begin the answer. length: bytes of the body, if known; otherwise it is sent chunked.

        A Content-Length among the headers has the same effect as `length`. Raises ValueError for a bad status,
        name or value; RuntimeError if the answer had begun; ClientDisconnected if the client left; TooManyStreams
        if `caps.streams` are open.
        """
        self.check()
        if not self.e.flags & (EX_COUNTED_STREAM | EX_RESPONSE_STARTED) and exchange_stream(self.e) < 0:
            raise TooManyStreams("too many handlers answer as streams; `caps.streams` bounds them")
        self.begin(status, headers, length)

    cdef int begin(self, int status, headers, length) except -1:
        self.check()
        if self.e.flags & EX_RESPONSE_STARTED:
            raise RuntimeError("the answer has already begun")
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of a final answer (200 to 599)")
        left = []
        lines = render_fields(headers, left)
        if (self.e.flags & EX_METERED or self.e.hold is not NULL) and b"cache-control:" not in lines.lower():
            lines += field_line("Cache-Control", "private")  # shared caches must not serve what this caller paid for
        for name, value in left:
            if name == "content-length" and length is None:
                length = int(value)
        self.declared = -1 if length is None else int(length)
        if length is not None and self.declared < 0:
            raise ValueError(f"a body cannot be {length} bytes long")
        self.c.loop.now = monotonic_ns()
        if exchange_start(self.e, status, lines, <uint32_t>len(lines), self.declared) < 0:
            raise MemoryError
        self.written = 0
        if self.declared < 0 and exchange_write(self.e, NULL, 0) < 0:
            # A stream's head is sent before its first piece, which may take long to come.
            exchange_abort(self.e, CLIENT_CLOSED)
            self.gone = True
            raise ClientDisconnected("the client closed the connection")

    async def write(self, data):
        """Send body bytes; returns when the kernel has them (back-pressure)."""
        cdef const unsigned char[::1] view
        cdef Py_ssize_t size, at = 0, piece
        cdef int done = 1
        self.check()
        if not self.e.flags & EX_RESPONSE_STARTED:
            raise RuntimeError("start() the answer first")
        if self.e.flags & EX_RESPONSE_DONE:
            raise RuntimeError("the answer is already finished")
        size = len(data)
        if size == 0:
            return
        if 0 <= self.declared < self.written + size:
            raise ValueError(
                f"with these {size} bytes, {self.written + size} would be written, but start() announced "
                f"{self.declared}")
        self.written += size
        view = data
        while at < size:
            piece = size - at if size - at < WRITE_MAX else WRITE_MAX
            self.c.loop.now = monotonic_ns()
            done = exchange_write(self.e, <const char *>&view[at], <uint32_t>piece)
            at += piece
            if done < 0:
                exchange_abort(self.e, CLIENT_CLOSED)
                self.gone = True
                raise ClientDisconnected("the client closed the connection")
            if done == 0:
                self.engine.follow_up()
                if self.e.flags & EX_COUNTED_UPCALL and self.c.n_streams < self.e.snap.max_streams:
                    exchange_stream(self.e)      # a slow reader of a whole answer occupies as much
                self.drained = self.loop.create_future()
                try:
                    await self.drained
                finally:
                    self.drained = None
                self.check()

    def finish(self):
        """The answer is complete. Raises RuntimeError if fewer bytes were written than announced."""
        self.check()
        if not self.e.flags & EX_RESPONSE_STARTED:
            raise RuntimeError("start() the answer first")
        if self.e.flags & EX_RESPONSE_DONE:
            return
        if self.declared >= 0 and self.written != self.declared and self.e.req.method_id != METHOD_HEAD:
            raise RuntimeError(f"{self.written} bytes written, but start() announced {self.declared}")
        self.c.loop.now = monotonic_ns()
        exchange_complete(self.e)

    async def respond(self, int status, headers=None, body=b""):
        """Send a whole answer. body: bytes, or str (sent as UTF-8)."""
        body = body.encode() if isinstance(body, str) else body
        self.begin(status, headers, len(body))
        await self.write(body)
        self.finish()

    # ---- upstreams

    async def forward(self, str upstream not None, method=None, path=None, headers=None, body=None,
                      double timeout=60.0):
        """Send a request to an upstream of the configuration, through the engine's pools.

        Arguments that are not given are taken from this exchange: method, path with query, end-to-end header
        fields (without the credential), body. timeout: seconds until the head of the answer, and between two
        parts of its body. Returns an UpstreamResponse once the head of the answer is here. Raises UpstreamError
        with the reason if there is none; LookupError if there is no such upstream; ValueError for a bad method,
        path, header or timeout.
        """
        cdef UpstreamResponse r
        cdef const upstream_rec *group
        self.check()
        if not 0.001 <= timeout <= 86400:
            raise ValueError(f"timeout: {timeout} is not between 0.001 and 86400 seconds")
        group = upstream_named(self.e.snap, upstream)
        method = self.method if method is None else method
        if path is None:
            path = self.path + query_of(self.e)
        if body is None:
            body = self.body
        elif isinstance(body, str):
            body = body.encode()
        made = call_request(self.e, method, path, headers, bytes(body))
        r = call_made(self.engine, self.e, group)
        self.responses.append(r)
        try:
            r.ask(made, timeout)
            await r.head()
        except BaseException:
            self.handed_over = self.handed_over or call_handed_over(r.k)
            r.drop()
            self.forget(r)
            raise
        self.handed_over = True
        return r

    def forget(self, r):
        if r in self.responses:
            self.responses.remove(r)

    def relay(self, UpstreamResponse response not None, headers=None):
        """Answer with this response; no Python runs per chunk from here on. The handler may return.

        headers: fields to add to the answer's own fields.
        """
        cdef call *k = response.k
        self.check()
        if self.e.flags & EX_RESPONSE_STARTED:
            raise RuntimeError("the answer has already begun")
        if k is NULL or k.state != CALL_BODY or k.ex is not self.e:
            raise RuntimeError("only a response of this exchange whose body has not been read can be relayed")
        lines = render_fields(headers, [])
        self.e.extra = buf_of(self.c, lines) if lines else NULL
        self.c.loop.now = monotonic_ns()
        k.next = self.e.calls
        self.e.calls = k                 # its memory now belongs to the exchange
        exchange_relay(self.e, k)
        response.k = NULL
        self.engine.follow_up()

    # ---- money

    def hold(self, int64_t micros, str currency="USD") -> int:
        """Hold the most that this request can cost, besides its price, in micro-units.

        Returns what the wallet has left. `capture` sets the actual cost; what is not captured when the
        handler ends is given back. Raises PaymentRefused if the wallet, a spending limit or the account
        refuses; if the handler does not catch it, the answer is the 402 that explains it. Raises RuntimeError
        if the handler holds something already; ValueError if the amount is not positive, or the currency is
        invalid.
        """
        cdef bytes code = currency.encode("ascii")
        cdef uint32_t number
        cdef int reason
        self.check()
        self.c.loop.now = monotonic_ns()      # the lease on the store may have expired
        if micros <= 0:
            raise ValueError(f"{micros}: an amount to hold must be more than 0")
        if len(code) != 3:
            raise ValueError(f"{currency!r} is not a currency: use three letters, such as USD")
        if self.held() is not NULL:
            raise RuntimeError("an amount is already held for this request")
        number = code[0] | <uint32_t>code[1] << 8 | <uint32_t>code[2] << 16
        self.c.loop.now = monotonic_ns()
        if self.e.hold is NULL:
            reason = charge_hold(self.c, self.e, micros, number)
        else:
            reason = units_open(self.c, self.e, &self.amount, micros, number)
        if reason != 0:
            raise PaymentRefused(reason, self.e.money_balance, micros)
        if self.amount.hold is NULL:
            self.e.flags_hold_by_handler = 1
        return self.e.money_balance

    cdef money_record *held(self) noexcept:
        """The hold placed by `hold`; NULL: none."""
        return self.e.hold if self.e.flags_hold_by_handler else self.amount.hold

    def capture(self, int64_t micros, uint64_t units=1) -> None:
        """Set what the request actually cost, at most what is held. When the handler ends, that is charged, and
        the rest given back; a handler that fails costs nothing.

        units: for the usage record. It may be called after the client has left: what was consumed is owed.
        Raises RuntimeError if nothing is held, or it was captured before; ValueError if it is more than is
        held.
        """
        cdef money_record *hold
        if self.e is NULL:
            raise RuntimeError("the exchange is over: its handler has returned")
        hold = self.held()
        if hold is NULL:
            raise RuntimeError("nothing is held for this request")
        if self.captured >= 0:
            raise RuntimeError("this request's cost has already been captured")
        if not 0 <= micros <= hold.held:
            raise ValueError(f"{micros}: at most the held amount, {hold.held}, can be captured")
        self.captured = micros
        self.captured_units = units
        hold_due(hold, micros)

    def release(self) -> None:
        """Give back what `hold` holds."""
        if self.e is NULL:
            raise RuntimeError("the exchange is over: its handler has returned")
        self.c.loop.now = monotonic_ns()
        self.captured = -1
        if self.e.flags_hold_by_handler:
            charge_release(self.c, self.e)
            self.e.flags_hold_by_handler = 0
        else:
            units_release(self.c, self.e, &self.amount)

    def hold_units(self, str meter, most) -> int:
        """Hold the most that this many units of a meter can cost, besides what the request costs.

        Returns the micro-units that are held; 0 if the caller's plan does not price the meter, but the units are
        recorded all the same. When the handler has ended, the units reported by `use_units` are charged, and the
        rest given back. Raises PaymentRefused as `hold` does; ValueError if no plan prices the meter, or `most`
        is below 1; RuntimeError if units of the meter are held already.
        """
        cdef MeterUse use
        cdef int64_t held
        self.check()
        self.c.loop.now = monotonic_ns()
        if self.meters is None:
            self.meters = {}
        if meter in self.meters:
            raise RuntimeError(f"units of {meter!r} are already held")
        use = meter_use(self.e, meter, most)
        self.c.loop.now = monotonic_ns()
        held = use.hold(self.c, self.e)
        self.meters[meter] = use
        self.e.flags |= EX_METERED
        return held

    def use_units(self, str meter, units) -> None:
        """Report that more units of the meter were used: they are owed, up to what is held.

        Units beyond that are recorded, and not charged. It may be called after the client has left.
        Raises RuntimeError if nothing is held for the meter; ValueError if `units` is negative.
        """
        if self.e is NULL:
            raise RuntimeError("the exchange is over: its handler has returned")
        use = None if self.meters is None else self.meters.get(meter)
        if use is None:
            raise RuntimeError(f"call hold_units({meter!r}, most) first")
        if units < 0:
            raise ValueError(f"{units} units of {meter!r}: used units cannot be negative")
        self.c.loop.now = monotonic_ns()
        (<MeterUse>use).use(self.c, self.e, min(units, MOST))

    cdef int settle_money(self) except -1:
        """Charge for what the handler captured and for the units that were used; nothing if it failed."""
        cdef int failure
        if self.e is NULL:
            return 0
        self.c.loop.now = monotonic_ns()
        failure = self.broke or self.e.status >= 500
        if failure:
            self.e.flags &= ~EX_OWED
        if self.captured < 0 or failure:
            self.release()
        elif self.e.flags_hold_by_handler:
            charge_capture(self.c, self.e, self.captured, self.captured_units)
        else:
            units_capture(self.c, self.e, &self.amount, self.captured, self.captured_units)
        if self.meters is not None:
            for use in self.meters.values():
                if failure:
                    (<MeterUse>use).release(self.c, self.e)
                else:
                    (<MeterUse>use).capture(self.c, self.e)
            self.meters = None
        return 0

    # ---- what the engine reports, and the end

    cdef int notify(self, uint32_t bits) except -1:
        if bits & WAKE_GONE:
            self.gone = True
        if bits & WAKE_LATE:
            self.late = True
            log.warning("request %s: the handler of route %s did not answer in time", request_id_of(self.e),
                        PyBytes_FromStringAndSize(
                            snap_str(self.e.snap, self.e.route.name), self.e.route.name.len).decode())
        # A task that is cancelled before it began never runs, not even its `finally`.
        if bits & (WAKE_GONE | WAKE_LATE) and self.begun and self.task is not None and not self.task.done():
            self.task.cancel()
            self.loop.call_later(SETTLE_S, cancel_again, self.task)
        if bits & (WAKE_WRITABLE | WAKE_DONE) and self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        if bits & WAKE_CALL:
            for r in list(self.responses):
                if (<UpstreamResponse>r).k is not NULL:
                    (<UpstreamResponse>r).notify()
        return 0

    cdef int finished(self) except -1:
        """The handler returned."""
        if self.e.flags & (EX_ABORTED | EX_RESPONSE_DONE) or self.e.relaying is not NULL:
            return 0
        if not self.e.flags & EX_RESPONSE_STARTED:
            log.error("request %s: the handler of route %s returned without an answer", self.request_id, self.route)
            self.failed()
        elif 0 <= self.declared != self.written and self.e.req.method_id != METHOD_HEAD:
            log.error("request %s: the handler of route %s wrote %d of %d bytes", self.request_id, self.route,
                      self.written, self.declared)
            self.failed()
        else:
            exchange_complete(self.e)
        return 0

    def refuse(self, int reason) -> None:
        """Answer with the problem for this reason (its number in `Reason`), or break off."""
        self.broke = True
        if self.e is not NULL and not self.e.flags & EX_ABORTED:
            self.c.loop.now = monotonic_ns()
            exchange_refuse(self.e, reason)

    def refused_for(self, int reason) -> None:
        """Mark the handler's answer as a refusal for this reason (its number in `Reason`): it is recorded so in
        the log, in metrics and in `fastgate explain`, and costs nothing."""
        self.check()
        self.broke = True
        self.e.reason = <uint16_t>reason
        self.c.counters.refused += 1

    cdef int failed(self) except -1:
        """Answer the client with the failure, or break off an answer that had begun."""
        self.broke = True
        if not self.late and not self.e.flags & EX_ABORTED:
            self.c.loop.now = monotonic_ns()
            exchange_refuse(self.e, INTERNAL_ERROR)
        return 0

    cdef int let_go(self) except -1:
        cdef exchange *e = self.e
        if e is NULL:
            return 0
        for r in self.responses:
            (<UpstreamResponse>r).drop()
        self.responses.clear()
        self.e = NULL
        wake_forget(e)
        e.py = NULL
        self.c.loop.now = monotonic_ns()
        exchange_release(e)
        self.engine.follow_up()
        Py_DECREF(self)                  # the engine's reference, taken in begin_upcalls
        return 0


def cancel_again(task):
    """The time in which a cancelled handler may settle is over."""
    if not task.done():
        log.warning("a handler did not end %g s after it was cancelled; it is cancelled again", SETTLE_S)
        task.cancel()
