"""refusal: the answer when a request is refused, made from the snapshot's templates."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.state cimport exchange

cdef enum:
    CAPABILITY_BYTES = 28     # expiry 4, consumer 8, tag 16
    CAPABILITY_TEXT = 38      # in base64url
    CAPABILITY_S = 3600       # how long the links in a refusal work

cdef enum Escape:             # how values are escaped, which is the form of the answer
    ESCAPE_NONE = 0           # header fields: their values were checked in the configuration
    ESCAPE_JSON = 1
    ESCAPE_MARKDOWN = 2
    ESCAPE_HTML = 3

cdef int refusal_escape(exchange *e, int reason) noexcept nogil
    # Escape of the body of its refusal, by what the client accepts
cdef int start_refusal(exchange *e, int reason) noexcept nogil
    # Queue the whole answer for this Reason, which has a template. 0; -1: no memory
cdef char *put_capability(char *p, exchange *e) noexcept nogil
    # The token of this request, CAPABILITY_TEXT characters. The snapshot must have a key
cdef char *put_allow(char *p, uint64_t methods) noexcept nogil
    # The Allow line for these methods, bits (1 << Method)
cdef void capability_tag(const uint64_t *key, const void *request_id, uint32_t expires, uint64_t consumer,
                         uint8_t *out) noexcept nogil
    # 16 bytes that nobody can make without the key
