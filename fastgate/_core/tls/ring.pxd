"""ring: a keyring as workers use it."""
from fastgate._core.tls.tables cimport tls_listener, tls_ring

cdef class TlsRing:
    cdef tls_ring ring
    cdef object keyring       # whose mapping the tables point into
    cdef list kept            # bytes objects that the tables point into
    cdef bytes _keep(self, str text)
    cdef int _take_names(self, tls_listener *l, entry, context, default) except -1
    cdef int _make_policies(self, list policies) except -1
    cdef int _make_contexts(self, list contexts, list policies) except -1
