"""url_sample: the URLs that routes build, without a connection (see url_sample.pyx)."""

from fastgate._core.snapshot.snapshot import Snapshot

def made_url(
    snapshot: Snapshot,
    path: bytes,
    *,
    query: bytes | None = None,
    host: bytes = b"",
    secure: bool = False,
) -> bytes | int: ...
