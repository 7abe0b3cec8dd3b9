"""Consumers that are made for subjects when a worker asks."""

from __future__ import annotations

from typing import Any

import pytest

from fastgate.config.issuer_ids import id_of
from fastgate.errors import ConflictError, StoreError
from fastgate.model.codec import decode
from fastgate.runtime.control.subjects import SAY_S, Subjects

ISSUERS = [
    {"name": "corp", "issuer": "https://corp", "unknown": "create", "plan": "free"},
    {"name": "strict", "issuer": "https://strict", "plan": "free"},
]
GATEWAY = decode({"version": 1, "plans": [{"name": "free"}], "issuers": ISSUERS})
CORP, STRICT = GATEWAY.issuers


class FakeIdentity:
    def __init__(self) -> None:
        self.made: list[tuple[str, str, str]] = []
        self.error: Exception | None = None

    async def create_for_subject(self, *made: str) -> bool:
        if self.error is not None:
            raise self.error
        self.made.append(made)  # type: ignore[arg-type]
        return made[1] != "revoked"


class Desk:
    def __init__(self) -> None:
        self.identity = FakeIdentity()
        self.now = 100.0
        self.gateway: Any = GATEWAY
        identity: Any = self.identity
        self.subjects = Subjects(identity, lambda: self.gateway, lambda: self.now)

    async def ask(self, subject: str = "jane", issuer: int = 0) -> bool:
        return await self.subjects.question(issuer or id_of(CORP), subject)


async def test_a_subject_gets_a_consumer_on_the_plan() -> None:
    desk = Desk()
    assert await desk.ask()
    assert desk.identity.made == [("corp", "jane", "free")]
    assert not await desk.ask("revoked")


async def test_nobody_else_gets_one() -> None:
    desk = Desk()
    assert not await desk.ask(issuer=id_of(STRICT))
    assert not await desk.ask(issuer=7)
    desk.gateway = None
    assert not await desk.ask()
    assert desk.identity.made == []


@pytest.mark.parametrize("subject", ["", "a\x00b", "a\n", "ü" * 128])
async def test_subjects_that_no_consumer_can_have(
    subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    assert not await desk.ask(subject)
    assert desk.identity.made == []
    assert "it has control characters, or is too long" in caplog.text


async def test_without_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, but not for each request."""
    desk = Desk()
    desk.identity.error = StoreError("The store is not connected yet.")
    for _ in range(3):
        assert not await desk.ask()
    assert [record.getMessage() for record in caplog.records] == [
        "No consumer can be made for a subject of corp, whose request is refused: The store is not "
        "connected yet."
    ]
    desk.now += SAY_S
    desk.identity.error = ConflictError("Consumers named 'a' exist already.")
    assert not await desk.ask()
    assert len(caplog.records) == 2
    desk.identity.error = None
    assert await desk.ask()
