"""currency: the three letters of a currency as a number in shared memory and images."""
from libc.stdint cimport uint32_t

cdef uint32_t currency_code(str text) except? 0     # ValueError: not three letters, and not ""
cdef str currency_text(uint32_t code)
