"""chunk_decoder: the state machine of chunked bodies for Python."""
cimport cython
from libc.stdint cimport uint32_t

from fastgate._core.http1.chunked cimport chunk_decode, chunk_relay, chunk_reset, chunk_state


@cython.final
cdef class ChunkDecoder:
    """The state machine of http1/chunked.pyx: `feed` octets, get (code, consumed, output).

    With `relay` the output is the canonical chunked form, otherwise the data alone.
    """
    cdef chunk_state s
    cdef readonly bint relay

    def __cinit__(self, relay: bool = False) -> None:
        self.relay = relay
        chunk_reset(&self.s)

    @property
    def total(self) -> int:
        """Data octets seen so far."""
        return self.s.total

    @property
    def fault(self) -> int:
        """The ChunkFault, once a feed returned a negative code."""
        return self.s.fault

    def feed(self, data: bytes) -> tuple[int, int, bytes]:
        """code: 0 more, 1 ended, negative: minus a Reason; consumed and output are valid even if the
        body is refused."""
        cdef bytearray buf = bytearray(data)
        cdef uint32_t consumed, out_len
        cdef int code
        if self.relay:
            code = chunk_relay(&self.s, buf, <uint32_t>len(buf), &consumed, &out_len)
        else:
            code = chunk_decode(&self.s, buf, <uint32_t>len(buf), &consumed, &out_len)
        return code, consumed, bytes(buf[:out_len])
