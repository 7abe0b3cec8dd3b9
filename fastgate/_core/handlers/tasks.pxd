"""tasks: a task of the event loop for each handler, from its call to the exchange's release."""
from fastgate._core.handlers.host cimport Host
from fastgate._core.state cimport core

cdef int begin_upcalls(Host engine, core *c) except -1     # start the handlers of waiting exchanges
cdef int wake_upcalls(core *c) except -1                     # resume handlers, or cancel them
