from enum import IntEnum

from fastgate._core.tls.keyring import Keyring

ALGORITHM_NAMES: tuple[str, ...]
RSA_LEAST: int

class UnknownSubject(IntEnum):
    UNKNOWN_REFUSE = 0
    UNKNOWN_ANONYMOUS = 1
    UNKNOWN_CREATE = 2

class IssuerRing:
    def __init__(self, keyring: Keyring) -> None: ...
