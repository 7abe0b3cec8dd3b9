"""Databases for tests: a fresh, migrated SQLite file or PostgreSQL database for each test.

PostgreSQL is a real server: a private cluster in a temporary directory, on a Unix socket only,
started once a session as a user other than root and stopped at its end. The migration is run
once for each kind; tests get copies of its result.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from fastgate.store.engine import Store
from fastgate.store.migrate import alembic_config, upgrade


def down_to(connection: sa.Connection, revision: str) -> None:
    """Take a store back to an older schema."""
    command.downgrade(alembic_config(connection), revision)


def up(connection: sa.Connection) -> None:
    """Bring it up to date again."""
    command.upgrade(alembic_config(connection), "head")


def _find(program: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)
    return str(found[0]) if found else shutil.which(program)


class Cluster:
    """A running PostgreSQL cluster of our own."""

    def __init__(self, initdb: str, postgres: str, port: int | None = None) -> None:
        """On a Unix socket, and on 127.0.0.1 too where there is a port."""
        self.postgres = postgres
        self.port = port or 5432
        self.listen = "" if port is None else "127.0.0.1"
        self.folder = Path(tempfile.mkdtemp(prefix="fastgate-pg-", dir="/tmp"))
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            owner = next(
                pwd.getpwnam(name)
                for name in ("postgres", "nobody")
                if name in {entry.pw_name for entry in pwd.getpwall()}
            )
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.data = self.folder / "data"
        subprocess.run(
            [
                initdb, "-D", str(self.data), "-U", "fastgate", "-A", "trust", "-N",
                "--locale=C.UTF-8", "-E", "UTF8",
            ],
            check=True, capture_output=True, cwd="/", **self.user,
        )  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.numbers = itertools.count(1)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self.postgres, "-D", str(self.data), "-k", str(self.folder),
                "-c", f"listen_addresses={self.listen}", "-c", f"port={self.port}",
                "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self.user,
        )  # fmt: skip
        asyncio.run(self._answers())

    async def _answers(self) -> None:
        import asyncpg

        async with asyncio.timeout(30):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, "the server ended"
                try:
                    connection = await asyncpg.connect(self.dsn("postgres"))
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.05)
                else:
                    await connection.close()
                    return

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # fast shutdown
            self.process.wait(30)
            self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nobody answers: all its processes are stopped (SIGSTOP), its connections stay open."""
        assert self.process is not None
        root = self.process.pid
        os.kill(root, signal.SIGSTOP)  # the first, so that there are no more of them
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
        stopped = [int(pid) for pid in children]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in (*stopped, root):
                os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def dsn(self, database: str) -> str:
        return f"postgresql://fastgate@/{database}?host={self.folder}&port={self.port}"

    def run(self, statement: str) -> None:
        async def run() -> None:
            import asyncpg

            connection = await asyncpg.connect(self.dsn("postgres"))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    def database(self, template: str | None = None) -> str:
        """A new database; its URL."""
        name = f"t{next(self.numbers)}"
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return self.dsn(name)


def cluster_or_skip(port: int | None = None) -> Cluster:
    """A running cluster."""
    pytest.importorskip("asyncpg", reason="install the extra 'postgresql' (asyncpg)")
    initdb, postgres = _find("initdb"), _find("postgres")
    if initdb is None or postgres is None:
        pytest.skip("install the Debian package 'postgresql' to run this")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        pytest.skip("PostgreSQL wants a user with a name, and this user id has none")
    return Cluster(initdb, postgres, port)


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    cluster = cluster_or_skip()
    try:
        cluster.run("CREATE DATABASE migrated")
        asyncio.run(upgrade(cluster.dsn("migrated")))
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def sqlite_migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(upgrade(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_migrated: Path, tmp_path: Path) -> str:
    """The URL of a migrated, empty SQLite file."""
    path = tmp_path / "fastgate.db"
    shutil.copyfile(sqlite_migrated, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated, empty database; each test runs on both kinds."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    return cluster.database(template="migrated")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A connected store, on both kinds."""
    store = Store(store_url)
    await store.connect()
    yield store
    await store.stop()


@pytest.fixture
async def sqlite_store(sqlite_url: str) -> AsyncIterator[Store]:
    """A connected store on SQLite, where the kind does not matter."""
    store = Store(sqlite_url)
    await store.connect()
    yield store
    await store.stop()
