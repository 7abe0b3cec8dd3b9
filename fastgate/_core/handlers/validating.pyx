"""validating: requests that Python validates, and that go on in C.

    validator(view) ─┬─ None ────▶ it is valid: it is charged, and answered as any other
                     └─ errors ──▶ 400 request_invalid, with what errors.rendered(form) gives

A validator is a function, called when the whole request is here. It is called between two rounds, without a task of
the event loop: the worker serves nobody until it returns. This is counted as a step of a handler. If it raises, the
client gets a 500, and the traceback is in the worker's log.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastgate._core.exchange.refusal cimport ESCAPE_HTML, ESCAPE_MARKDOWN, refusal_escape
from fastgate._core.exchange.validation cimport validation_passed, validation_refused
from fastgate._core.handlers.calling cimport query_of, request_id_of
from fastgate._core.http.head cimport FIELD_CREDENTIAL, field, named
from fastgate._core.platform.buffer cimport buf_borrow, buf_head, buf_len
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.reason cimport INTERNAL_ERROR, REQUEST_INVALID
from fastgate._core.shared.counters cimport observe
from fastgate._core.snapshot.snapshot cimport snap_str
from fastgate._core.state cimport core

import logging

log = logging.getLogger("fastgate.validation")

cdef enum:
    FIRST_MOST = 500          # bytes of the first error in words
    LIST_MOST = 8192          # bytes of the list: the room that templates leave (refusal/bodies.py)


cdef class RequestView:
    """A request as its validator sees it. Valid only during the call. What the gateway takes out of the request, such
    as an API key, is not in it."""

    @property
    def method(self) -> str:
        """The method, as it was sent."""
        self.check()
        return PyBytes_FromStringAndSize(self.e.base + self.e.req.method.off, self.e.req.method.len).decode("ascii")

    @property
    def path(self) -> str:
        """The canonical path, as the router matched it; percent-encoded."""
        self.check()
        return PyBytes_FromStringAndSize(self.e.path, self.e.path_len).decode("ascii")

    @property
    def query(self) -> str:
        """The query without "?"; percent-encoded."""
        self.check()
        return query_of(self.e)[1:]

    @property
    def body(self) -> bytes:
        """The whole body, without its framing."""
        self.check()
        if self.e.body is not NULL:
            return PyBytes_FromStringAndSize(buf_head(self.e.body), buf_len(self.e.body))
        if self.e.inline_len:
            return PyBytes_FromStringAndSize(self.e.inline_body, self.e.inline_len)
        return b""

    def field(self, bytes name not None) -> str | None:
        """The values of a header field, joined by ", "; in Latin-1. `name`: in lower case. None: there is none."""
        cdef const field *f
        cdef uint32_t i
        cdef bytes value = None
        self.check()
        for i in range(self.e.req.nfields):
            f = &self.e.req.fields[i]
            if f.flags & FIELD_CREDENTIAL or not named(self.e.base, f, PyBytes_AS_STRING(name), <uint32_t>len(name)):
                continue
            found = PyBytes_FromStringAndSize(self.e.base + f.value, f.value_len)
            value = found if value is None else value + b", " + found
        return None if value is None else value.decode("latin-1")

    cdef int check(self) except -1:
        if self.e is NULL:
            raise RuntimeError("the validation is over")
        return 0


cdef int run_validation(Host engine, exchange *e) except -1:
    cdef core *c = engine.c
    cdef RequestView view = RequestView.__new__(RequestView)
    cdef uint64_t began = monotonic_ns()
    cdef int reason = 0
    view.e = e
    try:
        errors = (<list>e.ref.handlers)[e.policy.validator](view)
        if errors is not None:
            reason = REQUEST_INVALID
            keep_errors(e, errors)
    except Exception:
        reason = INTERNAL_ERROR
        log.exception("request %s: the validation of route %s failed", request_id_of(e), PyBytes_FromStringAndSize(
            snap_str(e.snap, e.route.name), e.route.name.len).decode())
    finally:
        view.e = NULL
        c.loop.now = monotonic_ns()
        observe(&c.counters.upcall_lag, c.loop.now - began)
    if reason == 0:
        validation_passed(e)
    else:
        validation_refused(e, reason)
    return 0


cdef int keep_errors(exchange *e, errors) except -1:
    """Keep what its refusal shows, in the form in which the client gets it."""
    cdef int escape = refusal_escape(e, REQUEST_INVALID)
    cdef bytes first, listed
    first, listed, count = errors.rendered(
        "html" if escape == ESCAPE_HTML else "markdown" if escape == ESCAPE_MARKDOWN else "json")
    if len(first) > FIRST_MOST or len(listed) > LIST_MOST:
        raise ValueError(f"{len(first)} and {len(listed)} bytes of errors are too many")
    e.errors = buf_borrow(&e.owner.loop.bufs, <size_t>(len(first) + len(listed)))
    if e.errors is NULL:
        return 0                         # the refusal is without them
    memcpy(buf_head(e.errors), PyBytes_AS_STRING(first), len(first))
    memcpy(buf_head(e.errors) + len(first), PyBytes_AS_STRING(listed), len(listed))
    e.errors.end = e.errors.start + <uint32_t>(len(first) + len(listed))
    e.first_error = <uint32_t>len(first)
    e.n_errors = count
    return 0
