"""Revoked tokens, and consumers of subjects, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from storekit import down_to, up

from fastgate.errors import ConflictError
from fastgate.store.engine import Store
from fastgate.store.parties import Parties, now_utc
from fastgate.store.revocations import Revocation, Revocations

HOUR = timedelta(hours=1)


async def revoke(
    table: Revocations, digest: bytes, lasts: timedelta = HOUR, whole: bytes | None = None
) -> tuple[Revocation, bool, int]:
    return await table.add(
        digest=digest * 32,
        whole=None if whole is None else whole * 32,
        about={"sub": "Jürgen"},
        revoked_by="jane",
        expires_at=now_utc() + lasts,
    )


async def test_a_revocation(store: Store) -> None:
    table = Revocations(store)
    row, fresh, first = await revoke(table, b"a", whole=b"b")
    assert fresh
    assert row.digests == [b"a" * 32, b"b" * 32]
    again, fresh, second = await revoke(table, b"a", timedelta(minutes=1))
    assert (again, fresh) == (row, False)
    longer, fresh, third = await revoke(table, b"a", 2 * HOUR)
    assert (longer.id, longer.revoked_by, fresh) == (row.id, "jane", False)
    assert longer.expires_at > row.expires_at
    assert [second, third] == [first + 1, first + 2]
    everything, count = await table.everything()
    assert (everything, count) == ([longer], third)


async def test_those_that_have_expired_are_forgotten(store: Store) -> None:
    table = Revocations(store)
    await revoke(table, b"a", timedelta(seconds=-1))
    kept, _, _ = await revoke(table, b"b")
    assert (await table.everything())[0] == [kept]
    assert (await table.page(cursor=None, limit=9)).items == [kept]
    async with store.read() as connection:
        count = await connection.scalar(sa.text("SELECT count(*) FROM revoked_tokens"))
    assert count == 1


async def test_pages(store: Store) -> None:
    table = Revocations(store)
    rows = [(await revoke(table, bytes([number])))[0] for number in range(5)]
    found, cursor = [], None
    while True:
        page = await table.page(cursor=cursor, limit=2)
        found += page.items
        if (cursor := page.next) is None:
            break
    assert found == rows


async def test_the_same_token_at_the_same_moment(store: Store) -> None:
    table = Revocations(store)
    done = await asyncio.gather(*(revoke(table, b"a") for _ in range(4)))
    assert sorted(fresh for _, fresh, _ in done) == [False, False, False, True]
    assert len({row.id for row, _, _ in done}) == 1


# ---- consumers of subjects --------------------------------------------------------------


async def make(parties: Parties, ident: str = "con_s1", *names: str, digest: bytes = b"d") -> str:
    owner, credential, _ = await parties.create_for_subject(
        ident=ident,
        names=names or ("jane", "jane 1"),
        plan="free",
        digest=digest * 32,
        about={"issuer": "corp", "subject": "jane"},
    )
    assert credential.consumer == owner.id
    return owner.name


async def test_a_subject_has_one_consumer(store: Store) -> None:
    parties = Parties(store)
    before = await parties.count()
    assert await make(parties) == "jane"
    assert await parties.count() == before + 1
    assert await make(parties) == "jane"
    assert await parties.count() == before + 1  # nothing was changed
    assert (await parties.consumer("con_s1")).plan == "free"


async def test_names_that_are_taken(store: Store) -> None:
    parties = Parties(store)
    await parties.create_consumer(name="jane", account=None, plan=None, suspended=False)
    assert await make(parties) == "jane 1"
    with pytest.raises(ConflictError, match="'jane' and 'jane 1' exist already"):
        await make(parties, "con_s2", digest=b"e")


async def test_a_consumer_whose_credential_is_gone_gets_it_back(store: Store) -> None:
    parties = Parties(store)
    await make(parties)
    async with store.write() as connection:
        await connection.execute(sa.text("DELETE FROM credentials"))
    assert await make(parties) == "jane"
    assert len((await parties.credentials("con_s1", cursor=None, limit=9)).items) == 1


async def test_one_subject_at_the_same_moment(store: Store) -> None:
    parties = Parties(store)
    assert set(await asyncio.gather(*(make(parties) for _ in range(6)))) == {"jane"}
    assert len((await parties.consumers(cursor=None, limit=9)).items) == 1


# ---- the schema -------------------------------------------------------------------------


async def test_keys_from_before_there_were_kinds(store: Store) -> None:
    parties = Parties(store)
    await parties.create_consumer(name="a", account=None, plan=None, suspended=False)
    key, _, _ = await parties.create_credential(
        "a", digest=b"k" * 32, prefix="fg_", label="", expires_at=None
    )
    await parties.create_credential(
        "a",
        digest=b"s" * 32,
        prefix="",
        label="",
        expires_at=None,
        kind="subject",
        about={"a": "b"},
    )
    async with store.write() as connection:
        await connection.run_sync(down_to, "0015")
        rows = await connection.execute(sa.text("SELECT id FROM credentials"))
        assert [row.id for row in rows] == [key.id]  # a subject would count as a key
        await connection.run_sync(up)
    [again] = (await parties.credentials("a", cursor=None, limit=9)).items
    assert again == key
    assert (again.kind, again.about) == ("key", {})
    _, fresh, count = await revoke(Revocations(store), b"a")
    assert (fresh, count) == (True, 1)
