"""tasks: a task of the event loop for each handler, from its call to the exchange's release.

The engine calls `begin_upcalls` and `wake_upcalls` after its rounds. A task ends in one of these ways.
In each of them, its money is settled and the exchange released:

    it returns                  its answer is kept; if there is none, the answer is a 500
    the client left             cancelled, with a bounded time to settle; nothing is answered
    it ran out of time          cancelled in the same way; the client has got its 504
    it raises                   500 or, if an answer had begun, it is broken off
    the worker ends             cancelled, with the same answers

Requests that are to be validated are in the same queue; they have no task (validating.pyx).
"""
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.exchange.handling cimport exchange_release
from fastgate._core.reason cimport OVERLOADED
from fastgate._core.platform.sys cimport monotonic_ns
from fastgate._core.state cimport EX_ABORTED, EX_RESPONSE_DONE, EX_VALIDATING, EX_WAKE, exchange
from fastgate._core.handlers.steps cimport steps_of
from fastgate._core.handlers.upcall cimport AMOUNT, Exchange
from fastgate._core.handlers.validating cimport run_validation

import asyncio
import logging

from fastgate._core.handlers.errors import ClientDisconnected, PaymentRefused, TooManyStreams

log = logging.getLogger("fastgate.handler")

cdef enum:
    VALIDATE_NS = 1000000     # after so much time of validations, the engine polls before the next one


async def run_handler(Exchange x not None, handler):
    """One handler's task, from its call to the exchange's release."""
    x.begun = True
    try:
        if x.gone or x.late:
            return
        await steps_of(x.engine, handler(x))
        x.finished()
    except asyncio.CancelledError:
        if not x.gone:
            x.failed()                   # the worker is being stopped
    except ClientDisconnected:
        pass
    except PaymentRefused as refusal:
        x.refuse(refusal.number)
    except TooManyStreams:
        x.refuse(OVERLOADED)
    except Exception:
        names = ("?", "?") if x.gone else (x.request_id, x.route)
        log.exception("request %s: the handler of route %s failed", *names)
        x.failed()
    finally:
        x.task = None
        try:
            x.settle_money()
        finally:
            x.let_go()


cdef inline exchange *pop(exchange **first, exchange **last) noexcept:
    """Remove the first exchange from a non-empty queue."""
    cdef exchange *e = first[0]
    first[0] = e.next
    if first[0] is NULL:
        last[0] = NULL
    e.next = NULL
    return e


cdef int begin_upcalls(Host engine, core *c) except -1:
    cdef exchange *e
    cdef Exchange x
    cdef uint64_t until = 0
    while c.upcall_head is not NULL:
        e = c.upcall_head
        if e.flags & EX_VALIDATING and not e.flags & EX_ABORTED:
            if until == 0:
                until = monotonic_ns() + VALIDATE_NS
            elif c.loop.now > until:
                break                    # has_more: the rest follows
        pop(&c.upcall_head, &c.upcall_tail)
        if e.flags & (EX_ABORTED | EX_RESPONSE_DONE):
            exchange_release(e)          # the client left, or the time was over, before Python began
            continue
        if e.flags & EX_VALIDATING:
            run_validation(engine, e)
            continue
        x = Exchange.__new__(Exchange)
        x.e = e
        x.c = c
        x.engine = engine
        x.loop = engine.loop
        x.responses = []
        x.declared = -1
        x.captured = -1
        x.amount.meter = AMOUNT
        Py_INCREF(x)
        e.py = <void *>x
        x.task = engine.loop.create_task(run_handler(x, (<list>e.ref.handlers)[e.policy.handler]))
    if until != 0:
        engine.follow_up()
    return 0


cdef int wake_upcalls(core *c) except -1:
    cdef exchange *e
    cdef uint32_t bits
    while c.wake_head is not NULL:
        e = pop(&c.wake_head, &c.wake_tail)
        e.flags &= ~EX_WAKE
        bits = e.wake
        e.wake = 0
        if e.py is not NULL:
            (<Exchange>e.py).notify(bits)
    return 0
