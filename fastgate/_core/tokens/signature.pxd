"""signature: whether a key made a signature (see signature.pyx)."""
from libc.stdint cimport uint8_t

from fastgate._core.tokens.issuers cimport token_key

cdef int signature_valid(token_key *k, int algorithm, const char *text, size_t length, const uint8_t *signature,
                         size_t size) noexcept nogil
    # `algorithm`: its index in ALGORITHM_NAMES, one of the key's. 0 for anything that is wrong.
cdef int algorithm_named(const char *name, size_t length) noexcept nogil     # its index; -1: unknown
