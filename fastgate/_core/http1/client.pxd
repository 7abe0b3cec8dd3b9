"""client: HTTP/1.1 with upstreams."""
from fastgate._core.state cimport client_codec

cdef const client_codec *client_http1() noexcept nogil
