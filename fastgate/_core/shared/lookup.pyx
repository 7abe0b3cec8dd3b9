"""lookup: finding a credential in the index, as workers do for each request (credentials.pyx)."""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastgate._core.shared.credentials cimport KEY_MAX
from fastgate._core.tls.openssl cimport sha256

cdef enum:
    DIGEST = 32


cdef inline int is_remembered(const key_memory *last, const char *key, uint32_t length) noexcept nogil:
    """Takes the same time for any bytes: behind a proxy, a connection may carry the keys of many clients."""
    cdef uint32_t i
    cdef uint8_t differ = 0
    if last.length != length:
        return 0
    for i in range(length):
        differ |= <uint8_t>(last.key[i] ^ key[i])
    return differ == 0


cdef int credential_find(CredentialIndex index, const char *key, uint32_t length, int64_t now_s, key_memory *last,
                         const consumer_row **row, const credential_entry **entry) noexcept nogil:
    cdef uint8_t digest[DIGEST]
    cdef const uint8_t *known = digest
    cdef uint64_t word = 0
    entry[0] = NULL
    if length <= KEY_MAX:
        if last is not NULL and length != 0 and is_remembered(last, key, length):
            known = last.digest
        else:
            sha256(<const unsigned char *>key, length, digest)
            if last is not NULL and length <= REMEMBERED:
                last.length = <uint8_t>length
                memcpy(last.key, key, length)
                memcpy(last.digest, digest, DIGEST)
        entry[0] = index.slot_of(known, &word)
        if word == 0:
            entry[0] = NULL
    return index.judge(entry[0], word, now_s, row)


cdef int credential_of(CredentialIndex index, const uint8_t *digest, int64_t now_s, const consumer_row **row,
                       const credential_entry **entry) noexcept nogil:
    cdef uint64_t word = 0
    entry[0] = index.slot_of(digest, &word)
    if word == 0:
        entry[0] = NULL
    return index.judge(entry[0], word, now_s, row)
