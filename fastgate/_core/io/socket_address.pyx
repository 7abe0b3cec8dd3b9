"""socket_address: a socket address as 16 bytes and a port, IPv4 mapped into IPv6."""
from libc.string cimport memcmp, memcpy

from fastgate._core.platform.sys cimport AF_INET, AF_INET6, ntohs, sockaddr_in, sockaddr_in6

MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


cdef int socket_address(const sockaddr_storage *s, uint8_t *address, uint16_t *port) noexcept nogil:
    cdef const sockaddr_in *v4
    cdef const sockaddr_in6 *v6
    if s.ss_family == AF_INET:
        v4 = <const sockaddr_in *>s
        memcpy(address, MAPPED, 12)
        memcpy(address + 12, &v4.sin_addr, 4)
        port[0] = ntohs(v4.sin_port)
        return 1
    if s.ss_family == AF_INET6:
        v6 = <const sockaddr_in6 *>s
        memcpy(address, &v6.sin6_addr, 16)
        port[0] = ntohs(v6.sin6_port)
        return 1
    return 0


cdef int is_mapped(const uint8_t *address) noexcept nogil:
    return memcmp(address, MAPPED, 12) == 0
