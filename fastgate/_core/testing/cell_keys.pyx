"""cell_keys: the hashes that keys of cells are made of."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastgate._core.shared.cells cimport address_hash, hash_bytes, mix_key


def mix_key_py(uint64_t a, uint64_t b):
    """mix_key: one 64-bit key from two, never 0; the order matters."""
    return mix_key(a, b)


def hash_bytes_py(bytes data not None, uint64_t seed=0):
    """hash_bytes: a stable 64-bit hash."""
    return hash_bytes(<const char *>data, <uint32_t>len(data), seed)


def address_hash_py(bytes address not None):
    """The address part of a limit's key. 16 bytes (IPv4 mapped: ::ffff:a.b.c.d); IPv6 counts by /64."""
    if len(address) != 16:
        raise ValueError(f"an address has 16 bytes, not {len(address)}")
    return address_hash(<const uint8_t *><const char *>address)
