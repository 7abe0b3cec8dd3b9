"""parse_bench: how long the parse of a head takes."""
from libc.stdint cimport uint32_t, uint64_t

from fastgate._core.http.head cimport METHOD_GET, caps, head, head_reset
from fastgate._core.http1.parser cimport parse_request, parse_response

from fastgate._core.testing.parsed_head import DEFAULT_CAPS


def bench_parse(bytes data not None, uint64_t n, bint response=False) -> int:
    """Parse the same head n times in C; returns n. Raises ValueError if it is not a complete head."""
    cdef head h
    cdef caps c
    cdef const char *p = data
    cdef uint32_t length = <uint32_t>len(data)
    cdef uint64_t i
    cdef int rc = 0
    c.line, c.head, c.fields, c.field = DEFAULT_CAPS
    with nogil:
        for i in range(n):
            head_reset(&h)
            if response:
                rc = parse_response(&h, p, length, &c, METHOD_GET)
            else:
                rc = parse_request(&h, p, length, &c)
            if rc <= 0:
                break
    if rc <= 0:
        raise ValueError(f"not a complete head: {rc}, fault {h.fault}")
    return n
