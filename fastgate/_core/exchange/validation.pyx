"""validation: requests that Python validates before they are charged, and that go on in C.

    admit ─▶ validate ─▶ body collected ─▶ queued ─▶ Python ─┬─ valid ────▶ charge ─▶ answer, as without it
                                                             └─ not valid ─▶ 400 request_invalid

Python looks at the request and says what is wrong with it (handlers/validating.pyx); it does not answer it. A
valid request goes on with its collected body, which is sent to the upstream in one piece, and again for each
retry, like one that came whole with the head. Nothing is charged or held before.

Limits count a request that is not valid, because it costs work; quotas, which are what a plan includes, do not.
"""
from fastgate._core.exchange.collecting cimport collect_begin, queue_for_python
from fastgate._core.exchange.ending cimport exchange_refuse, uncount_handler
from fastgate._core.platform.buffer cimport buf_head, buf_len
from fastgate._core.shared.counters cimport counters_route, fg_count
from fastgate._core.state cimport EX_SUSPENDED, EX_VALIDATING, STAGE_CHARGE


cdef int validate(exchange *e) noexcept nogil:
    e.flags |= EX_VALIDATING
    if collect_begin(e):
        queue_for_python(e)
    return -1


cdef void validation_collected(exchange *e) noexcept nogil:
    queue_for_python(e)


cdef void leave(exchange *e) noexcept nogil:
    e.flags &= ~(EX_SUSPENDED | EX_VALIDATING)
    uncount_handler(e)


cdef void validation_passed(exchange *e) noexcept nogil:
    leave(e)
    if e.body is not NULL:
        e.inline_body = buf_head(e.body)
        e.inline_len = buf_len(e.body)
    fg_count(&counters_route(e.owner.segment, e.owner.worker, e.match.slot).validated, 1)
    e.stage = STAGE_CHARGE
    e.owner.sink.go_on(e, 0)


cdef void validation_refused(exchange *e, int reason) noexcept nogil:
    leave(e)
    exchange_refuse(e, reason)
