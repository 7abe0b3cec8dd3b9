"""Certificates on disk, as keyrings need them: read without the service."""

from __future__ import annotations

from pathlib import Path

from fastgate.certificates.acme.problems import AcmeError
from fastgate.certificates.acme.storage import Storage
from fastgate.certificates.pairs import Pair, read_pair
from fastgate.certificates.sources import Content


def issued(state: Path, name: str) -> Pair | None:
    """The certificate with this name in the state directory; None: there is none that can be used.
    The service reports one that is damaged, and orders another."""
    storage = Storage(state)
    try:
        stored = storage.certificate(name)
        if stored is None:
            return None
        return read_pair(Content(str(storage.file_of(name)), stored.pem.encode()), None)
    except (AcmeError, ValueError):
        return None
