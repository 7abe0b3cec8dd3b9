"""reports: what an engine has counted or noted, for its worker to log, ask or answer."""
from fastgate._core.handlers.host cimport Host

cdef class Reports(Host):
    cdef dict keys            # of listeners, by index
    cdef public object on_questions       # called when there are questions; None: nobody asks
