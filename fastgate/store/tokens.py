"""Bearer tokens of the control API, as rows: hashes, roles, labels."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from fastgate.errors import NotFoundError
from fastgate.store.engine import Store, count_up, counter
from fastgate.store.ids import new_id
from fastgate.store.pages import Page, decode_cursor, page_of
from fastgate.store.parties import now_utc
from fastgate.store.tables import tokens

TOPIC = "tokens"


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """One token; the token itself is not stored."""

    id: str
    digest: bytes
    prefix: str
    role: str
    label: str
    created_by: str
    created: datetime
    expires_at: datetime | None


def _token(row: sa.Row[Any]) -> TokenRow:
    return TokenRow(**row._asdict())


class TokenTable:
    """The table of tokens as operations."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(
        self,
        *,
        digest: bytes,
        prefix: str,
        role: str,
        label: str,
        created_by: str,
        expires_at: datetime | None,
    ) -> TokenRow:
        token = TokenRow(
            id=new_id("tok"),
            digest=digest,
            prefix=prefix,
            role=role,
            label=label,
            created_by=created_by,
            created=now_utc(),
            expires_at=expires_at,
        )
        async with self.store.write() as connection:
            await connection.execute(sa.insert(tokens).values(msgspec.structs.asdict(token)))
            await count_up(connection, TOPIC)
        return token

    async def get(self, ident: str) -> TokenRow:
        """Raises NotFoundError."""
        row = None
        if ident.isprintable():
            async with self.store.read() as connection:
                rows = await connection.execute(sa.select(tokens).where(tokens.c.id == ident))
                row = rows.one_or_none()
        if row is None:
            raise NotFoundError(f"There is no token {ident!r}.")
        return _token(row)

    async def delete(self, ident: str) -> None:
        """Raises NotFoundError."""
        async with self.store.write() as connection:
            done = await connection.execute(sa.delete(tokens).where(tokens.c.id == ident))
            if done.rowcount != 1:
                raise NotFoundError(f"There is no token {ident!r}.")
            await count_up(connection, TOPIC)

    async def page(self, *, cursor: str | None, limit: int) -> Page[TokenRow]:
        query = sa.select(tokens).order_by(tokens.c.id).limit(limit + 1)
        if cursor is not None:
            query = query.where(tokens.c.id > decode_cursor(cursor, str))
        async with self.store.read() as connection:
            rows = await connection.execute(query)
            return page_of([_token(row) for row in rows], limit, lambda item: item.id)

    async def everything(self) -> tuple[list[TokenRow], int]:
        """All tokens, and the topic's count (read first, so that it is never too new)."""
        async with self.store.read() as connection:
            count = await counter(connection, TOPIC)
            rows = await connection.execute(sa.select(tokens))
            return [_token(row) for row in rows], count

    async def count(self) -> int:
        async with self.store.read() as connection:
            return await counter(connection, TOPIC)
