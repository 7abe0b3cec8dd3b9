"""Credentials of all kinds, consumers of subjects, and revoked tokens: store, index, restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fastgate._core.reason import Reason
from fastgate._core.shared.credentials import CredentialIndex
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.identity import kinds
from fastgate.identity.identity import Identity
from fastgate.identity.kinds import LEEWAY_S, NewCredential
from fastgate.model import digests
from fastgate.model.codec import decode
from fastgate.store.engine import Store

PIN = "sha256/" + "A" * 43 + "="
SUBJECT = kinds.subject("corp", "user-1")
MAKERS: dict[str, Callable[[], NewCredential]] = {
    "subject": lambda: SUBJECT,
    "certificate": lambda: kinds.certificate(PIN),
    "basic": lambda: kinds.basic("acme"),
}


def gateway(*consumers: dict[str, Any]) -> Any:
    issuers = [{"name": "corp", "issuer": "https://id.example.com"}]
    plans = [{"name": "free"}, {"name": "gold"}]
    return decode({"version": 1, "issuers": issuers, "plans": plans, "consumers": list(consumers)})


def who(identity: Identity, digest: bytes) -> str:
    """Who a worker finds by this digest."""
    found = identity.index.find_digest(digest)
    if found is None:
        return "unknown"
    return found.consumer.name if found.result == 0 else Reason(found.result).name.lower()


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begin(cache: Path, clock: Clock, capacity: int = 64) -> Identity:
    """An identity that has started without the store."""
    identity = Identity(CredentialIndex.create(capacity), cache=cache, clock=clock)
    identity.load_cache()
    identity.configure(gateway(), {"free": 0, "gold": 1})
    return identity


async def with_store(cache: Path, clock: Clock, store: Store) -> Identity:
    identity = begin(cache, clock)
    identity.attach(store)
    await identity.sync()
    return identity


@pytest.fixture
async def identity(tmp_path: Path, clock: Clock, sqlite_store: Store) -> Identity:
    identity = await with_store(tmp_path / "cache", clock, sqlite_store)
    for name in ("acme", "other"):
        await identity.create_consumer(name=name, account=None, plan="free")
    return identity


# ---- kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_credential_works_at_once_and_after_a_restart(
    identity: Identity, tmp_path: Path, clock: Clock, sqlite_store: Store, kind: str
) -> None:
    new = MAKERS[kind]()
    issued = await identity.add("acme", new, label="a note")
    made = issued.credential
    assert (made.kind, made.about, made.label) == (kind, new.about, "a note")
    assert issued.key == new.shown
    assert who(identity, new.digest) == "acme"
    identity.close()
    alone = begin(tmp_path / "cache", clock)
    assert who(alone, new.digest) == "acme"
    alone.attach(sqlite_store)
    await alone.sync()
    assert who(alone, new.digest) == "acme"
    [stored] = (await alone.parties.credentials("acme", cursor=None, limit=9)).items
    assert stored == made


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_revoked_credential_is_refused_and_can_be_given_again(
    identity: Identity, kind: str
) -> None:
    new = MAKERS[kind]()
    first = (await identity.add("acme", new)).credential
    with pytest.raises(ConflictError, match="exists already"):
        await identity.add("other", new)
    await identity.revoke("acme", first.id)
    assert who(identity, new.digest) == "credential_revoked"
    second = (await identity.add("other", new)).credential
    assert who(identity, new.digest) == "other"
    assert second.id != first.id
    with pytest.raises(NotFoundError):
        await identity.parties.credential("acme", first.id)
    await identity.sync()
    assert who(identity, new.digest) == "other"


async def test_an_expired_credential_can_be_given_again(identity: Identity) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    await identity.add("acme", SUBJECT, expires_at=past)
    assert who(identity, SUBJECT.digest) == "credential_expired"
    await identity.add("other", SUBJECT)
    assert who(identity, SUBJECT.digest) == "other"


async def test_a_revoked_key_cannot_be_given_again(identity: Identity) -> None:
    issued = await identity.issue("acme")
    await identity.revoke("acme", issued.credential.id)
    with pytest.raises(ConflictError, match="This key exists already"):
        await identity.issue("acme", key=issued.key)


async def test_the_secret_of_a_user_is_rotated(identity: Identity) -> None:
    first = kinds.basic("acme")
    made = (await identity.add("acme", first, label="old")).credential
    issued = await identity.rotate("acme", made.id, overlap=timedelta(hours=1))
    fresh = issued.credential
    assert (fresh.kind, fresh.about, fresh.label) == ("basic", {"user": "acme"}, "old")
    assert issued.key.startswith(fresh.prefix)
    assert kinds.basic("acme", issued.key).digest == fresh.digest
    assert who(identity, fresh.digest) == who(identity, first.digest) == "acme"
    await identity.rotate("acme", fresh.id)
    assert who(identity, fresh.digest) == "credential_revoked"


@pytest.mark.parametrize("kind", ["subject", "certificate"])
async def test_what_has_no_secret_is_not_rotated(identity: Identity, kind: str) -> None:
    made = (await identity.add("acme", MAKERS[kind]())).credential
    with pytest.raises(ConflictError, match=f"A {kind} has no secret"):
        await identity.rotate("acme", made.id)


async def test_the_seed_wins(identity: Identity) -> None:
    await identity.add("acme", SUBJECT)
    seed = {"name": "seed", "subjects": {"corp": "user-1"}}
    identity.configure(gateway(seed), {"free": 0, "gold": 1})
    assert who(identity, SUBJECT.digest) == "seed"
    with pytest.raises(ConflictError, match="This subject exists already"):
        await identity.add("other", SUBJECT)
    await identity.sync()
    assert who(identity, SUBJECT.digest) == "seed"
    identity.configure(gateway(), {"free": 0, "gold": 1})
    assert who(identity, SUBJECT.digest) == "acme"


# ---- consumers that are made for subjects -----------------------------------------------


async def test_a_subject_gets_a_consumer(identity: Identity) -> None:
    assert await identity.create_for_subject("corp", "jane@example.com", "gold")
    digest = digests.subject("corp", "jane@example.com")
    assert who(identity, digest) == "jane@example.com"
    made = await identity.parties.consumer("jane@example.com")
    assert (made.plan, made.account) == ("gold", None)
    assert made.id == kinds.consumer_of(digest)
    [credential] = (await identity.parties.credentials(made.id, cursor=None, limit=9)).items
    assert credential.about == {"issuer": "corp", "subject": "jane@example.com"}
    assert await identity.create_for_subject("corp", "jane@example.com", "free")
    assert (await identity.parties.consumer(made.id)).plan == "gold"


async def test_one_that_has_a_consumer_keeps_it(identity: Identity) -> None:
    await identity.add("acme", SUBJECT)
    assert await identity.create_for_subject("corp", "user-1", "free")
    assert who(identity, SUBJECT.digest) == "acme"
    with pytest.raises(NotFoundError):
        await identity.parties.consumer("user-1")


async def test_the_name_may_be_taken(identity: Identity) -> None:
    assert await identity.create_for_subject("corp", "acme", "free")
    digest = digests.subject("corp", "acme")
    assert who(identity, digest) == f"acme {digest.hex()[:12]}"
    assert await identity.create_for_subject("elsewhere", "acme", "free")
    other = digests.subject("elsewhere", "acme")
    assert who(identity, other) == f"acme {other.hex()[:12]}"


async def test_a_revoked_subject_is_not_made_again(identity: Identity) -> None:
    assert await identity.create_for_subject("corp", "user-1", "free")
    [made] = (await identity.parties.credentials("user-1", cursor=None, limit=9)).items
    await identity.revoke("user-1", made.id)
    assert not await identity.create_for_subject("corp", "user-1", "free")
    assert who(identity, SUBJECT.digest) == "credential_revoked"


async def test_it_can_be_suspended(identity: Identity) -> None:
    await identity.create_for_subject("corp", "user-1", "free")
    await identity.update_consumer("user-1", {"suspended": True})
    assert who(identity, SUBJECT.digest) == "consumer_suspended"
    assert await identity.create_for_subject("corp", "user-1", "free")


async def test_without_the_store(tmp_path: Path, clock: Clock) -> None:
    identity = begin(tmp_path / "cache", clock)
    with pytest.raises(StoreError):
        await identity.create_for_subject("corp", "user-1", "free")


async def test_workers_and_gateways_at_the_same_moment(
    tmp_path: Path, clock: Clock, store: Store
) -> None:
    """Two gateways on one store, each asked several times: one consumer, with one credential."""
    gateways = [await with_store(tmp_path / f"{number}", clock, store) for number in range(2)]
    asked = [
        each.create_for_subject("corp", f"user-{number % 3}", "free")
        for number in range(12)
        for each in gateways
    ]
    assert all(await asyncio.gather(*asked))
    made = (await gateways[0].parties.consumers(cursor=None, limit=99)).items
    assert sorted(each.name for each in made) == ["user-0", "user-1", "user-2"]
    for consumer in made:
        found = await gateways[0].parties.credentials(consumer.id, cursor=None, limit=9)
        assert len(found.items) == 1
    for each in gateways:
        await each.sync()
        assert who(each, SUBJECT.digest) == "user-1"


# ---- revoked tokens ---------------------------------------------------------------------

OPAQUE = kinds.token("opaque-1")


async def test_a_revoked_token_is_in_the_index(identity: Identity, clock: Clock) -> None:
    assert who(identity, OPAQUE.digest) == "unknown"
    until = clock.now + timedelta(hours=1)
    row, fresh = await identity.revoke_token(OPAQUE, until, "jane")
    assert (fresh, row.revoked_by) == (True, "jane")
    assert row.expires_at == until + timedelta(seconds=LEEWAY_S)
    assert who(identity, OPAQUE.digest) == "credential_revoked"
    again, fresh = await identity.revoke_token(OPAQUE, until - timedelta(minutes=5), "joe")
    assert (again, fresh) == (row, False)
    longer, fresh = await identity.revoke_token(OPAQUE, until + timedelta(hours=1), "joe")
    assert (longer.id, longer.revoked_by, fresh) == (row.id, "jane", False)
    assert longer.expires_at == row.expires_at + timedelta(hours=1)


async def test_all_digests_of_a_jwt_are_revoked(identity: Identity, clock: Clock) -> None:
    from providerkit import SigningKey

    new = kinds.token(SigningKey().token({"sub": "user", "exp": 4_000_000_000}))
    assert new.whole is not None
    await identity.revoke_token(new, clock.now + timedelta(hours=1), "jane")
    assert who(identity, new.digest) == who(identity, new.whole) == "credential_revoked"


async def test_it_is_refused_after_a_restart_without_the_store(
    identity: Identity, tmp_path: Path, clock: Clock, sqlite_store: Store
) -> None:
    await identity.revoke_token(OPAQUE, clock.now + timedelta(hours=1), "jane")
    identity.close()
    alone = begin(tmp_path / "cache", clock)
    assert who(alone, OPAQUE.digest) == "credential_revoked"
    alone.close()
    (tmp_path / "cache").unlink()
    from_store = await with_store(tmp_path / "cache", clock, sqlite_store)
    assert who(from_store, OPAQUE.digest) == "credential_revoked"


async def test_it_is_forgotten_when_the_token_has_expired(
    identity: Identity, tmp_path: Path, clock: Clock
) -> None:
    await identity.revoke_token(OPAQUE, clock.now + timedelta(hours=1), "jane")
    identity.close()
    clock.now += timedelta(hours=1, seconds=LEEWAY_S - 1)
    assert who(begin(tmp_path / "cache", clock), OPAQUE.digest) == "credential_revoked"
    clock.now += timedelta(seconds=2)
    assert who(begin(tmp_path / "cache", clock), OPAQUE.digest) == "unknown"
    other = kinds.token("opaque-2")
    await identity.revoke_token(other, clock.now + timedelta(hours=1), "jane")
    assert list(identity.directory.tokens) == [other.digest]


async def test_another_gateway_learns_of_it(
    identity: Identity, tmp_path: Path, clock: Clock, sqlite_store: Store
) -> None:
    await identity.revoke_token(OPAQUE, clock.now + timedelta(hours=1), "jane")
    other = await with_store(tmp_path / "other", clock, sqlite_store)
    assert who(other, OPAQUE.digest) == "credential_revoked"
    second, third = kinds.token("opaque-2"), kinds.token("opaque-3")
    await other.revoke_token(second, clock.now + timedelta(hours=1), "joe")
    assert who(identity, second.digest) == "unknown"
    # Its own next change shows that there was one by another gateway.
    await identity.revoke_token(third, clock.now + timedelta(hours=1), "jane")
    assert who(identity, second.digest) == who(identity, third.digest) == "credential_revoked"
    fourth = kinds.token("opaque-4")
    await other.revoke_token(fourth, clock.now + timedelta(hours=1), "joe")
    counts = {"parties": await identity.parties.count(), "revocations": 99}
    for changed in sqlite_store.on_change:
        await changed(counts)
    assert who(identity, fourth.digest) == "credential_revoked"


async def test_a_larger_index_has_it(identity: Identity, clock: Clock) -> None:
    new = [kinds.token(f"opaque-{number}") for number in range(50)]
    capacity = identity.index.capacity
    for each in new:
        await identity.revoke_token(each, clock.now + timedelta(hours=1), "jane")
        await identity.issue("acme")
    assert identity.index.capacity > capacity
    assert {who(identity, each.digest) for each in new} == {"credential_revoked"}


@pytest.mark.parametrize("first", [1, 40])
def test_one_that_outlives_the_memory_of_an_index(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """An index forgets what was revoked a month ago when it grows; a token may live longer."""
    identity = begin(tmp_path / "cache", clock, capacity=44)
    directory = identity.directory
    far = int(clock.now.timestamp()) + 10**8
    digests_of = [kinds.token(f"opaque-{number}").digest for number in range(200)]
    for digest in digests_of[:first]:
        directory.revoke_token(digest, far)
    later = time.time() + 40 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    grown = directory.index.grow()
    assert grown.find_digest(digests_of[0]) is None  # as the index alone would do
    for digest in digests_of[first:]:
        directory.revoke_token(digest, far)
    assert {who(identity, digest) for digest in digests_of} == {"credential_revoked"}


async def test_without_a_store_nothing_is_revoked(tmp_path: Path, clock: Clock) -> None:
    """It would be accepted again after the next start."""
    identity = begin(tmp_path / "cache", clock)
    with pytest.raises(StoreError):
        await identity.revoke_token(OPAQUE, clock.now + timedelta(hours=1), "jane")
    assert who(identity, OPAQUE.digest) == "unknown"
