"""target: the request target (see target.pyx)."""
from libc.stdint cimport uint32_t

from fastgate._core.platform.chars cimport fg_scanner
from fastgate._core.http.head cimport head

cdef int parse_target(head *h, const char *buf, uint32_t begin, uint32_t end) noexcept nogil
    # Target at [begin, end), " HTTP/1.x" after it; h.method_id is known. Fills form, authority,
    # path, query and flags; a ParseFault, or FAULT_NONE.

cdef void target_use_scanner(fg_scanner scanner) noexcept nogil
