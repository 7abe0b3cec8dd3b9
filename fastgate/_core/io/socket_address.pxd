"""socket_address: a socket address as 16 bytes and a port, IPv4 mapped into IPv6."""
from libc.stdint cimport uint8_t, uint16_t

from fastgate._core.platform.sys cimport sockaddr_storage

cdef const char *MAPPED       # the 12 bytes before a mapped IPv4 address

cdef int socket_address(const sockaddr_storage *s, uint8_t *address, uint16_t *port) noexcept nogil
    # 1; 0: it has no address (Unix sockets), and nothing is written. port: host order
cdef int is_mapped(const uint8_t *address) noexcept nogil         # whether it is an IPv4 address
