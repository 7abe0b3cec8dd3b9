from collections.abc import Sequence
from typing import final

from fastgate._core.engine import Engine

@final
class TlsPeer:
    def __new__(
        cls,
        asked: Sequence[int] = (),
        verified: Sequence[int] = (),
        leaf: bytes = b"",
        chain: Sequence[bytes] = (),
    ) -> TlsPeer: ...

def encrypt(engine: Engine, port: int, peer: TlsPeer | None = None) -> bool: ...
