"""Steps of the schema keep what is in the tables."""

from __future__ import annotations

import warnings

import sqlalchemy as sa
from alembic.script import ScriptDirectory
from storekit import down_to, up

from fastgate.store.engine import Store
from fastgate.store.migrate import alembic_config
from fastgate.store.tables import HEAD

KEY = "day, account, consumer, credential, route, service, plan, currency"


def test_the_steps_are_one_chain() -> None:
    """Two that were made at the same time have the same number, and no conflict tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scripts = ScriptDirectory.from_config(alembic_config(None))
        steps = [step.revision for step in scripts.walk_revisions()]
    assert steps == [f"{number:04d}" for number in range(len(steps), 0, -1)]
    assert steps[0] == HEAD


async def test_usage_from_before_meters_is_of_requests(store: Store) -> None:
    day = (
        f"INSERT INTO usage_daily ({KEY}, requests, failed, units, amount) VALUES "
        "('2026-11-20', 'acc_a', 'c', 'k', 'r', 's', 'p', 'EUR', 7, 1, 7, 700)"
    )
    units = (
        f"INSERT INTO usage_daily ({KEY}, meter, requests, failed, units, amount) "
        f"SELECT {KEY}, 'tokens', 0, 0, 50, 5 FROM usage_daily"
    )
    async with store.write() as connection:
        await connection.run_sync(down_to, "0005")
        await connection.execute(sa.text(day))
        await connection.run_sync(up)
    query = sa.text("SELECT account, route, currency, meter, requests, amount FROM usage_daily")
    async with store.read() as connection:
        assert [tuple(row) for row in await connection.execute(query)] == [
            ("acc_a", "r", "EUR", "", 7, 700)
        ]
    async with store.write() as connection:
        await connection.execute(sa.text(units))
        await connection.run_sync(down_to, "0005")
        rows = (await connection.execute(sa.text("SELECT requests, units FROM usage_daily"))).all()
        assert [tuple(row) for row in rows] == [(7, 7)]
        await connection.run_sync(up)
