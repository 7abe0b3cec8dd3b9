"""issuers: who issues tokens, and their keys: the keyring's entries as tables for the core.

Made once for each keyring. A key says which algorithms it verifies; a token's `alg` only chooses among
them. Contexts for libcrypto are prepared when a key is first used, and used again for each signature.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastgate._core.tls.openssl cimport (
    EVP_PKEY, EVP_PKEY_CTX_free, EVP_PKEY_EC, EVP_PKEY_ED448, EVP_PKEY_ED25519, EVP_PKEY_RSA, EVP_PKEY_free, EVP_PKEY_get_base_id,
    EVP_PKEY_get_bits, d2i_PUBKEY)

import hashlib

from fastgate.errors import KeyringError

ALGORITHM_NAMES = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512")
"""In the order of the bits."""

RSA_LEAST = 2048
"""Bits of an RSA key."""
_UNKNOWN = {"refuse": UNKNOWN_REFUSE, "anonymous": UNKNOWN_ANONYMOUS, "create": UNKNOWN_CREATE}


cdef void *table(size_t n, size_t size) except NULL:
    cdef void *p = calloc(n if n else 1, size)
    if p is NULL:
        raise MemoryError
    return p


cdef class IssuerRing:
    """A keyring's issuers as the core uses them. Raises KeyringError if a key cannot be used."""

    def __cinit__(self, keyring not None):
        self.keyring = keyring
        self.kept = []

    def __init__(self, keyring):
        self.ring.serial = keyring.serial
        self.ring.issuers = <token_issuer *>table(len(keyring.issuers), sizeof(token_issuer))
        for entry in keyring.issuers:
            self.ring.n += 1
            take_issuer(self, &self.ring.issuers[self.ring.n - 1], entry)

    def __dealloc__(self):
        cdef token_issuer *s
        cdef uint32_t i, j, k
        for i in range(self.ring.n):
            s = &self.ring.issuers[i]
            for j in range(s.n_keys):
                for k in range(ALGORITHMS):
                    EVP_PKEY_CTX_free(s.keys[j].ready[k])
                EVP_PKEY_free(s.keys[j].public)
            free(s.audiences)
            free(s.types)
            free(s.scopes)
            free(s.headers)
            free(s.keys)
        free(self.ring.issuers)


cdef int take_issuer(IssuerRing ring, token_issuer *s, entry) except -1:
    s.id = entry.id
    s.row = entry.row
    s.leeway_s = entry.leeway_s
    s.lifetime_s = entry.lifetime_s
    s.unknown = _UNKNOWN[entry.unknown]
    s.fetches = entry.fetches
    s.cache_s = entry.cache_s
    take_text(ring, &s.default_plan, entry.default_plan)
    take_text(ring, &s.name, entry.name)
    take_text(ring, &s.issuer, entry.issuer)
    take_text(ring, &s.authorization, entry.authorization)
    take_text(ring, &s.introspection, entry.introspection)
    take_path(ring, &s.subject, entry.subject)
    take_path(ring, &s.plan, entry.plan)
    s.audiences = take_texts(ring, entry.audiences)
    s.n_audiences = <uint32_t>len(entry.audiences)
    s.types = take_texts(ring, entry.types)
    s.n_types = <uint32_t>len(entry.types)
    s.scopes = <claim_path *>table(len(entry.scopes), sizeof(claim_path))
    for path in entry.scopes:
        take_path(ring, &s.scopes[s.n_scopes], path)
        s.n_scopes += 1
    s.headers = <claim_header *>table(len(entry.headers), sizeof(claim_header))
    for header in entry.headers:
        take_text(ring, &s.headers[s.n_headers].name, header.name)
        take_path(ring, &s.headers[s.n_headers].claim, header.claim)
        s.n_headers += 1
    s.keys = <token_key *>table(len(entry.keys), sizeof(token_key))
    for key in entry.keys:
        s.n_keys += 1
        take_key(ring, &s.keys[s.n_keys - 1], key, entry.name)
    return 0


cdef int take_text(IssuerRing ring, token_text *t, str text) except -1:
    cdef bytes raw = text.encode()
    ring.kept.append(raw)
    t.at = raw
    t.len = <uint32_t>len(raw)
    return 0


cdef token_text *take_texts(IssuerRing ring, texts) except NULL:
    cdef token_text *t = <token_text *>table(len(texts), sizeof(token_text))
    for i, text in enumerate(texts):
        take_text(ring, &t[i], text)
    return t


cdef int take_path(IssuerRing ring, claim_path *p, names) except -1:
    if len(names) > PATH_MOST:
        raise KeyringError(f"the claim {'.'.join(names)} has {len(names)} names; {PATH_MOST} is the most")
    for name in names:
        take_text(ring, &p.names[p.n], name)
        p.n += 1
    return 0


cdef int take_key(IssuerRing ring, token_key *k, key, str issuer) except -1:
    cdef Py_buffer buffer
    cdef const unsigned char *der
    cdef bytes digest = hashlib.sha256(key.key).digest()
    take_text(ring, &k.kid, key.kid)
    memcpy(&k.fingerprint, <const char *>digest, sizeof(k.fingerprint))
    for name in key.algorithms:
        if name not in ALGORITHM_NAMES:
            raise KeyringError(f"issuer {issuer}: there is no algorithm {name}")
        k.algorithms |= <uint32_t>1 << ALGORITHM_NAMES.index(name)
    secret = all(name.startswith("HS") for name in key.algorithms)
    if not secret and any(name.startswith("HS") for name in key.algorithms):
        raise KeyringError(f"issuer {issuer}: a key cannot be both public and secret")
    PyObject_GetBuffer(key.key, &buffer, PyBUF_SIMPLE)
    try:
        if secret:
            k.secret.at = <const char *>buffer.buf
            k.secret.len = <uint32_t>buffer.len
        else:
            der = <const unsigned char *>buffer.buf
            k.public = d2i_PUBKEY(NULL, &der, <long>buffer.len)
    finally:
        PyBuffer_Release(&buffer)        # the mapping stays: the ring keeps the keyring
    if k.public is NULL and k.secret.len == 0:
        raise KeyringError(f"issuer {issuer}: its key {key.kid or '(without an id)'} cannot be read")
    for name in key.algorithms:
        if not secret and not fits(k.public, name):
            raise KeyringError(f"issuer {issuer}: its key {key.kid or '(without an id)'} is not one for {name}")
    return 0


cdef bint fits(const EVP_PKEY *public, str name):
    """Whether a public key is of the kind and size that an algorithm needs."""
    cdef int kind = EVP_PKEY_get_base_id(public), bits = EVP_PKEY_get_bits(public)
    if name == "EdDSA":
        return kind == EVP_PKEY_ED25519 or kind == EVP_PKEY_ED448
    if name.startswith("ES"):
        return kind == EVP_PKEY_EC and bits == {"ES256": 256, "ES384": 384, "ES512": 521}[name]
    return kind == EVP_PKEY_RSA and bits >= RSA_LEAST


cdef token_issuer *issuer_of(issuer_ring *ring, uint64_t id) noexcept nogil:
    cdef uint32_t i
    if ring is NULL:
        return NULL
    for i in range(ring.n):
        if ring.issuers[i].id == id:
            return &ring.issuers[i]
    return NULL
