"""The store comes up, migrates, fails clearly and comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from fastgate.errors import ConflictError, StoreError
from fastgate.store.engine import Store, count_up, make_engine, writing
from fastgate.store.migrate import alembic_config, upgrade
from fastgate.store.tables import HEAD, accounts, metadata

if TYPE_CHECKING:
    from storekit import Cluster


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "begins with"),
        ("oracle://h/d", "begins with"),
        ("sqlite://", "is a file"),
        ("sqlite:///:memory:", "is a file"),
    ],
)
def test_a_bad_url_says_what_would_be_right(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        Store(url)


def _other_type(context: Any, _a: Any, _b: Any, there: Any, declared: Any) -> bool | None:
    """None: as Alembic compares. SQLite keeps text of any length, whatever its column says."""
    texts = isinstance(there, sa.String) and isinstance(declared, sa.String)
    return False if context.dialect.name == "sqlite" and texts else None


async def test_the_migrations_lead_to_the_tables(store: Store) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": _other_type})
        return list(compare_metadata(context, metadata))

    async with store.read() as connection:
        assert await connection.run_sync(differences) == []


def test_head_is_the_newest_migration() -> None:
    script = ScriptDirectory.from_config(alembic_config())
    assert script.get_current_head() == HEAD


async def test_migrations_can_be_undone(store: Store) -> None:
    from alembic import command

    def down(connection: sa.Connection) -> list[str]:
        command.downgrade(alembic_config(connection), "base")
        return sa.inspect(connection).get_table_names()

    async with store.write() as connection:
        assert await connection.run_sync(down) == ["alembic_version"]


async def test_an_empty_database_is_migrated_when_first_connected(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "fastgate.db"
    store = Store(f"sqlite:///{path}")
    await store.connect()
    async with store.write() as connection:
        assert await count_up(connection, "parties") == 1
    await store.stop()
    assert path.exists()
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_two_gateways_may_migrate_at_once(postgres_cluster: Cluster) -> None:
    url = await asyncio.to_thread(postgres_cluster.database)
    await asyncio.gather(upgrade(url), upgrade(url))
    store = Store(url)
    await store.connect()
    assert store.ready
    await store.stop()


async def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    with suppress(RuntimeError):
        async with store.write() as connection:
            await count_up(connection, "parties")
            raise RuntimeError
    async with store.write() as connection:
        assert await count_up(connection, "parties") == 1


async def test_broken_constraints_are_conflicts(store: Store) -> None:
    statement = sa.text("INSERT INTO changes (topic, value) VALUES ('parties', 1)")
    with pytest.raises(ConflictError):
        async with store.write() as connection:
            await connection.execute(statement)
    assert store.ready


async def test_writers_queue_up(store: Store) -> None:
    async def one() -> None:
        async with store.write() as connection:
            value = await connection.scalar(sa.text("SELECT value FROM changes LIMIT 1"))
            assert value is not None
            await count_up(connection, "tokens")

    await asyncio.gather(*(one() for _ in range(20)))
    async with store.read() as connection:
        value = await connection.scalar(sa.text("SELECT value FROM changes WHERE topic='tokens'"))
    assert value == 20


async def test_sqlite_is_in_wal_mode_with_foreign_keys(sqlite_store: Store) -> None:
    async with sqlite_store.read() as connection:
        assert await connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert await connection.scalar(sa.text("PRAGMA foreign_keys")) == 1


async def test_whoever_is_cancelled_gives_the_connection_back_in_order(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async def reading() -> None:
        while True:
            async with store.read() as connection:
                await connection.execute(sa.select(sa.func.count()).select_from(accounts))

    for steps in range(1, 80):  # wherever it is then
        task = asyncio.create_task(reading())
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not [record for record in caplog.records if record.name.startswith("sqlalchemy")]


async def test_naive_times_are_refused(store: Store) -> None:
    from datetime import datetime

    row = {
        "id": "a", "name": "a", "version": 1,
        "created": datetime(2026, 1, 1), "updated": datetime(2026, 1, 1),
    }  # fmt: skip
    with pytest.raises(sa.exc.StatementError, match="time zone"):
        async with store.write() as connection:
            await connection.execute(sa.insert(accounts).values(row))


async def test_before_it_is_connected_everything_is_a_store_error(sqlite_url: str) -> None:
    store = Store(sqlite_url)
    with pytest.raises(StoreError, match="not connected yet"):
        async with store.read():
            pass
    assert store.problem is not None


async def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "fastgate.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    store = Store(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="not a database"):
        await store.connect()
    await store.stop()


async def test_a_newer_database_is_left_alone(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    async with writing(engine) as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    store = Store(sqlite_url)
    with pytest.raises(StoreError, match="newer FastGate"):
        await store.connect()
    await store.stop()


async def test_a_failing_migration_says_why(tmp_path: Path) -> None:
    path = tmp_path / "fastgate.db"
    engine = make_engine(f"sqlite:///{path}")
    async with writing(engine) as connection:
        await connection.execute(sa.text("CREATE TABLE accounts (id TEXT)"))
    await engine.dispose()
    store = Store(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="brought up to date"):
        await store.connect()
    await store.stop()


async def test_it_comes_up_by_itself_once_the_database_is_there(
    tmp_path: Path, sqlite_migrated: Path
) -> None:
    path = tmp_path / "fastgate.db"
    path.write_bytes(b"no database" * 100)
    store = Store(f"sqlite:///{path}")
    told = asyncio.Event()

    async def ready() -> None:
        told.set()

    store.on_ready.append(ready)
    await store.start()
    assert not store.ready
    path.unlink()
    shutil.copyfile(sqlite_migrated, path)
    await asyncio.wait_for(told.wait(), 30)
    assert store.ready
    assert store.problem is None
    await store.stop()
    assert not store.ready


async def test_a_server_that_goes_away_and_comes_back(postgres_cluster: Cluster) -> None:
    url = await asyncio.to_thread(postgres_cluster.database, "migrated")
    store = Store(url)
    comings = asyncio.Queue[int]()

    async def ready() -> None:
        comings.put_nowait(1)

    store.on_ready.append(ready)
    await store.start()
    await asyncio.wait_for(comings.get(), 30)
    await asyncio.to_thread(postgres_cluster.stop)
    try:
        with pytest.raises(StoreError):
            async with store.read() as connection:
                await connection.execute(sa.text("SELECT 1"))
        with pytest.raises(StoreError):
            async with store.read():
                pass
        assert not store.ready
    finally:
        await asyncio.to_thread(postgres_cluster.start)
    await asyncio.wait_for(comings.get(), 30)
    async with store.read() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await store.stop()


def add_one(connection: sa.Connection) -> int:
    """A transaction in one go: count the topic "tokens" up."""
    counted = connection.scalar(
        sa.text("UPDATE changes SET value = value + 1 WHERE topic = 'tokens' RETURNING value")
    )
    assert counted is not None
    return int(counted)


def count(connection: sa.Connection) -> int:
    counted = connection.scalar(sa.text("SELECT value FROM changes WHERE topic = 'tokens'"))
    assert counted is not None
    return int(counted)


async def test_work_in_one_go_is_a_transaction(store: Store) -> None:
    def fail(connection: sa.Connection) -> None:
        add_one(connection)
        raise RuntimeError

    def break_rules(connection: sa.Connection) -> None:
        add_one(connection)
        connection.execute(sa.text("INSERT INTO changes (topic, value) VALUES ('parties', 1)"))

    with pytest.raises(RuntimeError):
        await store.run_write(fail)
    with pytest.raises(ConflictError):
        await store.run_write(break_rules)
    assert store.ready
    assert sorted(await asyncio.gather(*(store.run_write(add_one) for _ in range(20)))) == [
        *range(1, 21)
    ]
    assert await store.run_read(count) == 20


async def test_work_in_one_go_takes_turns_with_other_transactions(store: Store) -> None:
    async with store.write() as connection:
        assert await count_up(connection, "tokens") == 1
        waiting = asyncio.ensure_future(store.run_write(add_one))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()
        assert await count_up(connection, "tokens") == 2
    assert await waiting == 3


async def test_whoever_is_cancelled_leaves_no_work_half_way(sqlite_store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(connection: sa.Connection) -> None:
        add_one(connection)
        begun.set()
        assert go_on.wait(30)

    task = asyncio.ensure_future(sqlite_store.run_write(work))
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await sqlite_store.run_read(count) == 1


async def test_work_that_gets_no_lock_leaves_the_store_ready(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgate.store.engine.BUSY_S", 0)
    store = Store(sqlite_url)
    with pytest.raises(StoreError, match="not connected yet"):
        await store.run_read(count)
    await store.connect()
    async with store.write():
        with pytest.raises(StoreError, match="holds its lock"):
            await store.run_write(add_one)
    assert store.ready
    assert await store.run_write(add_one) == 1
    await store.stop()


async def test_work_that_finds_no_database_loses_the_store(
    sqlite_migrated: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copyfile(sqlite_migrated, folder / "fastgate.db")
    store = Store(f"sqlite:///{folder}/fastgate.db")
    await store.connect()
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="cannot be reached"):
        await store.run_read(count)
    assert not store.ready
    await store.stop()


async def test_a_server_that_is_gone_loses_the_store_in_one_go_too(
    postgres_cluster: Cluster,
) -> None:
    store = Store(await asyncio.to_thread(postgres_cluster.database, "migrated"))
    await store.connect()
    await asyncio.to_thread(postgres_cluster.stop)
    try:
        with pytest.raises(StoreError):
            await store.run_read(count)
        assert not store.ready
    finally:
        await asyncio.to_thread(postgres_cluster.start)
    await store.stop()


async def test_changes_by_others_are_told_once(store: Store) -> None:
    heard: list[dict[str, int]] = []

    async def changed(counts: dict[str, int]) -> None:
        heard.append(counts)

    await store.poll()
    store.on_change.append(changed)
    await store.poll()
    assert heard == []
    async with store.write() as connection:
        await count_up(connection, "tokens")
    await store.poll()
    await store.poll()
    assert [{topic: n for topic, n in counts.items() if n} for counts in heard] == [{"tokens": 1}]


async def test_the_database_file_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store(f"sqlite:///{tmp_path}/fastgate.db")
        await store.connect()
        async with store.write() as connection:
            await count_up(connection, "parties")
        assert (tmp_path / "fastgate.db").stat().st_mode & 0o077 == 0
        await store.stop()
    finally:
        os.umask(old)
