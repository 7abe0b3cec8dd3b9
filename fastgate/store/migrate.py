"""Brings a database up to date. This is a separate program, so that the control process does not
load Alembic (10 MiB) for work that is needed once per release:

    echo URL | python -m fastgate.store.migrate

The URL is read from standard input, because it may contain a password and arguments are public.
The exit code is 0, or 1 with one line on standard error.

Two gateways may start on one database at once. The whole upgrade is one transaction, under an
advisory lock on PostgreSQL and with BEGIN IMMEDIATE on SQLite, so one of them upgrades and the
other finds it done.
"""

from __future__ import annotations

import asyncio
import sys

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from fastgate.store.engine import make_engine, writing

LOCK = 0x46617374  # any number, the same in every gateway


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's settings; there is no .ini file."""
    config = Config()
    config.set_main_option("script_location", "fastgate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    command.upgrade(alembic_config(connection), "head")


async def upgrade(url: str) -> None:
    """Run the missing steps. Raises what the driver raises."""
    engine = make_engine(url)
    try:
        async with writing(engine) as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def main() -> int:
    url = sys.stdin.readline().strip()
    try:
        asyncio.run(upgrade(url))
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
