"""lookup: finding a credential in the index, as workers do for each request."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastgate._core.shared.consumer_row cimport consumer_row
from fastgate._core.shared.credentials cimport CredentialIndex, credential_entry

cdef enum:
    REMEMBERED = 64           # bytes of the longest key that a connection remembers

# The key that a connection sent last: the next request mostly has the same key, which need not be hashed again.
cdef struct key_memory:
    uint8_t length            # 0: none
    uint8_t digest[32]
    char key[REMEMBERED]


# As `lookup`, and returns the entry with its identity and spending cap. NULL for CREDENTIAL_UNKNOWN.
# last: NULL, or the key that the connection remembers.
cdef int credential_find(CredentialIndex index, const char *key, uint32_t length, int64_t now_s, key_memory *last,
                         const consumer_row **row, const credential_entry **entry) noexcept nogil

# The same by digest, for a credential that is no API key.
cdef int credential_of(CredentialIndex index, const uint8_t *digest, int64_t now_s, const consumer_row **row,
                       const credential_entry **entry) noexcept nogil
