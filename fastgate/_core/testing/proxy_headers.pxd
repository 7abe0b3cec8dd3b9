"""proxy_headers: the parser and the writer of PROXY headers for Python."""
