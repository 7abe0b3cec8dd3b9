"""Callers' tokens that are revoked, as rows: hashes, until the tokens expire.

Every change increments the counter of the topic "revocations" in its transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.errors import ConflictError
from fastgate.store.connection import AsyncConnection
from fastgate.store.engine import Store, count_up, counter
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of
from fastgate.store.parties import now_utc
from fastgate.store.tables import revoked_tokens

TOPIC = "revocations"


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """A revoked token."""

    id: str
    digest: bytes
    """See `fastgate.model.digests`: of the token, or of its `jti`."""
    whole: bytes | None
    """Of a JWT: the digest of its whole text, as which it counts where its issuer is asked."""
    about: dict[str, str]
    """What identifies it to people: issuer and `jti`, or what it says about itself."""
    revoked_by: str
    created: datetime
    expires_at: datetime
    """When it can be forgotten."""

    @property
    def digests(self) -> list[bytes]:
        """All of them."""
        return [self.digest] if self.whole is None else [self.digest, self.whole]


class Revocations:
    """The table as operations."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(
        self,
        *,
        digest: bytes,
        whole: bytes | None,
        about: dict[str, str],
        revoked_by: str,
        expires_at: datetime,
    ) -> tuple[Revocation, bool, int]:
        """Revoke a token: the row, whether it is new, and the topic's count. One that is revoked
        already stays as it is, unless it would have been forgotten sooner. Those that have expired
        are forgotten."""
        row = Revocation(
            id=new_id("rev"),
            digest=digest,
            whole=whole,
            about=about,
            revoked_by=revoked_by,
            created=now_utc(),
            expires_at=expires_at,
        )
        async with self.store.write() as connection:
            await connection.execute(
                sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at <= row.created)
            )
            new = await _insert(connection, row)
            if not new:
                row = await _longer(connection, digest, expires_at)
            return row, new, await count_up(connection, TOPIC)

    async def page(self, *, cursor: str | None, limit: int) -> Page[Revocation]:
        """Those that have not expired, oldest first."""
        query = (
            sa.select(revoked_tokens)
            .where(revoked_tokens.c.expires_at > now_utc())
            .order_by(revoked_tokens.c.id)
            .limit(limit + 1)
        )
        if cursor is not None:
            query = query.where(revoked_tokens.c.id > decode_cursor(cursor, str))
        async with self.store.read() as connection:
            rows = await connection.execute(query)
            return page_of([_revocation(row) for row in rows], limit, lambda item: item.id)

    async def everything(self) -> tuple[list[Revocation], int]:
        """All that have not expired, and the topic's count (read first: never too new)."""
        async with self.store.read() as connection:
            count = await counter(connection, TOPIC)
            rows = await connection.execute(
                sa.select(revoked_tokens).where(revoked_tokens.c.expires_at > now_utc())
            )
            return [_revocation(row) for row in rows], count


def _revocation(row: sa.Row[Any]) -> Revocation:
    return Revocation(**row._asdict())


async def _insert(connection: AsyncConnection, row: Revocation) -> bool:
    """Whether it is new."""
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(revoked_tokens).values(msgspec.structs.asdict(row)))
    except sa.exc.IntegrityError:
        return False
    return True


async def _longer(connection: AsyncConnection, digest: bytes, expires_at: datetime) -> Revocation:
    """The row of a token that is revoked already, kept at least until then."""
    mine = revoked_tokens.c.digest == digest
    await connection.execute(
        sa.update(revoked_tokens)
        .where(mine, revoked_tokens.c.expires_at < expires_at)
        .values(expires_at=expires_at)
    )
    row = (await connection.execute(sa.select(revoked_tokens).where(mine))).one_or_none()
    if row is None:
        raise ConflictError("It was revoked and forgotten at the same moment; do it again.")
    return _revocation(row)
