"""deadlines: what an upstream connection waits for, and until when (see deadlines.pyx)."""
from fastgate._core.state cimport core, upstream

cdef enum Passing:            # what happens when a deadline passes
    PASSES_CLOSE = 1
    PASSES_CONNECT = 2        # the attempt failed: retry, else 502
    PASSES_SENT = 3           # check whether the target still reads: more time, or 504
    PASSES_BROKEN = 4         # the answer breaks off
    PASSES_END = 5            # the tunnel ends
    PASSES_REST = 6           # free what TLS keeps for a connection in use

cdef void up_deadline(core *c, upstream *u) noexcept nogil
    # set it, by the state of the connection and its call
cdef int up_passes(const upstream *u) noexcept nogil             # Passing; 0: nothing is waited for
cdef int still_reads(core *c, upstream *u) noexcept nogil
    # Whether the target has not taken the whole request yet, or has only just taken it: more time for it
