"""parser: the strict HTTP/1.1 message-head parser and body framing. Rules: docs/http.md.

The caller owns all memory. Results are spans: offsets into the caller's buffer. A parse is
resumable: call it again with the same head and the same buffer with more bytes. Whole or byte by
byte, the result is the same.
"""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http.head cimport caps, head

cdef enum:
    # Return values of the parse functions (besides > 0: bytes of the head, now complete).
    PARSE_INCOMPLETE = 0      # valid so far; call again with more bytes
    # < 0: minus a Reason of reason.pxd, e.g. -MALFORMED_REQUEST, -HEADERS_TOO_LARGE.

cdef int parse_request_line(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil
    # 1: it is complete now (method, target, version and the path's flags are set); 0: not yet, or it was
    # before; < 0 as parse_request. Calling this before parse_request is optional.
cdef int parse_request(head *h, const char *buf, uint32_t length, const caps *c) noexcept nogil
cdef int parse_response(head *h, const char *buf, uint32_t length, const caps *c,
                        uint8_t request_method) noexcept nogil
    # Sets framing for the answer to that method. -UPSTREAM_INVALID_RESPONSE on any fault.
    # A 1xx is returned as a complete head with FRAMING_NONE.
