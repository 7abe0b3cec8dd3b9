"""tls_bio: the BIO through which libssl gets and gives encrypted bytes. No socket: both sides are memory.

    read    from tls_state.in_at, what was received and not read yet
    write   to tls_scratch.out, which tls.pyx sends
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastgate._core.io.connection cimport tls_scratch
from fastgate._core.tls.openssl cimport (
    BIO_CTRL_FLUSH, BIO_METHOD, BIO_TYPE_SOURCE_SINK, BIO_clear_retry_flags, BIO_get_data, BIO_meth_new,
    BIO_meth_set_ctrl, BIO_meth_set_read, BIO_meth_set_write, BIO_new, BIO_set_data, BIO_set_init,
    BIO_set_retry_read, BIO_set_retry_write)

cdef BIO_METHOD *MEMORY = NULL


cdef int bio_read(BIO *b, char *out, int n) noexcept nogil:
    cdef tls_state *t = <tls_state *>BIO_get_data(b)
    BIO_clear_retry_flags(b)
    if t.in_left == 0:
        BIO_set_retry_read(b)
        return -1
    if <uint32_t>n > t.in_left:
        n = <int>t.in_left
    memcpy(out, t.in_at, n)
    t.in_at += n
    t.in_left -= <uint32_t>n
    return n


cdef int bio_write(BIO *b, const char *p, int n) noexcept nogil:
    cdef tls_scratch *w = (<tls_state *>BIO_get_data(b)).loop.tls
    BIO_clear_retry_flags(b)
    if w.out_len == OUT:
        BIO_set_retry_write(b)
        return -1
    if <uint32_t>n > OUT - w.out_len:
        n = <int>(OUT - w.out_len)
    memcpy(w.out + w.out_len, p, n)
    w.out_len += <uint32_t>n
    return n


cdef long bio_ctrl(BIO *b, int what, long n, void *p) noexcept nogil:
    return what == BIO_CTRL_FLUSH


cdef BIO *tls_bio_new(tls_state *t) noexcept nogil:
    cdef BIO *b = BIO_new(MEMORY)
    if b is not NULL:
        BIO_set_data(b, t)
        BIO_set_init(b, 1)
    return b


MEMORY = BIO_meth_new(BIO_TYPE_SOURCE_SINK, b"fastgate")
if MEMORY is NULL:
    raise MemoryError
BIO_meth_set_read(MEMORY, bio_read)
BIO_meth_set_write(MEMORY, bio_write)
BIO_meth_set_ctrl(MEMORY, bio_ctrl)
