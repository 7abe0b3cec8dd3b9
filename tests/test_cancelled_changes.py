"""A change of consumers, keys or the configuration whose caller is cancelled, at each await: it has
happened wholly or not at all, in the store and in what is served from."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from cancelkit import cancelled_at
from revisionkit import Control, adding, gateway

from fastgate._core.credentials import CredentialIndex
from fastgate.config.revisions import Revisions, document_of
from fastgate.identity.identity import Identity
from fastgate.model.codec import decode
from fastgate.store.cache import CredentialCache
from fastgate.store.engine import Store

PLANS = {"free": 0, "gold": 1}
KEYS = ["a-key-of-one-0001", "a-key-of-two-0002"]
"""Keys that are given; those that are made are compared by their digests."""


async def _store(migrated: Path, folder: Path) -> Store:
    folder.mkdir()  # noqa: ASYNC240
    shutil.copyfile(migrated, folder / "fastgate.db")
    store = Store(f"sqlite:///{folder}/fastgate.db")
    await store.connect()
    return store


def _identity(cache: Path) -> Identity:
    made = Identity(CredentialIndex.create(64), cache=cache)
    made.load_cache()
    made.configure(decode({"version": 1, "plans": [{"name": name} for name in PLANS]}), PLANS)
    return made


def _served(identity: Identity) -> dict[str, Any]:
    """What workers would be served from: consumers, keys, and who may call with which."""
    parties = {ident: party.record for ident, party in identity.directory.parties.items()}
    keys = dict(identity.directory.keys)
    found = {key: identity.index.find(key) for key in KEYS}
    callers = {key: one.consumer for key, one in found.items() if one and one.result == 0}
    return {"parties": parties, "keys": keys, "callers": callers}


async def _life_of_keys(identity: Identity) -> None:
    one = await identity.create_consumer(name="one", account=None, plan="free")
    two = await identity.create_consumer(name="two", account=None, plan=None)
    first = await identity.issue(one.id, key=KEYS[0])
    await identity.issue(two.id, key=KEYS[1])
    await identity.rotate(one.id, first.credential.id)
    await identity.update_consumer(two.id, {"plan": "gold"})
    await identity.revoke(one.id, first.credential.id)
    await identity.sync()
    await identity.delete_consumer(two.id)


async def test_keys_that_are_served_are_those_of_the_store(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    at, reached = 0, True
    while reached:
        store = await _store(sqlite_migrated, tmp_path / str(at))
        identity = _identity(tmp_path / str(at) / "one.cache")
        identity.attach(store)
        await identity.sync()
        reached = await cancelled_at(at, _life_of_keys(identity))
        await identity._changes.idle()
        fresh = _identity(tmp_path / str(at) / "two.cache")
        fresh.attach(store)
        await fresh.sync()
        assert _served(identity) == _served(fresh), at
        again = _identity(tmp_path / str(at) / "one.cache")  # a start without the store
        assert _served(again)["keys"] == _served(fresh)["keys"], at
        for each in (identity, fresh, again):
            each.close()
        await store.stop()
        at += 1
    assert at > 20


async def _life_of_a_configuration(revisions: Revisions) -> None:
    await revisions.change(adding("silver"), author="a")
    await revisions.change(adding("gold"), author="a")
    await revisions.reload(author="a")
    await revisions.rollback(2, author="b")


async def test_the_newest_revision_is_what_is_served(sqlite_migrated: Path, tmp_path: Path) -> None:
    at, reached = 0, True
    while reached:
        store = await _store(sqlite_migrated, tmp_path / str(at))
        control = Control(gateway("free"))
        revisions = Revisions(control, store)
        await revisions.catch_up()
        reached = await cancelled_at(at, _life_of_a_configuration(revisions))
        await revisions._changes.idle()
        newest = (await revisions.page(cursor=None, limit=1)).items[0]
        _, document = await revisions.get(newest.number)
        assert document == document_of(control.gateway), at
        done = await revisions.change(adding(f"after-{at}"), author="c")
        assert done.revision == newest.number + 1, at
        await store.stop()
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
    issuing = asyncio.create_task(identity.issue(one.id, key=KEYS[0]))
    await asyncio.wait({issuing}, timeout=1.0)
    go.set()
    await issuing
    assert await asyncio.to_thread(ended.wait, 10)
    again = _identity(tmp_path / "one.cache")
    assert KEYS[0] in _served(again)["callers"]
    identity.close()
    again.close()
