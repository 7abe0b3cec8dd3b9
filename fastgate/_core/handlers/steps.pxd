"""steps: how long each step of a Python handler keeps its worker from polling."""
from fastgate._core.handlers.host cimport Host

cdef class Steps:
    cdef object coroutine
    cdef Host engine        # its counters are where the time is kept

cdef Steps steps_of(Host engine, coroutine)
    # for `await`; coroutine: what calling an async function gave
