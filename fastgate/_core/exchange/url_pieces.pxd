"""url_pieces: URLs built for a request: the target of a rewrite, the Location of a redirect."""
from fastgate._core.snapshot.snapshot cimport table_ref
from fastgate._core.state cimport exchange

cdef int url_refused(exchange *e) noexcept nogil
    # Whether the route's URL, if it has one, cannot be built: a Reason, or 0
cdef size_t url_size(exchange *e, table_ref pieces) noexcept nogil
    # The most that put_url writes; exact, except for query parameters that hold a key
cdef char *put_url(char *p, exchange *e, table_ref pieces) noexcept nogil
cdef char *put_location(char *p, exchange *e, table_ref pieces) noexcept nogil
    # The same for a Location: it never begins with "//"
