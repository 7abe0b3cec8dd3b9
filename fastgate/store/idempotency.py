"""Idempotency keys: a write that is sent twice is done once, and both get the same answer.

```
(none) ──begin──▶ open ──finish──▶ answered ──24 h──▶ (none)
                   │  └─abandon──▶ (none)        the write failed on our side: try again
                   └──60 s───────▶ taken over    the process that began it died
```

A key belongs to one principal. It is stored as a hash, with a fingerprint of the request: the same
key with a different request is refused as a mistake. Answers may contain a secret that is shown
once (a new API key), so the caller seals them before they are stored.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

import msgspec
import sqlalchemy as sa

from fastgate.errors import ConflictError
from fastgate.store.engine import Store
from fastgate.store.ids import new_id
from fastgate.store.parties import now_utc
from fastgate.store.tables import idempotency

KEEP = timedelta(hours=24)
ABANDONED = timedelta(seconds=60)


class KeyState(Enum):
    """What `begin` found."""

    FRESH = "fresh"  # continue, then finish or abandon
    ANSWERED = "answered"  # send this answer again
    OPEN = "open"  # another request with the key is in progress
    OTHER = "other"  # the key was used for another request


class Begun(msgspec.Struct, frozen=True):
    verdict: KeyState
    attempt: str = ""
    answer: bytes = b""


class IdempotencyKeys:
    """The table as operations. `key` and `fingerprint` are 32-byte hashes."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def begin(self, principal: str, key: bytes, fingerprint: bytes) -> Begun:
        now = now_utc()
        mine = sa.and_(idempotency.c.principal == principal, idempotency.c.key == key)
        attempt = new_id("att")
        try:
            async with self.store.write() as connection:
                await connection.execute(
                    sa.delete(idempotency).where(idempotency.c.created < now - KEEP)
                )
                rows = await connection.execute(
                    sa.select(idempotency).where(mine).with_for_update()
                )
                row = rows.one_or_none()
                if row is None:
                    await connection.execute(
                        sa.insert(idempotency).values(
                            principal=principal,
                            key=key,
                            fingerprint=fingerprint,
                            attempt=attempt,
                            created=now,
                        )
                    )
                    return Begun(KeyState.FRESH, attempt)
                if row.fingerprint != fingerprint:
                    return Begun(KeyState.OTHER)
                if row.answer is not None:
                    return Begun(KeyState.ANSWERED, answer=row.answer)
                if row.created > now - ABANDONED:
                    return Begun(KeyState.OPEN)
                await connection.execute(
                    sa.update(idempotency).where(mine).values(attempt=attempt, created=now)
                )
                return Begun(KeyState.FRESH, attempt)
        except ConflictError:  # another gateway inserted it between our two statements
            return Begun(KeyState.OPEN)

    async def finish(self, principal: str, key: bytes, attempt: str, answer: bytes) -> None:
        """Store the answer, unless another process took over the key."""
        async with self.store.write() as connection:
            await connection.execute(
                sa.update(idempotency)
                .where(
                    idempotency.c.principal == principal,
                    idempotency.c.key == key,
                    idempotency.c.attempt == attempt,
                )
                .values(answer=answer)
            )

    async def abandon(self, principal: str, key: bytes, attempt: str) -> None:
        """Delete the key, so that the write may be tried again."""
        async with self.store.write() as connection:
            await connection.execute(
                sa.delete(idempotency).where(
                    idempotency.c.principal == principal,
                    idempotency.c.key == key,
                    idempotency.c.attempt == attempt,
                    idempotency.c.answer.is_(None),
                )
            )
