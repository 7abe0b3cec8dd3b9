"""host: the engine as handlers see it, so that it can stand above them."""


cdef class Host:
    """Made as an `Engine` only."""

    cdef int follow_up(self) except -1:
        raise NotImplementedError("the engine says what follows")
