"""signature: whether a key made a signature (RFC 7518, 3; RFC 8037), by libcrypto.

A context that is prepared for a key and an algorithm verifies any number of signatures, so what
libcrypto needs to find its algorithms is spent once. Text is hashed by the functions that SHA-2 has
of its own; the generic ones look the algorithm up each time. Ed25519 and Ed448 hash for themselves.

An ECDSA signature comes as two numbers of fixed size, and libcrypto takes them as DER.
"""
from libc.string cimport memcmp, memcpy

from fastgate._core.tls.openssl cimport (
    CRYPTO_memcmp, ERR_clear_error, EVP_DigestVerify, EVP_DigestVerifyInit, EVP_MD, EVP_MD_CTX, EVP_MD_CTX_free,
    EVP_MD_CTX_new, EVP_PKEY_CTX, EVP_PKEY_CTX_free, EVP_PKEY_CTX_new, EVP_PKEY_CTX_set_rsa_mgf1_md,
    EVP_PKEY_CTX_set_rsa_padding, EVP_PKEY_CTX_set_rsa_pss_saltlen, EVP_PKEY_CTX_set_signature_md, EVP_PKEY_verify,
    EVP_PKEY_verify_init, EVP_sha256, EVP_sha384, EVP_sha512, HMAC, RSA_PKCS1_PADDING, RSA_PKCS1_PSS_PADDING,
    RSA_PSS_SALTLEN_DIGEST, sha256, sha384, sha512)

cdef enum:
    PS256 = 3                 # indexes in ALGORITHM_NAMES: three of each kind follow one another
    ES256 = 6
    EDDSA = 9
    HS256 = 10
    DIGEST_MOST = 64
    DER_MOST = 152            # of an ECDSA signature with P-521


cdef int algorithm_named(const char *name, size_t length) noexcept nogil:
    cdef int kind = -1, size
    if length == 5 and memcmp(name + 1, b"S", 1) == 0:
        if name[0] == c"R":
            kind = 0
        elif name[0] == c"P":
            kind = PS256
        elif name[0] == c"E":
            kind = ES256
        elif name[0] == c"H":
            kind = HS256
        if kind < 0:
            return -1
        if memcmp(name + 2, b"256", 3) == 0:
            size = 0
        elif memcmp(name + 2, b"384", 3) == 0:
            size = 1
        elif memcmp(name + 2, b"512", 3) == 0:
            size = 2
        else:
            return -1
        return kind + size
    if (length == 5 and memcmp(name, b"EdDSA", 5) == 0) or (length == 7 and memcmp(name, b"Ed25519", 7) == 0) or (
            length == 5 and memcmp(name, b"Ed448", 5) == 0):
        return EDDSA                     # RFC 9864 names the curve; the key has it
    return -1


cdef inline int size_of(int algorithm) noexcept nogil:
    """Which of SHA-256, SHA-384 and SHA-512 it uses: 0, 1, 2."""
    return (algorithm - HS256) % 3 if algorithm >= HS256 else algorithm % 3


cdef inline const EVP_MD *digest_of(int algorithm) noexcept nogil:
    cdef int size = size_of(algorithm)
    return EVP_sha256() if size == 0 else EVP_sha384() if size == 1 else EVP_sha512()


cdef size_t hash_text(int algorithm, const char *text, size_t length, uint8_t *out) noexcept nogil:
    """The digest, and how many octets it has."""
    cdef int size = size_of(algorithm)
    if size == 0:
        sha256(<const unsigned char *>text, length, out)
        return 32
    if size == 1:
        sha384(<const unsigned char *>text, length, out)
        return 48
    sha512(<const unsigned char *>text, length, out)
    return 64


cdef EVP_PKEY_CTX *prepared(token_key *k, int algorithm) noexcept nogil:
    """The key's context for an algorithm of RSA or ECDSA; NULL: they do not go together."""
    cdef EVP_PKEY_CTX *x = k.ready[algorithm]
    cdef const EVP_MD *md = digest_of(algorithm)
    cdef int ok
    if x is not NULL:
        return x
    x = EVP_PKEY_CTX_new(k.public, NULL)
    if x is NULL:
        return NULL
    ok = EVP_PKEY_verify_init(x) == 1
    if ok and algorithm < ES256:
        ok = EVP_PKEY_CTX_set_rsa_padding(x, RSA_PKCS1_PADDING if algorithm < PS256 else RSA_PKCS1_PSS_PADDING) == 1
    if ok:
        ok = EVP_PKEY_CTX_set_signature_md(x, md) == 1
    if ok and PS256 <= algorithm < ES256:
        ok = (EVP_PKEY_CTX_set_rsa_mgf1_md(x, md) == 1
              and EVP_PKEY_CTX_set_rsa_pss_saltlen(x, RSA_PSS_SALTLEN_DIGEST) == 1)
    if not ok:
        EVP_PKEY_CTX_free(x)
        return NULL
    k.ready[algorithm] = x
    return x


cdef uint8_t *put_integer(uint8_t *p, const uint8_t *n, size_t size) noexcept nogil:
    """A positive INTEGER of DER."""
    cdef size_t pad
    while size > 1 and n[0] == 0:
        n += 1
        size -= 1
    pad = n[0] >> 7
    p[0] = 2
    p[1] = <uint8_t>(size + pad)
    p[2] = 0
    memcpy(p + 2 + pad, n, size)
    return p + 2 + pad + size


cdef size_t put_der(uint8_t *out, const uint8_t *signature, size_t half) noexcept nogil:
    """SEQUENCE of two INTEGERs; its size."""
    cdef uint8_t body[DER_MOST]
    cdef uint8_t *p = put_integer(put_integer(body, signature, half), signature + half, half)
    cdef size_t n = p - body, head = 2
    out[0] = 0x30
    out[1] = <uint8_t>n
    if n > 127:
        out[1] = 0x81
        out[2] = <uint8_t>n
        head = 3
    memcpy(out + head, body, n)
    return head + n


cdef int eddsa_valid(token_key *k, const char *text, size_t length, const uint8_t *signature, size_t size) noexcept nogil:
    cdef EVP_MD_CTX *x = EVP_MD_CTX_new()
    cdef int ok
    if x is NULL:
        return 0
    ok = (EVP_DigestVerifyInit(x, NULL, NULL, NULL, k.public) == 1
          and EVP_DigestVerify(x, signature, size, <const unsigned char *>text, length) == 1)
    EVP_MD_CTX_free(x)
    return ok


cdef int hmac_valid(token_key *k, int algorithm, const char *text, size_t length, const uint8_t *signature,
                    size_t size) noexcept nogil:
    cdef uint8_t mac[DIGEST_MOST]
    cdef unsigned int n = 0
    if HMAC(digest_of(algorithm), k.secret.at, <int>k.secret.len, <const unsigned char *>text, length, mac, &n) is NULL:
        return 0
    return n == size and CRYPTO_memcmp(mac, signature, n) == 0


cdef int signature_valid(token_key *k, int algorithm, const char *text, size_t length, const uint8_t *signature,
                         size_t size) noexcept nogil:
    cdef EVP_PKEY_CTX *x
    cdef uint8_t digest[DIGEST_MOST]
    cdef uint8_t der[DER_MOST]
    cdef size_t n, half
    cdef int ok
    if algorithm >= HS256:
        return hmac_valid(k, algorithm, text, length, signature, size)
    if algorithm == EDDSA:
        ok = eddsa_valid(k, text, length, signature, size)
    else:
        x = prepared(k, algorithm)
        n = hash_text(algorithm, text, length, digest)
        if algorithm >= ES256:
            half = 32 if algorithm == ES256 else 48 if algorithm == ES256 + 1 else 66
            if size != 2 * half:
                return 0
            size = put_der(der, signature, half)
            signature = der
        ok = x is not NULL and EVP_PKEY_verify(x, signature, size, digest, n) == 1
    if not ok:
        ERR_clear_error()                # Python's ssl shares the thread's errors
    return ok
