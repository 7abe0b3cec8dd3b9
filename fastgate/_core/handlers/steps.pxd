"""steps: how long each step of a Python handler keeps its worker from polling."""
from fastgate._core.handlers.host cimport Host

cdef class Steps:
    cdef object coroutine
    cdef Host engine        # its counters hold the times

cdef Steps steps_of(Host engine, coroutine)
    # To be awaited; coroutine: the result of calling an async function
