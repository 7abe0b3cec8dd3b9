"""tls_peers: a connection of an engine, made to look like one over TLS."""
