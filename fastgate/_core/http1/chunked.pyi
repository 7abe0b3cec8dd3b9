from enum import IntEnum
from typing import Self, final

class ChunkFault(IntEnum):
    CHUNK_FAULT_NONE = 0
    CHUNK_FAULT_SIZE = 1
    CHUNK_FAULT_OVERFLOW = 2
    CHUNK_FAULT_EXTENSION = 3
    CHUNK_FAULT_LINE = 4
    CHUNK_FAULT_DATA = 5
    CHUNK_FAULT_TRAILER = 6
    CHUNK_FAULT_EXTRA = 7

@final
class ChunkDecoder:
    relay: bool
    def __new__(cls, relay: bool = False) -> Self: ...
    @property
    def total(self) -> int: ...
    @property
    def fault(self) -> int: ...
    def feed(self, data: bytes) -> tuple[int, int, bytes]: ...
