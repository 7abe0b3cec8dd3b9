"""head: what all heads have in common: resetting one, methods by name, a fault's Reason."""
from libc.string cimport memcmp

from fastgate._core.platform.text cimport fg_clear
from fastgate._core.reason cimport (
    AMBIGUOUS_FRAMING, BAD_HOST, BAD_TARGET, HEADERS_TOO_LARGE, MALFORMED_REQUEST, NOT_IMPLEMENTED,
    TARGET_TOO_LONG, VERSION_NOT_SUPPORTED)


cdef void head_reset(head *h) noexcept nogil:
    fg_clear(h, sizeof(head) - sizeof(h.fields))
    h.content_length = -1


cdef int fault_reason(int fault) noexcept nogil:
    if FAULT_TARGET_MISSING <= fault <= FAULT_TARGET_NUL:
        return BAD_TARGET
    if FAULT_HOST_MISSING <= fault <= FAULT_HOST_MISMATCH:
        return BAD_HOST
    if fault == FAULT_CODING_UNKNOWN:
        return NOT_IMPLEMENTED
    if FAULT_LENGTH_INVALID <= fault <= FAULT_CODING_HTTP10:
        return AMBIGUOUS_FRAMING
    if fault == FAULT_VERSION_UNSUPPORTED:
        return VERSION_NOT_SUPPORTED
    if fault == FAULT_LINE_TOO_LONG:
        return TARGET_TOO_LONG
    if FAULT_FIELD_TOO_LONG <= fault <= FAULT_HEAD_TOO_LARGE:
        return HEADERS_TOO_LARGE
    return MALFORMED_REQUEST


cdef uint8_t method_of(const char *p, uint32_t n) noexcept nogil:
    if n == 3:
        if memcmp(p, b"GET", 3) == 0:
            return METHOD_GET
        if memcmp(p, b"PUT", 3) == 0:
            return METHOD_PUT
    elif n == 4:
        if memcmp(p, b"POST", 4) == 0:
            return METHOD_POST
        if memcmp(p, b"HEAD", 4) == 0:
            return METHOD_HEAD
    elif n == 5:
        if memcmp(p, b"PATCH", 5) == 0:
            return METHOD_PATCH
        if memcmp(p, b"TRACE", 5) == 0:
            return METHOD_TRACE
    elif n == 6:
        if memcmp(p, b"DELETE", 6) == 0:
            return METHOD_DELETE
    elif n == 7:
        if memcmp(p, b"OPTIONS", 7) == 0:
            return METHOD_OPTIONS
        if memcmp(p, b"CONNECT", 7) == 0:
            return METHOD_CONNECT
    return METHOD_OTHER
