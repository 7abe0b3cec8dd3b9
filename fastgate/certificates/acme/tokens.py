"""The tokens of http-01 challenges that are pending now, for the page that answers them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Tokens:
    """Token → key authorization."""

    def __init__(self) -> None:
        self._pending: dict[str, str] = {}

    def put(self, token: str, key_authorization: str) -> None:
        """Answer a token from now on."""
        self._pending[token] = key_authorization

    def remove(self, token: str) -> None:
        """Answer it no longer."""
        self._pending.pop(token, None)

    def find(self, token: str) -> str | None:
        """The answer; None if no challenge with this token is pending."""
        return self._pending.get(token)

    @contextmanager
    def showing(self, token: str, key_authorization: str) -> Iterator[None]:
        """Answer a token while the context lasts."""
        self.put(token, key_authorization)
        try:
            yield
        finally:
            self.remove(token)

    def __len__(self) -> int:
        return len(self._pending)
