"""Retention: deletes usage records that are older than the configuration says.

This runs only while no record can reach the ledger a second time: the store is available, the spool
is empty, and the pipeline has caught up. `fastgate.store.usage_prune` explains the cost, and why
nothing is lost.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from fastgate.billing.ledger.pipeline import Pipeline
from fastgate.store import usage_prune


async def prune_usage(pipeline: Pipeline, now: datetime, keep: timedelta) -> int:
    """Delete the records of charges that are older than `keep`. Returns how many. Raises
    StoreError.

    It uses many short transactions, so that charges continue between them.
    """
    if not pipeline.caught_up:
        return 0
    cutoff = now - max(keep, usage_prune.KEEP_LEAST)
    store = pipeline.wallets.ledger.store
    async with store.read() as connection:
        accounts = await usage_prune.accounts_before(connection, cutoff)
    total = 0
    for account in accounts:
        gone = 1
        while gone and pipeline.caught_up:
            async with store.write() as connection:
                gone = await usage_prune.prune(connection, account, cutoff)
            total += gone
            await asyncio.sleep(0)
    return total
