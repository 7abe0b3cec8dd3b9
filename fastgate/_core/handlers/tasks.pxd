"""tasks: a task of the loop for each handler, from its call to the exchange's release."""
from fastgate._core.handlers.host cimport Host
from fastgate._core.state cimport core

cdef int begin_upcalls(Host engine, core *c) except -1     # what waits is handed to its handlers
cdef int wake_upcalls(core *c) except -1                     # what handlers wait for, and what ends them
