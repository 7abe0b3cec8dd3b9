"""load_sample: the measure of a loop's lag, driven by hand."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cimport cython

from fastgate._core.handlers.host cimport Host
from fastgate._core.io.connection cimport EVENTS
from fastgate._core.io.lag cimport lag_round, lag_start, loop_lag
from fastgate._core.platform.buffer cimport buffers_bytes


@cython.final
cdef class Lag:
    """The measure of a loop that begins at 0."""
    cdef loop_lag lag

    def __cinit__(self):
        memset(&self.lag, 0, sizeof(loop_lag))
        lag_start(&self.lag, 1, 0)

    def round(self, uint64_t now, uint32_t n=1, *, uint64_t before=0, uint64_t members=1000) -> float:
        """A wait has returned. `before`: when it began, if it could block. Returns the mean in nanoseconds."""
        lag_round(&self.lag, before, now, n, members)
        self.lag.full = n == EVENTS
        return self.lag.mean_ns


def hold_lag(Host engine not None, uint64_t ns) -> None:
    """An engine's lag is this from now on, and is not measured."""
    engine.c.loop.lag.on = 0
    engine.c.loop.lag.mean_ns = <double>ns


def buffer_bytes(Host engine not None) -> int:
    """Bytes of the buffers that an engine has borrowed."""
    return buffers_bytes(&engine.c.loop.bufs)
