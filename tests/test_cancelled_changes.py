"""A change of consumers, keys or the configuration whose caller is cancelled, at each await: it has
happened wholly or not at all, in the store and in what is served from.

One store and one set of objects see all the cancellations, one after the other: what the ones
before have left is compared each time, and making all anew for each would take most of the time."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cancelkit import cancelled_at
from revisionkit import Control, adding, gateway

from fastgate._core.shared.credentials import CredentialIndex
from fastgate.config.revisions import Revisions, document_of
from fastgate.identity import kinds
from fastgate.identity.identity import Identity
from fastgate.model.codec import decode
from fastgate.store.cache import CredentialCache
from fastgate.store.engine import Store

PLANS = {"free": 0, "gold": 1}


def _keys(at: int) -> list[str]:
    """Keys that are given; those that are made are compared by their digests."""
    return [f"a-key-of-one-{at:04}", f"a-key-of-two-{at:04}"]


def _identity(cache: Path) -> Identity:
    made = Identity(CredentialIndex.create(1024), cache=cache)
    made.load_cache()
    made.configure(decode({"version": 1, "plans": [{"name": name} for name in PLANS]}), PLANS)
    return made


def _served(identity: Identity, at: int = 0) -> dict[str, Any]:
    """What workers would be served from: consumers, keys, and who may call with which."""
    parties = {ident: party.record for ident, party in identity.directory.parties.items()}
    keys = dict(identity.directory.keys)
    found = {key: identity.index.find(key) for each in range(at + 1) for key in _keys(each)}
    callers = {key: one.consumer for key, one in found.items() if one and one.result == 0}
    return {"parties": parties, "keys": keys, "callers": callers}


async def _life_of_keys(identity: Identity, at: int) -> None:
    one = await identity.create_consumer(name=f"one {at}", account=None, plan="free")
    two = await identity.create_consumer(name=f"two {at}", account=None, plan=None)
    first = await identity.issue(one.id, key=_keys(at)[0])
    await identity.issue(two.id, key=_keys(at)[1])
    await identity.rotate(one.id, first.credential.id)
    await identity.update_consumer(two.id, {"plan": "gold"})
    await identity.revoke(one.id, first.credential.id)
    await identity.sync()
    await identity.delete_consumer(two.id)


async def _life_of_subjects(identity: Identity, at: int) -> None:
    one = await identity.create_consumer(name=f"one {at}", account=None, plan="free")
    subject = await identity.add(one.id, kinds.subject("corp", f"one-{at}"))
    user = await identity.add(one.id, kinds.basic(f"one-{at}", _keys(at)[0]))
    await identity.create_for_subject("corp", f"two-{at}", "free")
    await identity.rotate(one.id, user.credential.id)
    later = datetime.now(UTC) + timedelta(hours=1)
    await identity.revoke_token(kinds.token(f"token-{at}"), later, "jane")
    await identity.revoke(one.id, subject.credential.id)


async def test_keys_that_are_served_are_those_of_the_store(
    sqlite_store: Store, tmp_path: Path
) -> None:
    identity = _identity(tmp_path / "one.cache")
    identity.attach(sqlite_store)
    await identity.sync()
    at, reached = 0, True
    while reached:
        reached = await cancelled_at(at, _life_of_keys(identity, at))
        await identity._changes.idle()
        fresh = _identity(tmp_path / f"{at}.cache")
        fresh.attach(sqlite_store)
        await fresh.sync()
        assert _served(identity, at) == _served(fresh, at), at
        again = _identity(tmp_path / "one.cache")  # a start without the store
        assert _served(again)["keys"] == _served(fresh)["keys"], at
        for each in (fresh, again):
            each.close()
        at += 1
    identity.close()
    assert at > 20


async def test_subjects_and_tokens_that_are_served_are_those_of_the_store(
    sqlite_store: Store, tmp_path: Path
) -> None:
    identity = _identity(tmp_path / "one.cache")
    identity.attach(sqlite_store)
    await identity.sync()
    at, reached = 0, True
    while reached:
        reached = await cancelled_at(at, _life_of_subjects(identity, at))
        await identity._changes.idle()
        fresh = _identity(tmp_path / f"{at}.cache")
        fresh.attach(sqlite_store)
        await fresh.sync()
        again = _identity(tmp_path / "one.cache")  # a start without the store
        for other in (fresh, again):
            assert other.directory.keys == identity.directory.keys, at
            assert other.directory.tokens == identity.directory.tokens, at
            for digest in (*identity.directory.keys, *identity.directory.tokens):
                one, two = (each.index.find_digest(digest) for each in (identity, other))
                assert one is not None
                assert two is not None
                assert (one.result, one.consumer.id) == (two.result, two.consumer.id), at
            other.close()
        at += 1
    identity.close()
    assert at > 20


async def _life_of_a_configuration(revisions: Revisions, at: int) -> None:
    first = await revisions.change(adding(f"silver-{at}"), author="a")
    await revisions.change(adding(f"gold-{at}"), author="a")
    await revisions.reload(author="a")
    assert first.revision is not None
    await revisions.rollback(first.revision, author="b")


async def test_the_newest_revision_is_what_is_served(sqlite_store: Store) -> None:
    control = Control(gateway("free"))
    revisions = Revisions(control, sqlite_store)
    await revisions.catch_up()
    at, reached = 0, True
    while reached:
        reached = await cancelled_at(at, _life_of_a_configuration(revisions, at))
        await revisions._changes.idle()
        newest = (await revisions.page(cursor=None, limit=1)).items[0]
        _, document = await revisions.get(newest.number)
        assert document == document_of(control.gateway), at
        done = await revisions.change(adding(f"after-{at}"), author="c")
        assert done.revision == newest.number + 1, at
        at += 1
    assert at > 10


async def test_a_cache_that_is_being_written_is_waited_for(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: it would put back the cache as it was, without the new key."""
    identity = _identity(tmp_path / "one.cache")
    identity.attach(sqlite_store)
    await identity.sync()
    one = await identity.create_consumer(name="one", account=None, plan="free")
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()
    replace = CredentialCache.replace

    def slowly(self: CredentialCache, records: list[Any]) -> None:
        begun.set()
        assert go.wait(10)
        replace(self, records)
        ended.set()

    monkeypatch.setattr(CredentialCache, "replace", slowly)
    syncing = asyncio.create_task(identity.sync())
    assert await asyncio.to_thread(begun.wait, 10)
    syncing.cancel()
    await asyncio.wait({syncing})
    issuing = asyncio.create_task(identity.issue(one.id, key=_keys(0)[0]))
    await asyncio.wait({issuing}, timeout=1.0)
    go.set()
    await issuing
    assert await asyncio.to_thread(ended.wait, 10)
    again = _identity(tmp_path / "one.cache")
    assert _keys(0)[0] in _served(again)["callers"]
    identity.close()
    again.close()
