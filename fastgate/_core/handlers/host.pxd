"""host: what handlers need from the engine that runs them. Engine is its subclass."""
from fastgate._core.state cimport core

cdef class Host:
    cdef core *c
    cdef object loop          # the event loop: for handlers' tasks and futures
    cdef int follow_up(self) except -1
        # after a call into the engine: leave to the next poll what is left to do
