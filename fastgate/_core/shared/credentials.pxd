"""credentials: SHA-256 of a key → the caller. Written by control, read by workers, without a lock.

It has its own memfd, not the segment: when it fills, control creates a larger one and sends its
descriptor to the workers.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgate._core.shared.consumer_row cimport consumer_row

cpdef enum CredentialState:
    CREDENTIAL_FREE = 0
    CREDENTIAL_ACTIVE = 1
    CREDENTIAL_REVOKED_STATE = 2

cdef enum:
    KEY_MAX = 1024            # bytes; a longer key is rejected as unknown without being hashed
    LOOKUP_OK = 0
    # else a Reason: CREDENTIAL_UNKNOWN, _EXPIRED, _REVOKED, CONSUMER_SUSPENDED

cdef struct credential_entry: # 64 bytes
    uint8_t digest[32]
    uint64_t word             # state in the low 8 bits, then the consumer's flags that refuse it
                              # (credentials.pyx), consumer row << 32; stored last, with release
    uint32_t expires_at       # Unix seconds, until 2106; 0: never
    uint32_t changed_at       # Unix seconds when it was last put, revoked or repointed
    uint64_t spending         # cap of this credential: micro-units << 8 | Period; 0: none
    uint64_t identity         # of the credential

cdef struct index_header:     # 4096 bytes
    uint8_t magic[8]          # "FGCRED\0\0"
    uint32_t version
    uint32_t reserved
    uint64_t epoch            # larger for each index that replaces another
    uint64_t slots            # credential_entry's, a power of two
    uint64_t rows             # consumer_row's
    uint64_t entries_off
    uint64_t rows_off
    uint64_t size
    uint64_t used             # entries published, including revoked ones
    uint64_t revoked
    uint64_t rows_used        # rows below this one were assigned at least once
    uint64_t revocations      # how often a credential became revoked, ever

cdef class CredentialIndex:
    cdef readonly int fd
    cdef char *base
    cdef size_t size
    cdef readonly bint writable
    # private
    cdef index_header *header
    cdef credential_entry *entries
    cdef consumer_row *rows
    cdef uint64_t mask
    cdef uint64_t room        # how many entries it takes
    cdef uint32_t *references # writer only: entries that name a row
    cdef object free_rows     # writer only: deque of (when freed, row), oldest first
    cdef object clock
    cdef public double grace  # seconds before a freed row may be rewritten
    cdef int judge(self, const credential_entry *e, uint64_t word, int64_t now_s,
                   const consumer_row **row) noexcept nogil
    cdef credential_entry *slot_of(self, const uint8_t *digest, uint64_t *word) noexcept nogil
    cdef _open(self, size_t size, bint writable)
    cdef _put(self, const uint8_t *digest, uint32_t row, uint32_t expires_at, uint64_t identity,
              uint64_t spending)
    cdef uint64_t _word(self, uint64_t state, uint32_t row) noexcept nogil
    cdef _point(self, credential_entry *e, uint64_t state, uint32_t row)
    cdef uint32_t _take_row(self) except? 0xFFFFFFFF
    cdef _free_row(self, uint32_t row)
    cdef _check_row(self, uint32_t row)
    cdef _check_writable(self)
    cdef credential_entry *_existing(self, bytes digest) except NULL
    cdef _recount(self)
