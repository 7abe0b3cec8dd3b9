"""proxy_headers: the parser and the writer of PROXY headers for Python."""
from libc.string cimport memcpy, memset

from fastgate._core.io.proxy_header cimport (
    PROXY_WRITTEN, parse_proxy_header, proxied, proxy_header, put_proxy_header)


def parse(data: bytes) -> tuple[int, tuple[bytes, int] | None]:
    """(result, client) of parse_proxy_header. client: its address, 16 bytes, and port; None: it announces none."""
    cdef proxy_header h
    cdef int result = parse_proxy_header(&h, data, <unsigned int>len(data))
    if result <= 0 or not h.announces:
        return result, None
    return result, (<bytes>(<char *>h.source)[:16], h.port)


def written(int version, bytes source, bytes destination=None, int source_port=0, int destination_port=0) -> bytes:
    """The header of put_proxy_header. Addresses of 16 bytes; source None: there is no client."""
    cdef proxied w
    cdef char out[PROXY_WRITTEN]
    cdef char *end
    memset(&w, 0, sizeof(w))
    if source is not None:
        w.announces = 1
        memcpy(w.source, <const char *>source, 16)
        memcpy(w.destination, <const char *>destination, 16)
        w.source_port = source_port
        w.destination_port = destination_port
    end = put_proxy_header(out, version, &w)
    return out[:end - out]
