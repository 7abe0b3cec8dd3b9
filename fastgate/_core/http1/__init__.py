"""HTTP/1.1 on the wire: heads, chunked bodies, and the connections that they are sent on."""
