"""host: the engine as handlers see it, so that the engine can be on a higher floor."""


cdef class Host:
    """Only created as an `Engine`."""

    cdef int follow_up(self) except -1:
        raise NotImplementedError("implemented by Engine")
