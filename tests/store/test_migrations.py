"""Steps of the schema keep what is in the tables."""

from __future__ import annotations

import sqlalchemy as sa
from storekit import down_to, up

from fastgate.store.engine import Store

KEY = "day, account, consumer, credential, route, service, plan, currency"


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
