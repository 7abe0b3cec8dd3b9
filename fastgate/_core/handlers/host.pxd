"""host: what handlers need of the engine that runs them. The engine is one."""
from fastgate._core.state cimport core

cdef class Host:
    cdef core *c
    cdef object loop          # the event loop: for handlers' tasks and futures
    cdef int follow_up(self) except -1
        # after a call into the engine: what it left to do will be done by the next poll
