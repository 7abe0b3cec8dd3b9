"""fields: lines and fields of a head (see fields.pyx)."""
from libc.stdint cimport int64_t, uint32_t

from fastgate._core.platform.chars cimport fg_scanner
from fastgate._core.http.head cimport caps, head

cdef enum:
    LINE_MORE = -1            # not complete yet
    LINE_FAULT = -2           # h.fault is the reason

# What Connection and Upgrade contained, in head.options.
cdef enum:
    OPTION_CLOSE = 1
    OPTION_KEEP_ALIVE = 2
    OPTION_UPGRADE = 4
    OPTION_WEBSOCKET = 8      # Upgrade: websocket
    OPTION_PROTOCOL = 16      # another Upgrade

cdef int64_t read_line(head *h, const char *buf, uint32_t length, uint32_t cap,
                       uint32_t head_cap, int too_long) noexcept nogil
    # Offset of the CR that ends the line at h.line, or LINE_*.

cdef int64_t read_fields(head *h, const char *buf, uint32_t length, const caps *c,
                         bint response) noexcept nogil
    # Reads field lines up to the empty one. Returns its CR, or LINE_*.

cdef void name_hops(head *h, const char *buf) noexcept nogil
    # Marks the fields that Connection names, except the protected ones.

cdef void fields_use_scanner(fg_scanner scanner) noexcept nogil
