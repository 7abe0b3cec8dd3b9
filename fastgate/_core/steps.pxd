"""steps: how long each step of a Python handler keeps its worker from polling."""
from fastgate._core.engine cimport Engine

cdef class Steps:
    cdef object coroutine
    cdef Engine engine        # its counters are where the time is kept

cdef Steps steps_of(Engine engine, coroutine)
    # for `await`; coroutine: what calling an async function gave
