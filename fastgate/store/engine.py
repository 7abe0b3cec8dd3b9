"""Store: the connection to the database, which may be down at any time.

```
            start()
              │
        ┌─ connecting ─── connected, migrated, listeners called ─▶ ready ─┐
        │     ▲                                                          │
        │     └── back-off 0.2 s, doubled up to 5 s ◀── lost, at any use ─┘
```

- `start()` returns at once: a gateway does not wait for its database. `read()` and `write()` raise
  StoreError while the store is not ready, and if the connection is lost during their transaction.
  During the first attempt to connect, they wait for its end.
- Listeners (`on_ready`) run after every connect: identity, tokens and revisions then catch up with
  the changes. Reads and writes do not wait for the listeners.
- PostgreSQL may be shared by several gateways that do not price requests (see `owner`): every 2 s
  the counters of `changes` are read, and listeners (`on_change`) are called if one has changed.
  SQLite has one gateway, and no poll.
- One transaction per `async with`. `write()` is BEGIN IMMEDIATE on SQLite, so that two writers
  queue up (`busy_timeout`) instead of failing half-way.
- Frequent work that uses only the database goes through `run_read()` and `run_write()`: a function
  that gets a connection and awaits nothing. SQLite's driver for asyncio passes each statement to a
  thread and back three or four times, which costs more than the statement; a whole function is
  passed only once.

SQLite runs in WAL mode with `synchronous=NORMAL`: a crash of the process loses nothing, a crash
of the machine may lose the last transactions, never the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

import fastgate
from fastgate.errors import ConflictError, StoreError
from fastgate.imports import importing
from fastgate.model.store_url import NO_DRIVER, StoreUrl
from fastgate.store.connection import AsyncConnection, AsyncEngine
from fastgate.store.tables import HEAD
from fastgate.tasks import keep_running, to_the_end

log = logging.getLogger("fastgate.store")

BUSY_S = 5  # how long a SQLite writer waits for another
CONNECT_S = 5
FIRST_S = 5  # how long early uses wait for the first attempt to connect
COMMAND_S = 15
BACKOFF_S = (0.2, 5.0)
MIGRATION_S = 600
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

POLL_S = 2.0  # the maximum delay until another gateway's change is seen

Listener = Callable[[], Awaitable[None]]
ChangeListener = Callable[[dict[str, int]], Awaitable[None]]

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""The work of a transaction, as one function."""


def parse_url(text: str) -> StoreUrl:
    """A store's URL. Raises StoreError."""
    try:
        return StoreUrl.parse(text)
    except ValueError as error:
        raise StoreError(f"The store's URL is not valid: {error}.") from None


def make_engine(text: str, *, pool: int = 4) -> AsyncEngine:
    """An engine with our settings for its database. Does not connect yet. Raises StoreError."""
    store = parse_url(text)
    with importing():  # SQLAlchemy imports dialect and driver now
        return (
            _sqlite(_sqlite_url(store), pool)
            if store.kind == "sqlite"
            else _postgresql(store, pool)
        )


def _postgresql(store: StoreUrl, pool: int) -> AsyncEngine:
    try:
        import asyncpg  # type: ignore[import-untyped]
    except ImportError:
        raise StoreError(NO_DRIVER) from None

    async def connect() -> Any:
        # The driver reads the URL, since SQLAlchemy does not support sslmode and similar options.
        return await asyncpg.connect(dsn=store.text, timeout=CONNECT_S, command_timeout=COMMAND_S)

    def adapted() -> Any:
        assert engine.dialect.dbapi is not None
        return engine.dialect.dbapi.connect(async_creator_fn=connect)

    engine = sa.create_engine(
        f"{DRIVERS['postgresql']}://",
        creator=adapted,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=CONNECT_S,
        pool_pre_ping=True,
    )
    return AsyncEngine(engine)


def _sqlite_url(store: StoreUrl) -> URL:
    return make_url(store.text).set(drivername=DRIVERS["sqlite"])


def _sqlite(url: URL, pool: int) -> AsyncEngine:
    engine = sa.create_engine(url, **_sqlite_options(pool))
    _have_habits(engine)
    return AsyncEngine(engine)


def _sqlite_direct(url: URL, pool: int = 4) -> sa.Engine:
    """The engine for transactions that run as one function in a thread."""
    with importing():
        engine = sa.create_engine(url.set(drivername="sqlite+pysqlite"), **_sqlite_options(pool))
    _have_habits(engine)
    return engine


def _sqlite_options(pool: int) -> dict[str, Any]:
    return {
        "pool_size": pool,
        "max_overflow": 0,
        "pool_timeout": CONNECT_S,
        "pool_use_lifo": True,  # the last one returned, whose caches are warm
        # None: the driver starts no transaction implicitly; `begin` below does.
        "connect_args": {"timeout": BUSY_S, "isolation_level": None},
    }


def _have_habits(engine: sa.Engine) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_S * 1000}",
            "cache_size=-1024",  # KiB: the store is small, memory is counted
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("fastgate_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _transact(engine: sa.Engine, work: Work[T], writes: bool) -> T:
    """Run the work as one transaction, in the calling thread."""
    with engine.connect() as connection:
        connection.execution_options(fastgate_writes=writes)
        with connection.begin():
            return work(connection)


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One writing transaction; committed at the end, rolled back on an exception."""
    async with engine.connect() as connection:
        await connection.execution_options(fastgate_writes=True)
        async with connection.begin():
            yield connection


def reason_of(error: BaseException) -> str:
    """A driver's error as one line, without the statement and its parameters."""
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


class Store:
    """The database of one gateway. Used on one event loop."""

    def __init__(self, url: str) -> None:
        """Raises StoreError for an invalid URL; does not connect."""
        self._text = url
        self.url = parse_url(url)
        self.kind = self.url.kind
        self.on_ready: list[Listener] = []
        self.on_change: list[ChangeListener] = []
        self._counts: dict[str, int] = {}
        self._engine: AsyncEngine | None = None
        self._direct: sa.Engine | None = None  # a second engine, only for SQLite
        self._connecting: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._ready = asyncio.Event()
        self._tried = asyncio.Event()
        self._problem = "The store is not connected yet."

    def copy(self) -> Store:
        """A second Store for the same database, not connected and without listeners."""
        return Store(self._text)

    # ---- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Start connecting, and stay connected. Returns at once."""
        if self._connecting is None:
            kept = keep_running("the store's connection", self._keep, log)
            self._connecting = asyncio.create_task(kept, name="store")

    async def stop(self) -> None:
        """Close every connection."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
        self._ready.clear()
        self._problem = "The store is closed."
        await self._dispose()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    @property
    def problem(self) -> str | None:
        """Why the store is not ready; None if it is."""
        return None if self.ready else self._problem

    async def connect(self) -> None:
        """Connect, migrate, and call the listeners. Raises StoreError; may be called again."""
        engine = self._engine
        try:
            if engine is None:
                engine = self._engine = make_engine(self._text)
                if self.kind == "sqlite":
                    self._direct = _sqlite_direct(_sqlite_url(self.url))
            if self.kind == "sqlite":
                self._make_file()
            if await self._migration_due(engine):
                await self._migrate()
        except StoreError:
            raise
        except Exception as error:  # any error of the driver here means that it cannot be reached
            raise StoreError(f"The store cannot be reached: {reason_of(error)}.") from error
        self._lost.clear()
        self._ready.set()
        try:
            for listener in self.on_ready:
                await listener()
        except StoreError:
            self._ready.clear()
            raise

    async def _keep(self) -> None:
        wait, most = BACKOFF_S
        while True:
            try:
                await self.connect()
            except StoreError as error:
                if str(error) != self._problem:
                    log.warning("%s Trying again.", error)
                self._problem = str(error)
                self._tried.set()
                await self._dispose()
                await asyncio.sleep(wait)
                wait = min(wait * 2, most)
                continue
            except Exception:
                # A listener's error must not stop the connection: the store itself is available.
                log.exception("Catching up with the store failed.")
            else:
                log.info("The store is ready (%s).", self.url.shown)
            self._tried.set()
            wait = BACKOFF_S[0]
            await self._until_lost()
            await self._dispose()

    async def _until_lost(self) -> None:
        if self.kind == "sqlite":
            await self._lost.wait()
            return
        while not self._lost.is_set():
            try:
                await asyncio.wait_for(self._lost.wait(), POLL_S)
            except TimeoutError:
                try:
                    await self.poll()
                except StoreError:
                    continue  # already reported, and the store is lost now
                except Exception:
                    log.exception("Following the store's changes failed.")

    async def poll(self) -> None:
        """Call `on_change` if any topic has changed since the last poll. Raises StoreError."""
        async with self.read() as connection:
            rows = await connection.execute(sa.text("SELECT topic, value FROM changes"))
            counts = {str(topic): int(value) for topic, value in rows}
        if counts != self._counts:
            self._counts = counts
            for listener in self.on_change:
                await listener(counts)

    async def _dispose(self) -> None:
        engine, self._engine = self._engine, None
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.dispose()
        if engine is not None:
            with suppress(SQLAlchemyError, OSError):
                await engine.dispose()

    def _lose(self, error: BaseException) -> StoreError:
        """Record that the connection was lost during a use."""
        problem = f"The store cannot be reached: {reason_of(error)}."
        if self.ready:
            log.warning("The store was lost: %s", reason_of(error))
        self._problem = problem
        self._ready.clear()
        self._lost.set()
        return StoreError(problem)

    # ---- migration ----------------------------------------------------------------------

    def _make_file(self) -> None:
        """Create the file before SQLite does, which would let everyone read it."""
        path = Path(_sqlite_url(self.url).database or "")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    async def _migration_due(self, engine: AsyncEngine) -> bool:
        async with engine.connect() as connection:
            tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
            if "alembic_version" not in tables:
                return True
            found = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        if found is not None and found > HEAD:
            raise StoreError(
                f"The store was last used by a newer FastGate (its tables are {found}, "
                f"this one knows {HEAD}). Run that release again, or restore a backup."
            )
        return bool(found != HEAD)

    async def _migrate(self) -> None:
        """Run `fastgate.store.migrate` as a program; that module says why."""
        root = str(Path(fastgate.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fastgate.store.migrate",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            async with asyncio.timeout(MIGRATION_S):
                _, said = await process.communicate(self._text.encode() + b"\n")
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            raise
        if process.returncode != 0:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise StoreError(f"The store's tables could not be brought up to date: {last}")

    # ---- use ----------------------------------------------------------------------------

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads. Raises StoreError."""
        async with self._transaction(writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; committed at the end. Raises StoreError, ConflictError."""
        async with self._transaction(writes=True) as connection:
            yield connection

    async def run_read(self, work: Work[T]) -> T:
        """Run `work` as one transaction that only reads, and return its result. On SQLite it runs
        in a thread. Raises StoreError, and what `work` raises."""
        return await self._run(work, writes=False)

    async def run_write(self, work: Work[T]) -> T:
        """The same for a writing transaction; committed if `work` returns, rolled back if it
        raises. Raises StoreError, ConflictError. A cancelled caller waits for its end."""
        return await self._run(work, writes=True)

    async def _run(self, work: Work[T], *, writes: bool) -> T:
        if self.kind != "sqlite":
            async with self._transaction(writes=writes) as connection:
                return await connection.run_sync(work)
        await self._first_attempt()
        engine = self._direct
        if engine is None or not self.ready:
            raise StoreError(self._problem)
        with self._translated_errors():
            # A thread cannot be stopped, and a later caller must not see its work half done.
            return await to_the_end(asyncio.to_thread(_transact, engine, work, writes))

    async def _first_attempt(self) -> None:
        """Let uses in the first second wait, instead of failing with "not connected yet"."""
        if self._connecting is not None and not (self._tried.is_set() or self.ready):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), FIRST_S)

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncIterator[AsyncConnection]:
        await self._first_attempt()
        engine = self._engine
        if engine is None or not self.ready:
            raise StoreError(self._problem)
        connection = engine.connect()
        try:
            await connection.start()
        except Exception as error:
            raise self._lose(error) from error
        try:
            if writes:
                await connection.execution_options(fastgate_writes=True)
            with self._translated_errors():
                async with connection.begin():
                    yield connection
        finally:
            with suppress(SQLAlchemyError, OSError):
                await connection.close()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Translate a driver's errors into ours, and record a lost connection."""
        try:
            yield
        except IntegrityError as error:
            raise ConflictError(reason_of(error)) from error
        except (OperationalError, InterfaceError) as error:
            raise self._failed(error) from error
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise  # a wrong statement is our fault, not the store's
            raise self._lose(error) from error
        except (OSError, TimeoutError, PoolTimeoutError) as error:
            raise self._lose(error) from error

    def _failed(self, error: DBAPIError) -> StoreError:
        """A statement failed. A busy or full SQLite file does not need a new connection."""
        if self.kind == "sqlite" and "locked" in str(error.orig):
            return StoreError("The store is busy: another process holds its lock.")
        return self._lose(error)


async def counter(connection: AsyncConnection, topic: str) -> int:
    """The number of changes to the topic, by all gateways on this database."""
    value = await connection.scalar(
        sa.text("SELECT value FROM changes WHERE topic = :topic"), {"topic": topic}
    )
    return int(value or 0)


async def count_up(connection: AsyncConnection, topic: str) -> int:
    """Record, within a transaction, that it changes the topic. Returns the new count."""
    value = await connection.scalar(
        sa.text("UPDATE changes SET value = value + 1 WHERE topic = :topic RETURNING value"),
        {"topic": topic},
    )
    return int(value or 0)
