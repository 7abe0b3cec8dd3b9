"""calling: what a Python handler asks of upstreams: a call, and its answer read as a stream.

    upstream_named ─► call_request ─► call_made ─► ask ─► head ─► read_chunk ... ─► None
                                                    │      │          │
                                                    └──────┴──────────┴─► UpstreamError

The call goes through the engine's own pools, with the engine's retries and deadlines, and the body is
read no faster than the handler takes it. The call's memory belongs to the response until `drop` or,
once it is relayed, to the exchange.
"""
cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy

from fastgate._core.platform.buffer cimport COLLECT_MOST, buf_borrow, buf_head, buf_len, buf_return
from fastgate._core.state cimport (
    CALL_FAILED, CALL_IDEMPOTENT, CALL_PYTHON, CALL_REPLAYABLE, CALL_RESPONSE_DONE, call_free)
from fastgate._core.handlers.headers cimport field_line, headers_of, is_token, render_fields
from fastgate._core.http.head cimport (
    METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_OTHER, METHOD_PUT, METHOD_TRACE)
from fastgate._core.exchange.key_places cimport put_query
from fastgate._core.exchange.request_head cimport passing_size, put_passing
from fastgate._core.exchange.sticky cimport sticky_find
from fastgate._core.snapshot.snapshot cimport snap_str, snap_upstream
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.upstream.call cimport call_abort, call_end, call_read, call_start, call_take

from fastgate._core.handlers.errors import ClientDisconnected, UpstreamError, reason_name

cdef dict METHODS = {
    "GET": METHOD_GET, "HEAD": METHOD_HEAD, "PUT": METHOD_PUT, "DELETE": METHOD_DELETE,
    "OPTIONS": METHOD_OPTIONS, "TRACE": METHOD_TRACE}


# ---- the answer -----------------------------------------------------------------------------

cdef class UpstreamResponse:
    """The answer of an upstream: `status`, `headers`, and the body, which is read as a stream.

    `async for chunk in response` gives bytes as they come. Nothing is read from the upstream before the
    handler asks for it. `await response.read()` gives the whole body.
    """

    cdef int ask(self, MadeRequest made, double timeout) except -1:
        """Send the request. made: from `call_request`; timeout: seconds, as for `forward`."""
        cdef call *k = self.k
        cdef core *c = self.engine.c
        cdef uint16_t reason
        k.method_id = METHODS.get(made.method, METHOD_OTHER)
        k.first_byte_ms = <uint32_t>(timeout * 1000)
        k.idle_ms = k.first_byte_ms
        k.flags = CALL_PYTHON | CALL_REPLAYABLE | (CALL_IDEMPOTENT if made.method in METHODS else 0)
        k.py_method = <uint32_t>len(made.method)
        k.py_path = <uint32_t>len(made.path)
        k.py_lines = <uint32_t>len(made.lines)
        k.py_host = made.has_host
        k.py_body = made.has_body
        k.py_request = buf_of(c, made.method.encode("ascii") + made.path.encode("ascii") + made.lines + made.body)
        c.loop.now = monotonic_ns()
        reason = call_start(c, k)
        if reason != 0:
            k.failure = reason
        self.engine.follow_up()
        return 0

    async def head(self):
        """Wait for the answer's head. Raises UpstreamError with the reason if there will be none."""
        while self.k.py_head is NULL:
            if self.k.state == CALL_FAILED:
                raise UpstreamError(reason_name(self.k.failure), self.upstream)
            await self.wait()
            if self.k is NULL:
                raise ClientDisconnected("the client closed the connection")
        self.status = self.k.resp.status
        self.headers = headers_of(&self.k.resp, self.k.resp_base, 0)

    async def wait(self):
        """Wait until something about the call has changed."""
        self.waiter = self.engine.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        chunk = await self.read_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def read_chunk(self):
        """The next bytes of the body; None at its end. Raises UpstreamError if it breaks off."""
        cdef core *c = self.engine.c
        cdef buf *b
        cdef bytes data
        while True:
            if self.k is NULL:
                return None
            if self.k.state == CALL_FAILED:
                raise UpstreamError(reason_name(self.k.failure), self.upstream)
            if not self.k.flags & CALL_PYTHON:
                raise RuntimeError("this response is being relayed, so its body cannot be read")
            b = call_take(c, self.k, 0)
            if b is not NULL:
                data = PyBytes_FromStringAndSize(buf_head(b), buf_len(b))
                buf_return(&c.loop.bufs, b)
                return data
            if self.k.state == CALL_FAILED:
                continue
            if self.k.flags & CALL_RESPONSE_DONE:
                call_end(c, self.k)
                self.engine.follow_up()
                self.drop()
                return None
            c.loop.now = monotonic_ns()
            call_read(c, self.k, 1)
            self.engine.follow_up()
            await self.wait()

    async def read(self, limit: int = 16777216):
        """The whole body. Raises ValueError if it is longer than `limit` bytes."""
        parts = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            if size > limit:
                self.close()
                raise ValueError(f"the body from upstream {self.upstream!r} is longer than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    @property
    def upstream(self):
        """Name of the upstream that was called."""
        if self.k is NULL:
            return ""
        return PyBytes_FromStringAndSize(
            snap_str(self.k.snap, self.k.group.name), self.k.group.name.len).decode()

    def close(self):
        """Discard the rest of the body."""
        if self.k is not NULL:
            self.drop()
            self.engine.follow_up()

    cdef int notify(self) except -1:
        if self.waiter is not None and not self.waiter.done():
            if self.k.state == CALL_FAILED or self.k.py_head is not NULL:
                self.waiter.set_result(None)
        return 0

    cdef int drop(self) except -1:
        cdef call *k = self.k
        if k is NULL:
            return 0
        self.k = NULL
        if k.flags & CALL_PYTHON:
            call_abort(self.engine.c, k)
            call_free(self.engine.c, k)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.cancel()
        return 0


# ---- the request ----------------------------------------------------------------------------

@cython.final
cdef class MadeRequest:
    """A request that a handler made, checked."""


cdef const upstream_rec *upstream_named(const snapshot_header *s, str name) except NULL:
    cdef const upstream_rec *group
    cdef bytes wanted = name.encode()
    cdef uint32_t i
    for i in range(s.upstreams.count):
        group = snap_upstream(s, i)
        if group.name.len == <uint32_t>len(wanted) and memcmp(
                snap_str(s, group.name), PyBytes_AS_STRING(wanted), len(wanted)) == 0:
            return group
    raise LookupError(f"the configuration has no upstream {name!r}")


cdef bint is_target(object path) except -1:
    """Whether this is a str that may be a request's target: a space or line ending would end it, so it is refused."""
    cdef Py_ssize_t i, n = 0
    cdef const char *p
    if not isinstance(path, str):
        return False
    p = PyUnicode_AsUTF8AndSize(path, &n)
    if n == 0 or p[0] != c"/":
        return False
    for i in range(n):
        if not 0x20 < <uint8_t>p[i] < 0x7f:
            return False
    return True


cdef MadeRequest call_request(exchange *e, method, path, headers, bytes body):
    cdef list left = []
    cdef bytes lines
    cdef set names
    cdef MadeRequest made
    if not is_token(method):
        raise ValueError(f"{method!r} is not a method")
    if not is_target(path):
        raise ValueError(f"{path!r} is not a path: it must start with '/' and be percent-encoded, without spaces")
    if len(body) > COLLECT_MOST:
        raise ValueError(f"the body has {len(body)} bytes; at most {COLLECT_MOST} can be sent")
    if headers is None:
        names = set()
        lines = passing_lines(e)
    else:
        headers = list(headers.items() if hasattr(headers, "items") else headers)
        names = {name.lower() for name, _ in headers if isinstance(name, str)}
        lines = render_fields(headers, left)
        if "x-request-id" not in names:
            lines += field_line("X-Request-ID", request_id_of(e))
        if "traceparent" not in names:
            lines += field_line("traceparent", traceparent_of(e))
    made = MadeRequest.__new__(MadeRequest)
    made.method = method
    made.path = path
    made.lines = lines
    made.body = body
    made.has_host = "host" in names
    made.has_body = bool(body) or method not in ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE")
    return made


cdef bytes passing_lines(exchange *e):
    """The fields that an upstream would get if the request were forwarded, except Host and framing."""
    cdef buf *b = buf_borrow(&e.owner.loop.bufs, passing_size(e))
    cdef char *end
    if b is NULL:
        raise MemoryError
    try:
        end = put_passing(buf_head(b), e)
        return PyBytes_FromStringAndSize(buf_head(b), end - buf_head(b))
    finally:
        buf_return(&e.owner.loop.bufs, b)


cdef UpstreamResponse call_made(Host engine, exchange *e, const upstream_rec *group):
    cdef UpstreamResponse r = UpstreamResponse.__new__(UpstreamResponse)
    cdef call *k = <call *>calloc(1, sizeof(call))
    if k is NULL:
        raise MemoryError
    engine.c.n_calls += 1
    k.owner = engine.c
    k.ex = e
    k.snap = e.snap
    k.group = group
    k.flags = CALL_PYTHON                # drop frees it
    k.hash = e.consumer.identity
    if group.sticky.count:
        sticky_find(e, k)
    k.py = <void *>r
    r.engine = engine
    r.k = k
    return r


cdef buf *buf_of(core *c, bytes data) except NULL:
    cdef buf *b = buf_borrow(&c.loop.bufs, <size_t>len(data))
    if b is NULL:
        raise MemoryError
    memcpy(buf_head(b), PyBytes_AS_STRING(data), len(data))
    b.end = b.start + <uint32_t>len(data)
    return b


cdef str query_of(exchange *e):
    cdef bytearray room = bytearray(e.req.query.len + 1)
    cdef char *began = PyByteArray_AS_STRING(room)
    return room[:put_query(began, e) - began].decode("ascii")


# ---- names of the request -------------------------------------------------------------------

cdef str request_id_of(exchange *e):
    return PyBytes_FromStringAndSize(<const char *>e.request_id, 16).hex()


cdef str traceparent_of(exchange *e):
    return "00-{}-{}-{:02x}".format(
        PyBytes_FromStringAndSize(<const char *>e.trace_id, 16).hex(),
        PyBytes_FromStringAndSize(<const char *>&e.span_id, 8).hex(), e.trace_flags)
