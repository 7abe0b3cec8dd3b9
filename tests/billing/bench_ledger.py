"""How many usage records a second reach the ledger, in batches as the pipeline makes them.

    python tests/billing/bench_ledger.py [URL]

Without a URL, a SQLite file in a temporary directory. The database must be empty. Not a test:
nothing is asserted.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time

from moneykit import NOW, pack, used

from fastgate.billing.ledger.ledger import Ledger
from fastgate.store.engine import Store

RECORDS = 20_000
SHAPES = ((1, 250), (100, 250), (5000, 250), (100, 4096), (5000, 4096))


async def measure(url: str) -> None:
    """Each shape in turn: accounts that the records are spread over, records of a batch."""
    store = Store(url)
    await store.connect()
    ledger = Ledger(store, lambda: NOW)
    try:
        for shape, (accounts, batch) in enumerate(SHAPES):
            first = shape * RECORDS
            usages = [
                used(number, 100, f"acc_{number * 7919 % accounts}", consumer=f"con_{number % 500}")
                for number in range(first, first + RECORDS)
            ]
            batches = [pack(usages[at : at + batch]) for at in range(0, RECORDS, batch)]
            start = time.perf_counter()
            for blocks in batches:
                await ledger.charge(blocks, doubtful=False)
            rate = RECORDS / (time.perf_counter() - start)
            print(f"{accounts:5} accounts, batches of {batch:4}: {rate:7.0f} records/s")
    finally:
        await store.stop()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(measure(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(f"sqlite:///{folder}/bench.db"))
