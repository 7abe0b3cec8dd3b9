"""proxy_header: the PROXY protocol, versions 1 and 2: whose connection a proxy passes on.

    1   PROXY TCP4 203.0.113.9 10.0.0.1 51234 443\\r\\n       at most 107 bytes
        PROXY UNKNOWN ...\\r\\n

    2   | signature 12 | 2, command 4 bits each | family 1 | length 2 | addresses | TLVs |
        command 0: LOCAL, the proxy speaks for itself (health checks); 1: PROXY

It is the first thing on a connection, before TLS too. Nothing here reads a socket: the functions take the
bytes that have come so far, and need no state between two calls. The verdict on a beginning is "more" or that on the
whole, so it does not matter how a header is split.

A header announces a client if it has a TCP address. With LOCAL and UNKNOWN, and for datagrams and Unix
sockets, which we have no use for, the peer itself counts as the client, and the rest of the header is not looked at.
TLVs are skipped, except for the checksum (CRC32C).

`put_proxy_header` writes the headers that upstreams get. If only one of the two addresses is IPv4, both are written as
IPv6, the former mapped.

The standard: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""
from libc.string cimport memcmp, memcpy, memset, strlen

from fastgate._core.io.socket_address cimport MAPPED, is_mapped
from fastgate._core.platform.sys cimport AF_INET, AF_INET6, inet_ntop, inet_pton
from fastgate._core.platform.text cimport put, put_lit, put_uint

cdef enum:
    LINE_MOST = 107           # of version 1, with its end
    FIXED = 16                # of version 2: what precedes the addresses
    LOCAL = 0x20              # version and command
    PROXY = 0x21
    TCP4 = 0x11               # family and protocol
    TCP6 = 0x21
    CRC32C = 0x03             # type of a TLV
    CRC32C_POLYNOMIAL = 0x82F63B78
    ADDRESS_TEXT = 46

cdef const char *SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
cdef const uint8_t *ZEROS = <const uint8_t *>b"\0\0\0\0"

cdef uint32_t CRC[16]


cdef void _fill() noexcept nogil:
    """What four bits at a time do to the checksum."""
    cdef uint32_t i, bit, value
    for i in range(16):
        value = i
        for bit in range(4):
            value = value >> 1 ^ (<uint32_t>CRC32C_POLYNOMIAL if value & 1 else 0)
        CRC[i] = value


_fill()


# ---- version 1 --------------------------------------------------------------------------------

cdef int line_address(const char *p, uint32_t n, int family, uint8_t *out) noexcept nogil:
    cdef char text[ADDRESS_TEXT]
    if n >= ADDRESS_TEXT:
        return 0
    memcpy(text, p, n)
    text[n] = 0
    if strlen(text) != n:
        return 0
    if family == AF_INET6:
        return inet_pton(AF_INET6, text, out) == 1
    memcpy(out, MAPPED, 12)
    return inet_pton(AF_INET, text, out + 12) == 1


cdef int line_port(const char *p, uint32_t n, uint16_t *out) noexcept nogil:
    cdef uint32_t i, value = 0
    if n > 5 or (p[0] == 48 and n != 1):
        return 0
    for i in range(n):
        if not 48 <= p[i] <= 57:
            return 0
        value = value * 10 + <uint32_t>(p[i] - 48)
    out[0] = <uint16_t>value
    return value <= 0xffff


cdef int parse_client(proxy_header *h, const char *p, uint32_t n, int family) noexcept nogil:
    """Source, destination and their ports, separated by single spaces, and nothing else. 1, or 0."""
    cdef uint32_t starts[4]
    cdef uint32_t lengths[4]
    cdef uint32_t i, at = 0
    cdef uint8_t destination[16]
    cdef uint16_t port
    for i in range(4):
        starts[i] = at
        while at < n and p[at] != 32:
            at += 1
        lengths[i] = at - starts[i]
        if lengths[i] == 0 or (at == n) != (i == 3):
            return 0
        at += 1
    h.announces = 1
    return (
        line_address(p + starts[0], lengths[0], family, h.source)
        and line_address(p + starts[1], lengths[1], family, destination)
        and line_port(p + starts[2], lengths[2], &h.port)
        and line_port(p + starts[3], lengths[3], &port))


cdef int parse_line(proxy_header *h, const char *p, uint32_t n) noexcept nogil:
    cdef uint32_t i, end = 0
    cdef int valid
    if memcmp(p, b"PROXY ", n if n < 6 else 6) != 0:
        return -<int>PROXY_ABSENT
    for i in range(6, n if n < LINE_MOST else LINE_MOST):
        if p[i] == 10:
            end = i - 1
            break
    if end == 0:
        return 0 if n < LINE_MOST else -<int>PROXY_TOO_LONG
    if p[end] != 13:
        return -<int>PROXY_BAD_LINE
    if end >= 13 and memcmp(p + 6, b"UNKNOWN", 7) == 0:
        valid = end == 13 or p[13] == 32
    elif end >= 11 and memcmp(p + 6, b"TCP4 ", 5) == 0:
        valid = parse_client(h, p + 11, end - 11, AF_INET)
    elif end >= 11 and memcmp(p + 6, b"TCP6 ", 5) == 0:
        valid = parse_client(h, p + 11, end - 11, AF_INET6)
    else:
        valid = 0
    return <int>end + 2 if valid else -<int>PROXY_BAD_LINE


# ---- version 2 --------------------------------------------------------------------------------

cdef uint32_t crc32c(uint32_t crc, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        crc ^= p[i]
        crc = crc >> 4 ^ CRC[crc & 15]
        crc = crc >> 4 ^ CRC[crc & 15]
    return crc


cdef int sum_matches(const uint8_t *p, uint32_t at, uint32_t size) noexcept nogil:
    """Whether the checksum at that place is that of the header with zeros in its place."""
    cdef uint32_t crc = crc32c(0xffffffff, p, at)
    crc = crc32c(crc, ZEROS, 4)
    crc = ~crc32c(crc, p + at + 4, size - at - 4)
    return crc == (
        <uint32_t>p[at] << 24 | <uint32_t>p[at + 1] << 16 | <uint32_t>p[at + 2] << 8 | <uint32_t>p[at + 3])


cdef int check_tlvs(const uint8_t *p, uint32_t at, uint32_t size) noexcept nogil:
    """0, or the ProxyFault."""
    cdef uint32_t length
    while at != size:
        if size - at < 3:
            return PROXY_BAD_TLV
        length = <uint32_t>p[at + 1] << 8 | p[at + 2]
        if size - at - 3 < length:
            return PROXY_BAD_TLV
        if p[at] == CRC32C and (length != 4 or not sum_matches(p, at + 3, size)):
            return PROXY_BAD_CHECKSUM
        at += 3 + length
    return 0


cdef int addresses_size(uint8_t family) noexcept nogil:
    """Bytes of two addresses of this family, with their ports; -1: it is unknown."""
    if family == 0:
        return 0
    if family == TCP4 or family == 0x12:
        return 12
    if family == TCP6 or family == 0x22:
        return 36
    return 216 if family == 0x31 or family == 0x32 else -1


cdef int parse_binary(proxy_header *h, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t size
    cdef int addresses = 0, fault
    if memcmp(p, SIGNATURE, n if n < 12 else 12) != 0:
        return -<int>PROXY_ABSENT
    if n > 12 and p[12] != LOCAL and p[12] != PROXY:
        return -<int>PROXY_BAD_COMMAND
    if n > 13 and p[12] == PROXY:
        addresses = addresses_size(p[13])
        if addresses < 0:
            return -<int>PROXY_BAD_FAMILY
    if n < FIXED:
        return 0
    size = FIXED + (<uint32_t>p[14] << 8 | p[15])
    if size > PROXY_MOST:
        return -<int>PROXY_TOO_LONG
    if size < FIXED + <uint32_t>addresses:
        return -<int>PROXY_BAD_LENGTH
    if n < size:
        return 0
    if p[12] == PROXY and (p[13] == TCP4 or p[13] == TCP6):
        fault = check_tlvs(p, FIXED + <uint32_t>addresses, size)
        if fault:
            return -fault
        h.announces = 1
        if p[13] == TCP6:
            memcpy(h.source, p + FIXED, 16)
        else:
            memcpy(h.source, MAPPED, 12)
            memcpy(h.source + 12, p + FIXED, 4)
        p += FIXED + (8 if p[13] == TCP4 else 32)
        h.port = <uint16_t>(p[0] << 8 | p[1])
    return <int>size


cdef int parse_proxy_header(proxy_header *h, const char *p, uint32_t n) noexcept nogil:
    memset(h, 0, sizeof(proxy_header))
    if n == 0:
        return 0
    return parse_binary(h, <const uint8_t *>p, n) if p[0] == 13 else parse_line(h, p, n)


# ---- headers of ours ----------------------------------------------------------------------------

cdef inline int both_v4(const proxied *w) noexcept nogil:
    return is_mapped(w.source) and is_mapped(w.destination)


cdef char *put_address(char *p, const uint8_t *address, int v4) noexcept nogil:
    inet_ntop(AF_INET if v4 else AF_INET6, address + 12 if v4 else address, p, ADDRESS_TEXT)
    return put_lit(p + strlen(p), " ")


cdef char *put_line(char *p, const proxied *w) noexcept nogil:
    cdef int v4
    if not w.announces:
        return put_lit(p, "PROXY UNKNOWN\r\n")
    v4 = both_v4(w)
    p = put_lit(p, "PROXY TCP4 ") if v4 else put_lit(p, "PROXY TCP6 ")
    p = put_address(put_address(p, w.source, v4), w.destination, v4)
    p = put_lit(put_uint(p, w.source_port), " ")
    return put_lit(put_uint(p, w.destination_port), "\r\n")


cdef inline char *put_octet(char *p, uint32_t value) noexcept nogil:
    p[0] = <char>value
    return p + 1


cdef char *put_binary(char *p, const proxied *w) noexcept nogil:
    cdef int v4
    cdef uint32_t skip
    p = put(p, SIGNATURE, 12)
    if not w.announces:
        p = put_octet(p, LOCAL)
        return put(p, <const char *>ZEROS, 3)
    v4 = both_v4(w)
    skip = 12 if v4 else 0
    p = put_octet(put_octet(p, PROXY), TCP4 if v4 else TCP6)
    p = put_octet(put_octet(p, 0), 12 if v4 else 36)
    p = put(p, <const char *>w.source + skip, 16 - skip)
    p = put(p, <const char *>w.destination + skip, 16 - skip)
    p = put_octet(put_octet(p, w.source_port >> 8), w.source_port & 255)
    return put_octet(put_octet(p, w.destination_port >> 8), w.destination_port & 255)


cdef char *put_proxy_header(char *p, int version, const proxied *w) noexcept nogil:
    return put_line(p, w) if version == 1 else put_binary(p, w)
