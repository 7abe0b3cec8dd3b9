"""chunk_decoder: the state machine of chunked bodies for Python."""
