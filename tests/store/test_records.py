"""Parties, history and tokens on both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from fastgate.billing.ledger.ledger import Ledger, Movement
from fastgate.errors import ConflictError, NotFoundError
from fastgate.store.engine import Store
from fastgate.store.history import History, Revision
from fastgate.store.parties import DanglingError, Parties, StaleError, now_utc
from fastgate.store.tokens import TokenTable

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def consumer(parties: Parties, name: str, **more: object) -> str:
    given = {"account": None, "plan": None, "suspended": False, **more}
    made, _ = await parties.create_consumer(name=name, **given)  # type: ignore[arg-type]
    return made.id


async def credential(parties: Parties, owner: str, digest: bytes, **more: object) -> str:
    given = {"prefix": "fg_abc", "label": "", "expires_at": None, **more}
    made, _, _ = await parties.create_credential(owner, digest=digest * 32, **given)  # type: ignore[arg-type]
    return made.id


async def test_accounts_and_consumers(store: Store) -> None:
    parties = Parties(store)
    account = await parties.create_account("Acme")
    assert account.created.tzinfo is UTC
    assert await parties.account(account.id) == await parties.account("Acme") == account
    with pytest.raises(ConflictError, match="exists already"):
        await parties.create_account("Acme")
    ident = await consumer(parties, "app", account="Acme")
    assert (await parties.consumer("app")).account == account.id
    with pytest.raises(DanglingError):
        await consumer(parties, "other", account="nobody")
    with pytest.raises(ConflictError, match="1 consumer"):
        await parties.delete_account("Acme", None)
    renamed = await parties.rename_account("Acme", "Acme Ltd", 1)
    assert (renamed.name, renamed.version) == ("Acme Ltd", 2)
    with pytest.raises(StaleError):
        await parties.rename_account("Acme Ltd", "X", 1)
    await parties.create_account("Taken")
    with pytest.raises(ConflictError, match="'Taken'"):
        await parties.rename_account("Acme Ltd", "Taken", None)
    changed, _ = await parties.update_consumer("app", {"account": None, "suspended": True}, None)
    assert (changed.account, changed.suspended) == (None, True)
    assert await parties.consumer(ident) == changed
    await parties.delete_account("Acme Ltd", 2)
    with pytest.raises(NotFoundError):
        await parties.account(account.id)


async def test_an_account_that_the_ledger_names_is_not_deleted(store: Store) -> None:
    parties = Parties(store)
    account = await parties.create_account("Acme")
    await consumer(parties, "app", account="Acme")
    ledger = Ledger(store, now_utc)
    await ledger.credit(Movement("top-up", account.id, "EUR", 3_250_000))
    with pytest.raises(ConflictError) as refused:
        await parties.delete_account("Acme", None)
    assert str(refused.value) == (
        "The account 'Acme' has 1 consumer(s), 1 ledger entries, which are kept and name it, so "
        "it cannot be deleted. Close it instead: delete its consumers, so that its keys are "
        "no longer accepted, and cancel its subscriptions; its balance is 3.25 EUR: refund the "
        "payment that it came from, or reverse the booking."
    )
    await parties.delete_consumer("app", None)
    await ledger.correct(*await ledger.reversal("top-up"))
    with pytest.raises(ConflictError, match=r"2 ledger entries.*its subscriptions\.$"):
        await parties.delete_account("Acme", None)
    assert await parties.account("Acme") == account


async def test_every_change_of_a_party_is_counted(store: Store) -> None:
    parties = Parties(store)
    counts = [await parties.count()]
    _, count = await parties.create_consumer(name="a", account=None, plan=None, suspended=False)
    counts.append(count)
    made, _, count = await parties.create_credential(
        "a", digest=b"d" * 32, prefix="", label="", expires_at=None
    )
    counts.append(count)
    _, count = await parties.update_credential("a", made.id, {"label": "x"}, None)
    counts.append(count)
    _, _, count = await parties.rotate_credential("a", made.id, digest=b"e" * 32, prefix="", old={})
    counts.append(count)
    _, count = await parties.delete_consumer("a", None)
    counts.append(count)
    assert counts == list(range(counts[0], counts[0] + 6))
    assert await parties.count() == counts[-1]
    with pytest.raises(NotFoundError):
        await parties.delete_consumer("a", None)
    assert await parties.count() == counts[-1]


async def test_only_one_of_two_changes_of_the_same_version(store: Store) -> None:
    parties = Parties(store)
    await consumer(parties, "a")
    done = await asyncio.gather(
        *(parties.update_consumer("a", {"plan": plan}, 1) for plan in ("x", "y", "z")),
        return_exceptions=True,
    )
    assert sum(isinstance(one, StaleError) for one in done) == 2
    assert (await parties.consumer("a")).version == 2


async def test_a_rotation_is_both_or_nothing(store: Store) -> None:
    parties = Parties(store)
    await consumer(parties, "a")
    ident = await credential(parties, "a", b"1")
    await credential(parties, "a", b"2")
    with pytest.raises(ConflictError):
        await parties.rotate_credential(
            "a", ident, digest=b"2" * 32, prefix="", old={"revoked_at": datetime.now(UTC)}
        )
    assert (await parties.credential("a", ident)).revoked_at is None
    with pytest.raises(NotFoundError):
        await parties.credential("a", "crd_none")


async def test_everything_is_read_in_batches(store: Store) -> None:
    parties = Parties(store)
    for number in range(5):
        owner = await consumer(parties, f"c{number}")
        for key in range(number):
            await credential(parties, owner, bytes([number * 10 + key]))
    now = datetime.now(UTC)
    old = now - timedelta(days=40)
    (first,) = (await parties.credentials("c1", cursor=None, limit=10)).items
    await parties.update_credential("c1", first.id, {"revoked_at": old}, None)
    for batch in (1, 2, 3, 100):
        found = [
            (owner.name, len(keys))
            async for part in parties.everything(now - timedelta(days=30), batch)
            for owner, keys in part
        ]
        assert found == [("c0", 0), ("c1", 0), ("c2", 2), ("c3", 3), ("c4", 4)]
    every = [len(k) async for part in parties.everything(LONG_AGO) for _, k in part]
    assert sum(every) == 10


async def test_lists_are_in_the_order_of_making(store: Store) -> None:
    parties = Parties(store)
    names = [f"n{number}" for number in (5, 3, 9, 1, 7)]
    for name in names:
        await parties.create_account(name)
        await consumer(parties, name, plan="gold" if name > "n4" else None)
    seen: list[str] = []
    cursor = None
    while True:
        page = await parties.accounts(cursor=cursor, limit=2)
        seen += [account.name for account in page.items]
        if (cursor := page.next) is None:
            break
    assert seen == names
    gold = await parties.consumers(cursor=None, limit=10, plan="gold")
    assert [one.name for one in gold.items] == ["n5", "n9", "n7"]


async def add(history: History, document: bytes, keep: int = 100) -> Revision:
    return await history.add(
        document,
        digest="d",
        author="me",
        source="api",
        note="",
        created=datetime.now(UTC),
        keep=keep,
    )


async def test_revisions_are_numbered_without_gaps(store: Store) -> None:
    history = History(store)
    assert await history.newest() is None
    made = await asyncio.gather(*(add(history, b"%d" % number) for number in range(6)))
    assert sorted(one.number for one in made) == [1, 2, 3, 4, 5, 6]
    assert {one.number: one.parent for one in made} == {1: None, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}
    newest = await history.newest()
    assert newest is not None
    assert newest.number == 6
    documents = {(await history.get(number))[1] for number in range(1, 7)}
    assert documents == {b"%d" % number for number in range(6)}
    for number in (0, -1, 7, 2**31, 2**70):
        with pytest.raises(NotFoundError):
            await history.get(number)


async def test_only_so_many_revisions_are_kept(store: Store) -> None:
    history = History(store)
    for number in range(7):
        await add(history, b"%d" % number, keep=3)
    page = await history.page(cursor=None, limit=10)
    assert [one.number for one in page.items] == [7, 6, 5]
    large = bytes(range(256)) * 40_000  # ten megabytes
    kept = await add(history, large)
    assert (await history.get(kept.number))[1] == large


async def test_tokens(store: Store) -> None:
    table = TokenTable(store)
    made = [
        await table.add(
            digest=bytes([n]) * 32, prefix="p", role="viewer", label=f"l{n}", created_by="me",
            expires_at=None,
        )
        for n in range(3)
    ]  # fmt: skip
    rows, count = await table.everything()
    assert sorted(rows, key=lambda row: row.id) == made
    assert count == await table.count() == 3
    assert await table.get(made[0].id) == made[0]
    await table.delete(made[0].id)
    for ident in (made[0].id, "tok_x", "a\0b"):
        with pytest.raises(NotFoundError):
            await table.get(ident)
    with pytest.raises(NotFoundError):
        await table.delete(made[0].id)
    page = await table.page(cursor=None, limit=1)
    assert page.items == [made[1]]
    assert (await table.page(cursor=page.next, limit=1)).items == [made[2]]
