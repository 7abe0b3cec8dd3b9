from fastgate._core.tls.keyring import Keyring

class TlsRing:
    """A keyring as the core uses it. Raises KeyringError if something in it cannot be used."""

    def __init__(self, keyring: Keyring) -> None: ...
    @property
    def serial(self) -> int: ...
    @property
    def busy(self) -> bool: ...
