"""HTTP/1.1 on the wire: heads, chunked bodies, and the connection that clients send them on."""
