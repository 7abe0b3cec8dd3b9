"""The ids of issuers: by which snapshots, keyrings and questions of workers refer to them.

The id is a digest of everything that the document says about an issuer. So a verdict on a token
that a worker has reached under another configuration is never used, and new keys alone do not
change the id.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from fastgate._core.tls.keyring import issuer_id
from fastgate.model.codec import encode
from fastgate.model.gateway import Issuer


def id_of(issuer: Issuer) -> int:
    """Unsigned, 64 bits, not 0."""
    return _id_of(msgspec.json.encode(encode(issuer), order="deterministic"))


@lru_cache(1024)
def _id_of(canonical: bytes) -> int:
    return issuer_id(canonical)
