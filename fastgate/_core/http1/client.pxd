"""client: HTTP/1.1 as upstreams are spoken to."""
from fastgate._core.state cimport client_codec

cdef const client_codec *client_http1() noexcept nogil
