"""caller: the consumer that a credential belongs to, and whether their account and plan let them call."""
from libc.stdint cimport uint8_t

from fastgate._core.shared.consumer_row cimport consumer_row
from fastgate._core.shared.credentials cimport credential_entry
from fastgate._core.state cimport core, exchange

cdef enum Authentication:     # besides 0: accepted, and the Reasons
    AUTH_PARKED = -1          # a decision is awaited: the exchange is parked
    AUTH_ABSENT = -2          # the request has no credential of this kind

cdef int admit_caller(core *c, exchange *e, int found, const consumer_row *row,
                      const credential_entry *entry) noexcept nogil
    # `found`: what the lookup of the credential said. 0 or a Reason.
cdef int includes_service(exchange *e) noexcept nogil             # 0, or the Reason
cdef int admit_digest(core *c, exchange *e, const uint8_t *digest, int anonymous) noexcept nogil
    # Who has the credential with this digest. 0, a Reason; AUTH_ABSENT: nobody, and not `anonymous`.
