"""tls_bio: the BIO through which libssl gets and gives encrypted bytes: memory (see tls.pyx)."""
from fastgate._core.io.connection cimport tls_state
from fastgate._core.tls.openssl cimport BIO

cdef enum:
    OUT = 67584               # the size of tls_scratch.out

cdef BIO *tls_bio_new(tls_state *t) noexcept nogil        # NULL: no memory
