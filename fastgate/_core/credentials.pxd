"""credentials: SHA-256 of a key → who calls. Written by control, read by workers, no lock.

Its own memfd, not the segment: control makes a larger one when it fills and sends its
descriptor to the workers.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cpdef enum CredentialState:
    CREDENTIAL_FREE = 0
    CREDENTIAL_ACTIVE = 1
    CREDENTIAL_REVOKED_STATE = 2

cpdef enum ConsumerFlag:
    CONSUMER_SUSPENDED_FLAG = 1

cdef enum:
    LOOKUP_OK = 0
    # else a Reason: CREDENTIAL_UNKNOWN, _EXPIRED, _REVOKED, CONSUMER_SUSPENDED

cdef struct consumer_row:     # 256 bytes, immutable once published; a change writes a new row
    uint64_t identity         # hash of the consumer's id: key of its limits
    uint64_t account          # hash of the account's id (later)
    uint32_t plan             # plan slot, or NONE32
    uint32_t flags            # ConsumerFlag
    uint8_t id_len
    uint8_t name_len
    uint8_t plan_len
    uint8_t reserved[5]
    char id[64]
    char name[96]
    char plan_name[56]

cdef struct credential_entry: # 64 bytes
    uint8_t digest[32]
    uint64_t word             # state in the low 8 bits, consumer row << 32; stored last, release
    int64_t expires_at        # Unix seconds; 0: never
    uint64_t identity         # of the credential
    uint64_t reserved

cdef class CredentialIndex:
    cdef readonly int fd
    cdef char *base
    cdef size_t size
    cdef readonly bint writable
    cdef int lookup(self, const char *key, uint32_t length, int64_t now_s,
                    const consumer_row **row, uint64_t *identity) noexcept nogil
