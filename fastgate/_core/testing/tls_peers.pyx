"""tls_peers: a connection of an engine, made to look like one over TLS: what a handshake would have established."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

cimport cython

from fastgate._core.handlers.host cimport Host
from fastgate._core.state cimport downstream
from fastgate._core.tls.tables cimport AUTHORITIES_MOST, CHAIN_MOST, tls_peer


@cython.final
cdef class TlsPeer:
    """What a connection says about its client's certificate; it must live as long as the connection.

    `asked`, `verified`: ids of authorities. `leaf`, `chain`: certificates, DER. Raises ValueError for too many.
    """
    cdef tls_peer *peer
    cdef tuple kept

    def __cinit__(self, asked=(), verified=(), bytes leaf=b"", chain=()):
        cdef int i
        if max(len(asked), len(verified)) > AUTHORITIES_MOST or len(chain) > CHAIN_MOST:
            raise ValueError(f"at most {AUTHORITIES_MOST} authorities and {CHAIN_MOST} certificates above the client's")
        self.peer = <tls_peer *>calloc(1, sizeof(tls_peer))
        if self.peer == NULL:
            raise MemoryError
        self.kept = (leaf, *chain)
        self.peer.n_asked, self.peer.n_verified, self.peer.n_chain = len(asked), len(verified), len(chain)
        for i in range(len(asked)):
            self.peer.asked[i] = asked[i]
        for i in range(len(verified)):
            self.peer.verified[i] = verified[i]
        self.peer.leaf = <const uint8_t *><const char *>leaf
        self.peer.leaf_len = <uint32_t>len(leaf)
        for i in range(len(chain)):
            self.peer.chain[i] = <const uint8_t *><const char *><bytes>chain[i]
            self.peer.chain_len[i] = <uint32_t>len(chain[i])

    def __dealloc__(self):
        free(self.peer)


def encrypt(Host engine not None, uint16_t port, TlsPeer peer=None) -> bool:
    """Treat the connection from this port of its client as one over TLS. `peer`: None if no client certificate was
    asked for. False: there is no such connection (yet)."""
    cdef downstream *d = engine.c.downs
    while d is not NULL and d.port != port:
        d = d.next
    if d is NULL:
        return False
    d.secure = 1
    d.peer = NULL if peer is None else peer.peer
    return True
