"""proxy_header: the PROXY protocol, versions 1 and 2: whose connection a proxy passes on (see proxy_header.pyx)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cpdef enum ProxyFault:        # texts: proxy_faults.py
    PROXY_ABSENT = 1          # what came does not begin with one
    PROXY_BAD_LINE = 2        # version 1: it is not the line that it has to be
    PROXY_BAD_COMMAND = 3     # version 2: another version, or an unknown command
    PROXY_BAD_FAMILY = 4      # version 2: unknown kind of address
    PROXY_BAD_LENGTH = 5      # version 2: too short for its addresses
    PROXY_BAD_TLV = 6         # version 2: what follows the addresses is damaged
    PROXY_BAD_CHECKSUM = 7
    PROXY_TOO_LONG = 8
    # These are found by the connection's owner.
    PROXY_CUT = 9             # the connection ended within it
    PROXY_LATE = 10           # it did not come in time
    PROXY_FAULTS = 11

cdef enum:
    PROXY_MOST = 4096         # bytes of a header, at most

cdef struct proxy_header:
    uint8_t announces         # 1: another client; 0: it speaks of no other than the peer
    uint16_t port             # the client's, host order
    uint8_t source[16]        # the client's address; IPv4 mapped

cdef int parse_proxy_header(proxy_header *h, const char *p, uint32_t n) noexcept nogil
    # > 0: bytes of the header, which is complete; 0: more are needed; < 0: minus a ProxyFault

# ---- headers of ours ----------------------------------------------------------------------
cdef enum:
    PROXY_WRITTEN = 128       # bytes of a header of ours, at most

cdef struct proxied:          # whose connection we pass on; equal ones are equal in all bytes
    uint8_t source[16]        # the client's address; IPv4 mapped
    uint8_t destination[16]   # where it connected to
    uint16_t source_port      # host order
    uint16_t destination_port
    uint16_t announces        # 0: nobody's, or a client without an address; then all else is 0

cdef char *put_proxy_header(char *p, int version, const proxied *w) noexcept nogil
