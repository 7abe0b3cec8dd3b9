"""Pages of a list: a cursor says after which key to continue, so that inserts never shift it.

A cursor is opaque to the caller: base64url of msgpack `[key]`. It is a position, not a snapshot: an
item that is deleted between two pages is not shown, and no item is shown twice.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
U = TypeVar("U")

LIMIT_DEFAULT = 50
LIMIT_MAX = 500


class BadCursor(ValueError):
    """The cursor is not from this gateway, or is for another list."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some items of a list, and the cursor for more; `next` is None on the last page."""

    items: list[T]
    next: str | None = None

    def map(self, change: Callable[[T], U]) -> Page[U]:
        return Page([change(item) for item in self.items], self.next)


def encode_cursor(key: str | int) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([key])).rstrip(b"=").decode()


def decode_cursor(cursor: str, kind: type[T]) -> T:
    """The key in a cursor. Raises BadCursor."""
    try:
        raw = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        key: list[T] = msgspec.msgpack.decode(raw, type=list[kind])  # type: ignore[valid-type]
        (only,) = key
    except (binascii.Error, UnicodeEncodeError, ValueError, msgspec.DecodeError) as error:
        raise BadCursor("This cursor was not given out for this list.") from error
    if isinstance(only, str) and not only.isprintable():
        raise BadCursor("This cursor was not given out for this list.")
    return only


def page_of(found: Sequence[T], limit: int, key: Callable[[T], str | int]) -> Page[T]:
    """A page of up to `limit` + 1 items found; the extra one only shows that there are more."""
    items = list(found[:limit])
    more = len(found) > limit and bool(items)
    return Page(items, encode_cursor(key(items[-1])) if more else None)
