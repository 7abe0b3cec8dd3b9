"""authorities: hosts and ports, parsed for Python."""
from libc.stdint cimport uint32_t

from fastgate._core.http.uri cimport AUTHORITY_OK, authority, parse_authority


def split_authority(value: bytes) -> tuple[bytes, int] | int:
    """(host, port or -1), or a negative AUTHORITY_* number."""
    cdef authority a
    cdef int rc = parse_authority(value, <uint32_t>len(value), &a)
    return (value[: a.host_len], a.port) if rc == AUTHORITY_OK else rc
