"""chunked: the chunked transfer coding, in place (see chunked.pyx)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# Chunked bodies, decoded in place: `buf` comes in, canonical bytes go out at the same `buf`.
cdef enum:
    CHUNK_MORE = 0            # everything consumed, the body goes on
    CHUNK_END = 1             # the body ended at *consumed
    # < 0: minus a Reason (-MALFORMED_REQUEST)
    CHUNK_EXTRA_MAX = 16384   # octets of extensions and trailers in one body

# Why a body was refused; for logs and tests.
cpdef enum ChunkFault:
    CHUNK_FAULT_NONE = 0
    CHUNK_FAULT_SIZE = 1      # no digit where the size must begin, or something else after it
    CHUNK_FAULT_OVERFLOW = 2  # more than 16 digits, or more than 2^62
    CHUNK_FAULT_EXTENSION = 3 # bare ";", whitespace, control character, open quote
    CHUNK_FAULT_LINE = 4      # a line that does not end with CRLF
    CHUNK_FAULT_DATA = 5      # no CRLF where the chunk's data must end
    CHUNK_FAULT_TRAILER = 6   # a trailer that is not a field line
    CHUNK_FAULT_EXTRA = 7     # extensions and trailers over CHUNK_EXTRA_MAX

cdef struct chunk_state:
    uint64_t remaining        # bytes left of this chunk's data
    uint64_t total            # data bytes seen so far (for body caps)
    uint32_t extension        # bytes of chunk extensions and trailers seen so far (capped)
    uint8_t state
    uint8_t digits
    uint16_t fault            # ChunkFault, when refused

cdef void chunk_reset(chunk_state *s) noexcept nogil
cdef int chunk_relay(chunk_state *s, char *buf, uint32_t length,
                     uint32_t *consumed, uint32_t *out_len) noexcept nogil
    # out: still chunked, canonical: sizes are kept as they came without leading zeros (hex digits keep
    # their case; a size that began with zeros keeps one), extensions and trailers are dropped; ends
    # with 0 CRLF CRLF. out_len <= consumed.
cdef int chunk_decode(chunk_state *s, char *buf, uint32_t length,
                      uint32_t *consumed, uint32_t *out_len) noexcept nogil
    # out: the data bytes alone.
