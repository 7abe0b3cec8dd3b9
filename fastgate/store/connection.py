"""The store's connections for asyncio: SQLAlchemy's plain ones, with each call in a greenlet.

SQLAlchemy's drivers for asyncio use its plain `Engine` and `Connection`, called through
`greenlet_spawn`. `sqlalchemy.ext.asyncio` wraps them, but importing it imports the ORM, which is
not used here and takes 7 MiB for the life of the process. This module is the part that the store
needs, with the same names and behavior:

- closing a connection or a stream runs to its end even if the caller is cancelled;
- a transaction is committed at the end of its block and rolled back on any exception, including a
  cancellation.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.util import greenlet_spawn

from fastgate.tasks import to_the_end

T = TypeVar("T")
P = ParamSpec("P")


class AsyncEngine:
    """A pool of connections of a driver for asyncio."""

    def __init__(self, engine: sa.Engine) -> None:
        """engine: with such a driver. It may be used for events, but never to connect."""
        self.sync_engine = engine

    def connect(self) -> AsyncConnection:
        """A connection, for use with `async with` or `start`."""
        return AsyncConnection(self.sync_engine)

    async def dispose(self) -> None:
        """Close the pool."""
        await greenlet_spawn(self.sync_engine.dispose)


class AsyncConnection:
    """One connection, between `start` and `close`."""

    __slots__ = ("_connection", "_engine")

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None

    async def start(self) -> AsyncConnection:
        """Take a connection from the pool."""
        self._connection = await greenlet_spawn(self._engine.connect)
        return self

    async def close(self) -> None:
        """Return it to the pool and roll back what was not committed, even on a cancellation."""
        await to_the_end(greenlet_spawn(self._started.close))

    async def __aenter__(self) -> AsyncConnection:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _started(self) -> sa.Connection:
        if self._connection is None:
            raise RuntimeError("the connection is not started")
        return self._connection

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def execution_options(self, **options: Any) -> None:
        """Set options for later statements of the connection."""
        await greenlet_spawn(self._started.execution_options, **options)

    def begin(self) -> AbstractAsyncContextManager[None]:
        """A transaction, for the length of a block."""
        return _transaction(self._started.begin)

    def begin_nested(self) -> AbstractAsyncContextManager[None]:
        """A savepoint, for the length of a block."""
        return _transaction(self._started.begin_nested)

    async def execute(
        self, statement: sa.Executable, parameters: Any = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """The result, with all rows fetched."""
        return await greenlet_spawn(self._started.execute, statement, parameters)

    async def scalar(self, statement: sa.Executable, parameters: Any = None) -> Any:
        """The first column of the first row; None if there is no row."""
        return await greenlet_spawn(self._started.scalar, statement, parameters)

    async def exec_driver_sql(
        self, statement: str, parameters: Any = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """Execute a text unchanged, without parsing by SQLAlchemy."""
        return await greenlet_spawn(self._started.exec_driver_sql, statement, parameters)

    @asynccontextmanager
    async def stream(self, statement: sa.Executable) -> AsyncIterator[Rows]:
        """The rows, fetched as they are read."""
        result = await greenlet_spawn(
            self._started.execute, statement, execution_options={"stream_results": True}
        )
        try:
            yield Rows(result)
        finally:
            await to_the_end(greenlet_spawn(result.close))

    async def run_sync(
        self, work: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of `work`, which gets the plain connection and may call it synchronously."""
        return await greenlet_spawn(partial(work, self._started, *args, **kwargs))


def insert_into(connection: AsyncConnection | sa.Connection, table: sa.Table) -> Any:
    """An INSERT with ON CONFLICT, in the dialect of the connection. SQLite's and PostgreSQL's have
    the same methods."""
    # The engine's own dialect is imported already; the other one would take 2 MiB.
    dialect = sys.modules[f"sqlalchemy.dialects.{connection.dialect.name}"]
    return dialect.insert(table)


class Rows:
    """The rows of a statement, for `async for`."""

    __slots__ = ("_result",)

    def __init__(self, result: sa.CursorResult[*tuple[Any, ...]]) -> None:
        self._result = result

    def __aiter__(self) -> Rows:
        return self

    async def __anext__(self) -> sa.Row[*tuple[Any, ...]]:
        row = await greenlet_spawn(self._result.fetchone)
        if row is None:
            raise StopAsyncIteration
        return row


@asynccontextmanager
async def _transaction(begin: Callable[[], sa.Transaction]) -> AsyncIterator[None]:
    transaction = await greenlet_spawn(begin)
    transaction.__enter__()
    try:
        yield
    except BaseException as error:
        await greenlet_spawn(transaction.__exit__, type(error), error, error.__traceback__)
        raise
    await greenlet_spawn(transaction.__exit__, None, None, None)
