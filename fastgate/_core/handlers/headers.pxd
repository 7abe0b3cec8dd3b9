"""headers: the fields of messages as Python handlers read and write them."""
from libc.stdint cimport uint64_t

from fastgate._core.http.head cimport head

cdef class Headers:
    cdef list pairs

cdef Headers headers_of(const head *h, const char *base, uint64_t hidden)
cdef bint is_token(object text) except -1
    # whether this is a str that may be a method or the name of a field
cdef bytes field_line(str name, str value)
    # one line, with its end
cdef bytes render_fields(object headers, list left)
    # field lines, checked; framing fields are put into `left` instead, as (lower-case name, value)
