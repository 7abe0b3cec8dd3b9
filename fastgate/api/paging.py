"""Query members that many handlers take: `limit` and `cursor` of lists, `dry_run` of changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from litestar.params import FromQuery, QueryParameter

from fastgate.store.pages import LIMIT_DEFAULT, LIMIT_MAX, Page, decode_cursor, page_of

T = TypeVar("T")

Limit = Annotated[
    int, QueryParameter(ge=1, le=LIMIT_MAX, description=f"Items on a page, 1 to {LIMIT_MAX}.")
]
LIMIT = LIMIT_DEFAULT
Text = FromQuery[str | None]
DryRun = FromQuery[bool]


def page_in_memory(
    items: Sequence[T], key: Callable[[T], str], cursor: str | None, limit: int
) -> Page[T]:
    """A page of a list in memory, by its keys. Raises BadCursor."""
    after = None if cursor is None else decode_cursor(cursor, str)
    ordered = sorted((item for item in items if after is None or key(item) > after), key=key)
    return page_of(ordered[: limit + 1], limit, key)
