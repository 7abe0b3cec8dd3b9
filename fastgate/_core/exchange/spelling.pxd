"""spelling: names of fields as upstreams may read them."""
from libc.stdint cimport uint8_t, uint32_t

from fastgate._core.http.head cimport lower
from fastgate._core.platform.chars cimport CH_NAME, is_class

cdef inline int reads_as(const char *p, const char *lowered, uint32_t n) noexcept nogil:
    """Whether an upstream that takes "_", "." and the like for "-" would read this as the name."""
    cdef uint32_t i
    for i in range(n):
        if lower(<uint8_t>p[i]) != <uint8_t>lowered[i] and (is_class(p[i], CH_NAME) or lowered[i] != c"-"):
            return 0
    return 1
