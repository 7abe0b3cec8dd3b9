"""call_error: why a call to an upstream failed, whose fault it was, and whether it may be sent again."""
from libc.stdint cimport uint8_t, uint16_t

from fastgate._core.state cimport call

# A slow or disconnected client is not among these: the exchange ends the call itself.
cdef enum Side:
    SIDE_OURS = 0             # the target did nothing wrong
    SIDE_UPSTREAM = 1         # counts as one of its failures

cdef enum Retryable:
    RETRY_NEVER = 0
    RETRY_IDEMPOTENT = 1      # the request may have been processed
    RETRY_ANY = 2             # none of it was sent

cdef struct call_error:
    uint16_t reason           # a Reason: what the client gets if the call is not retried
    uint8_t side              # Side
    uint8_t retryable         # Retryable
    uint8_t stale             # of a pooled connection that the upstream had already closed


cdef inline call_error error_of(int reason, int side, int retryable) noexcept nogil:
    cdef call_error error
    error.reason = <uint16_t>reason
    error.side = <uint8_t>side
    error.retryable = <uint8_t>retryable
    error.stale = 0
    return error

cdef call_error connect_error(int number) noexcept nogil         # the meaning of an errno of connect()
cdef call_error reset_error(const call *k) noexcept nogil        # it closed before the answer's head was complete
