"""url_pieces: URLs that are made for a request: the target of a rewrite, the Location of a redirect."""
from fastgate._core.snapshot.snapshot cimport table_ref
from fastgate._core.state cimport exchange

cdef int url_refused(exchange *e) noexcept nogil
    # whether the URL that the route makes, if it makes one, cannot be made: a Reason, or 0
cdef size_t url_size(exchange *e, table_ref pieces) noexcept nogil
    # the most that put_url writes; exact, but for parameters of the query that hold a key
cdef char *put_url(char *p, exchange *e, table_ref pieces) noexcept nogil
cdef char *put_location(char *p, exchange *e, table_ref pieces) noexcept nogil
    # the same for a Location: never one that begins with "//"
