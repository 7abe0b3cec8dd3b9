"""The store's connections for asyncio: transactions, streams, and closing to the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from fastgate.store.connection import AsyncConnection, AsyncEngine, insert_into
from fastgate.store.engine import make_engine, writing

ROWS = sa.Table(
    "numbers", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True), sa.Column("s", sa.Text)
)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(f"sqlite:///{tmp_path}/one.db", pool=1)
    async with writing(engine) as connection:
        await connection.run_sync(ROWS.metadata.create_all)
        await connection.execute(sa.insert(ROWS), [{"n": n, "s": str(n)} for n in range(10)])
    yield engine
    await engine.dispose()


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(ROWS)))


async def test_the_orm_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from fastgate.store.engine import make_engine\n"
        "make_engine('sqlite:////nowhere/fastgate.db')\n"
        "print([name for name in sys.modules if 'sqlalchemy.orm' in name\n"
        "       or 'sqlalchemy.ext.asyncio' in name or 'dialects.postgresql' in name])"
    )
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


async def test_a_block_that_raises_leaves_nothing(engine: AsyncEngine) -> None:
    with suppress(LookupError):
        async with writing(engine) as connection:
            await connection.execute(sa.delete(ROWS))
            raise LookupError
    assert await count(engine) == 10


async def test_a_block_that_is_cancelled_leaves_nothing(engine: AsyncEngine) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with writing(engine) as connection:
            await connection.execute(sa.delete(ROWS))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(engine) == 10  # with the only connection of the pool


async def test_a_savepoint_is_rolled_back_alone(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(sa.delete(ROWS).where(ROWS.c.n == 1))
        with suppress(LookupError):
            async with connection.begin_nested():
                await connection.execute(sa.delete(ROWS))
                raise LookupError
    assert await count(engine) == 9


async def test_rows_are_read_one_by_one_and_a_stream_may_be_left(engine: AsyncEngine) -> None:
    query = sa.select(ROWS.c.n).order_by(ROWS.c.n).execution_options(yield_per=2)
    async with engine.connect() as connection:
        async with connection.stream(query) as rows:
            assert [row.n async for row in rows] == list(range(10))
        async with connection.stream(query) as rows:
            async for row in rows:
                if row.n == 3:
                    break
        with pytest.raises(LookupError):
            async with connection.stream(query) as rows:
                raise LookupError
        assert await connection.scalar(sa.select(sa.func.max(ROWS.c.n))) == 9


async def test_closing_ends_even_if_its_caller_is_cancelled(engine: AsyncEngine) -> None:
    connection = await engine.connect().start()
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)  # it has begun
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await count(engine) == 10  # the only connection of the pool is back


async def test_what_closing_raises_is_raised(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await engine.connect().start()

    def fail(close: Callable[[], None]) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(sa.Connection, "close", fail)
        with pytest.raises(OSError, match="gone"):
            await connection.close()
    await connection.close()


async def test_a_connection_is_used_after_its_start(engine: AsyncEngine) -> None:
    connection: AsyncConnection = engine.connect()
    with pytest.raises(RuntimeError, match="not started"):
        await connection.scalar(sa.text("SELECT 1"))


async def test_an_insert_knows_what_to_do_on_a_conflict(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        insert = insert_into(connection, ROWS).values(n=1, s="new")
        await connection.execute(
            insert.on_conflict_do_update(index_elements=["n"], set_={"s": insert.excluded.s})
        )
        assert await connection.scalar(sa.select(ROWS.c.s).where(ROWS.c.n == 1)) == "new"
