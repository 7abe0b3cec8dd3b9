"""faults: what was wrong with a TLS handshake, as a number. FAULT names of access logs, after those of heads (head.pxd)."""

# Append only: the numbers are in logs.
cpdef enum TlsFault:
    TLS_FAILED = 64                       # something else
    TLS_CERTIFICATE_EXPIRED = 65
    TLS_CERTIFICATE_NOT_YET_VALID = 66
    TLS_CERTIFICATE_WRONG_NAME = 67
    TLS_CERTIFICATE_UNTRUSTED = 68        # it leads to no authority that is trusted
    TLS_CERTIFICATE_REVOKED = 69
    TLS_CERTIFICATE_INVALID = 70          # in another way
    TLS_CERTIFICATE_NOT_PINNED = 71
    TLS_REFUSED_BY_PEER = 72              # the peer sent an alert
    TLS_NO_COMMON_VERSION = 73
    TLS_NOT_SPOKEN = 74                   # what the peer sent is no TLS
    TLS_CLOSED_BY_PEER = 75
    TLS_NOT_CONFIGURED = 76               # the keyring does not have what is needed

cdef int fault_of_chain(long verified) noexcept nogil             # of SSL_get_verify_result; X509_V_OK: 0
cdef int fault_of_error(unsigned long error) noexcept nogil       # of libssl's error; 0: the peer closed
