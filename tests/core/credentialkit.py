"""What tests of the credential index share."""

from __future__ import annotations

from typing import Any

from fastgate._core.reason import Reason
from fastgate._core.shared.credentials import CredentialIndex, key_digest

UNKNOWN, EXPIRED, REVOKED, SUSPENDED = (
    int(Reason.CREDENTIAL_UNKNOWN),
    int(Reason.CREDENTIAL_EXPIRED),
    int(Reason.CREDENTIAL_REVOKED),
    int(Reason.CONSUMER_SUSPENDED),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def result_of(index: CredentialIndex, key: str | bytes, now: int = 100) -> int:
    found = index.find(key, now)
    return UNKNOWN if found is None else found.result


def filled(n: int, **options: Any) -> CredentialIndex:
    """An index of keys "key-0" ..., each of a consumer of its own."""
    index = CredentialIndex.create(max(n, 1), **options)
    for k in range(n):
        index.put(key_digest(f"key-{k}"), index.set_consumer(f"c{k}", identity=k), identity=k)
    return index
