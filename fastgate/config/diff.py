"""The differences between two configuration documents, resource by resource.

Documents are compared in canonical form, so `1000ms` and `1s` are the same, and so are a default
and its absence. Named resources are matched by name: their order does not matter, and a renamed
route is one removed and one added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from fastgate.model.codec import encode, redact
from fastgate.model.gateway import Gateway


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference."""

    kind: Literal["added", "removed", "changed"]
    path: str
    """The path, with names where there are names: "routes[orders-read].limits[0].rate"."""
    before: Any = None
    """Plain data; meaningful unless added. Passwords in addresses are masked."""
    after: Any = None
    """Plain data; meaningful unless removed."""


def diff(before: Gateway, after: Gateway) -> list[Change]:
    """The differences, in the order of the document."""
    return list(_compare(encode(before), encode(after), ""))


def diff_data(before: Any, after: Any) -> list[Change]:
    """The same, for canonical plain data."""
    return list(_compare(before, after, ""))


def overridden(base: Any, changed: Any, wanted: Any) -> list[Change]:
    """The changes from `base` to `changed` that `wanted`, another edit of `base`, would undo or
    replace. All three are canonical plain data."""
    moves = [change.path for change in diff_data(changed, wanted)]
    return [
        change
        for change in diff_data(base, changed)
        if any(_is_within(move, change.path) or _is_within(change.path, move) for move in moves)
    ]


def _is_within(path: str, place: str) -> bool:
    return path == place or (path.startswith(place) and path[len(place)] in ".[")


def _compare(before: Any, after: Any, path: str) -> Iterator[Change]:
    if before == after and type(before) is type(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _entries(before, after, path, "{0}.{1}" if path else "{1}")
    elif isinstance(before, list) and isinstance(after, list):
        left: dict[Any, Any]
        right: dict[Any, Any]
        if _named(before) and _named(after):
            left = {entry["name"]: entry for entry in before}
            right = {entry["name"]: entry for entry in after}
            yield from _entries(left, right, path, "{0}[{1}]")
        else:
            left = dict(enumerate(before))
            right = dict(enumerate(after))
            yield from _entries(left, right, path, "{0}[{1}]")
    else:
        shown = redact([before, after])
        yield Change(
            kind="changed",
            path=path,
            before=shown[0],
            after=shown[1] if shown[0] != shown[1] else f"{shown[1]} (another password)",
        )


def _entries(
    before: dict[Any, Any], after: dict[Any, Any], path: str, form: str
) -> Iterator[Change]:
    for key, entry in before.items():
        place = form.format(path, key)
        if key in after:
            yield from _compare(entry, after[key], place)
        elif entry and _named(entry):
            yield from _compare(entry, [], place)
        else:
            yield Change(kind="removed", path=place, before=redact(entry))
    for key, entry in after.items():
        if key in before:
            continue
        place = form.format(path, key)
        if entry and _named(entry):
            yield from _compare([], entry, place)
        else:
            yield Change(kind="added", path=place, after=redact(entry))


def _named(entries: Any) -> bool:
    """Whether it is a list of items with unique names (an empty list may be one)."""
    if not isinstance(entries, list):
        return False
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    return None not in names and len(set(names)) == len(names)
