"""proxy_headers: the parser and the writer of PROXY headers for Python (see proxy_headers.pyx)."""

def parse(data: bytes) -> tuple[int, tuple[bytes, int] | None]: ...
def written(
    version: int,
    source: bytes | None,
    destination: bytes | None = None,
    source_port: int = 0,
    destination_port: int = 0,
) -> bytes: ...
