"""parking: exchanges that wait for a decision before they go on.

Most requests are decided at once, in one pass through `exchange_head`. Some need something that is not
here yet: an answer of an authorization service, the keys of an issuer, a delay that is injected. Such
an exchange is *parked* at a stage, with nothing read from its client:

    exchange_head ── park(stage) ──▶ parked ──┬── unpark(reason) ─────▶ sink.go_on(e, reason)
                                              ├── deadline ───────────▶ sink.go_on(e, late)
                                              └── the client leaves ──▶ finish, as at any other time

What it waits for must not call `unpark` after the exchange is finished: whoever parks an exchange
removes it from their own lists in `leave` (ending.pyx), which `finish` calls.
"""
from libc.stdint cimport uint8_t, uint16_t

from fastgate._core.state cimport EX_PARKED


cdef void park(exchange *e, Stage stage, uint64_t until, int late) noexcept nogil:
    e.flags |= EX_PARKED
    e.stage = <uint8_t>stage
    e.late = <uint16_t>late
    e.answer_by = until
    e.down.codec.read(e, 0)
    e.down.codec.deadline(e)


cdef void unpark(exchange *e, int reason) noexcept nogil:
    e.flags &= ~EX_PARKED
    if e.answer_by:
        e.answer_by = 0
        e.down.codec.deadline(e)
    e.owner.sink.go_on(e, reason)


cdef void parked_late(exchange *e) noexcept nogil:
    unpark(e, e.late)
