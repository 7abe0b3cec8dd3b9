"""openssl: which OpenSSL the core runs with: the system's, or the one in the wheel.

It need not be that of Python's `ssl` module, and it may be newer than the one that the core was compiled with.
"""

cdef extern from "<openssl/crypto.h>":
    const char *OpenSSL_version(int which) noexcept
    enum: OPENSSL_VERSION_STRING
