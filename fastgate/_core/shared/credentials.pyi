from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum

from fastgate._core.shared.callers import NO_ACCOUNT as NO_ACCOUNT
from fastgate._core.shared.callers import NO_PLAN as NO_PLAN
from fastgate._core.shared.callers import Consumer as Consumer
from fastgate._core.shared.callers import Found as Found
from fastgate._core.shared.callers import IndexFullError as IndexFullError
from fastgate._core.shared.callers import LimitOverride as LimitOverride
from fastgate._core.shared.callers import SpendingCap as SpendingCap

KEEP_REVOKED_S: int
LAST_SECOND: int

class CredentialState(IntEnum):
    CREDENTIAL_FREE = 0
    CREDENTIAL_ACTIVE = 1
    CREDENTIAL_REVOKED_STATE = 2

def key_digest(key: str | bytes) -> bytes: ...

class CredentialIndex:
    grace: float
    @classmethod
    def create(
        cls,
        capacity: int = 1024,
        *,
        epoch: int = 1,
        grace: float = 3600.0,
        clock: Callable[[], float] = ...,
    ) -> CredentialIndex: ...
    @classmethod
    def attach(
        cls,
        fd: int,
        *,
        writable: bool = False,
        grace: float = 3600.0,
        clock: Callable[[], float] = ...,
    ) -> CredentialIndex: ...
    @property
    def fd(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    @property
    def epoch(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def revoked(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def load(self) -> float: ...
    @property
    def mapped(self) -> int: ...
    def find(self, key: str | bytes, now: float | None = None) -> Found | None: ...
    def find_digest(self, digest: bytes, now: float | None = None) -> Found | None: ...
    def consumer(self, row: int) -> Consumer: ...
    def set_consumer(
        self,
        id: str | bytes,
        *,
        identity: int,
        account: int = 0,
        plan: int = ...,
        suspended: bool = False,
        name: str | bytes = "",
        plan_name: str | bytes = "",
        account_slot: int = ...,
        spending: tuple[int, int] = ...,
        overrides: Sequence[tuple[int, int, int, int]] = ...,
    ) -> int: ...
    def drop_consumer(self, row: int) -> None: ...
    def put(
        self,
        digest: bytes,
        row: int,
        *,
        expires_at: int = 0,
        identity: int,
        spending: tuple[int, int] = ...,
    ) -> None: ...
    def put_many(
        self,
        credentials: Iterable[
            tuple[bytes, int, int, int] | tuple[bytes, int, int, int, tuple[int, int]]
        ],
    ) -> int: ...
    def revoke(self, digest: bytes) -> bool: ...
    def repoint(self, digest: bytes, row: int) -> None: ...
    def grow(self, capacity: int | None = None, *, keep_revoked: int = ...) -> CredentialIndex: ...
