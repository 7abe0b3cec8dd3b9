"""Revisions of the configuration, as rows: numbered from 1 without gaps, never changed.

A document is stored as zlib of its canonical JSON: every change stores a whole document, and
configurations compress about twenty to one. The number is assigned in the transaction that inserts
it, under the lock of the topic's row in `changes`, so several gateways may insert.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from fastgate.errors import NotFoundError
from fastgate.store.engine import Store, count_up
from fastgate.store.pages import Page, decode_cursor, page_of
from fastgate.store.tables import revisions

Source = Literal["file", "api", "rollback"]
TOPIC = "revisions"
LARGEST = 2**31 - 1


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the configuration, without its document."""

    number: int
    parent: int | None
    digest: str
    author: str
    source: Source
    note: str
    created: datetime


_COLUMNS = [column for column in revisions.c if column.name != "document"]


def _revision(row: sa.Row[Any]) -> Revision:
    return Revision(**row._asdict())


class History:
    """The table of revisions as operations."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(
        self,
        document: bytes,
        *,
        digest: str,
        author: str,
        source: Source,
        note: str,
        created: datetime,
        keep: int,
    ) -> Revision:
        """Append a revision after the newest; drop all but the newest `keep`."""
        packed = zlib.compress(document, 6)
        async with self.store.write() as connection:
            await count_up(connection, TOPIC)  # locks the row: others wait here
            last = await connection.scalar(sa.select(sa.func.max(revisions.c.number)))
            revision = Revision(
                number=(last or 0) + 1,
                parent=last,
                digest=digest,
                author=author[:200],
                source=source,
                note=note[:500],
                created=created,
            )
            await connection.execute(
                sa.insert(revisions).values(document=packed, **msgspec.structs.asdict(revision))
            )
            await connection.execute(
                sa.delete(revisions).where(revisions.c.number <= revision.number - keep)
            )
        return revision

    async def newest(self) -> Revision | None:
        async with self.store.read() as connection:
            rows = await connection.execute(
                sa.select(*_COLUMNS).order_by(revisions.c.number.desc()).limit(1)
            )
            row = rows.one_or_none()
            return None if row is None else _revision(row)

    async def get(self, number: int) -> tuple[Revision, bytes]:
        """A revision and its document (canonical JSON). Raises NotFoundError."""
        row = None
        if 0 < number <= LARGEST:
            async with self.store.read() as connection:
                rows = await connection.execute(
                    sa.select(revisions).where(revisions.c.number == number)
                )
                row = rows.one_or_none()
        if row is None:
            raise NotFoundError(f"There is no revision {number}.")
        fields = row._asdict()
        document = zlib.decompress(fields.pop("document"))
        return Revision(**fields), document

    async def page(self, *, cursor: str | None, limit: int) -> Page[Revision]:
        """Newest first."""
        query = sa.select(*_COLUMNS).order_by(revisions.c.number.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(revisions.c.number < min(decode_cursor(cursor, int), LARGEST))
        async with self.store.read() as connection:
            rows = await connection.execute(query)
            return page_of([_revision(row) for row in rows], limit, lambda item: item.number)
