"""Finding the operation of a request: by path template and method.

Templates are kept in a tree of segments. Literal text goes before text with a parameter, and that
before a parameter alone; if a branch leads nowhere, the next one is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from fastgate.validation.program import Operation, Path

_VARIABLE = re.compile(r"\{([^{}]*)\}")


class Found(NamedTuple):
    """The path of a request, with its operations and the values of its parameters."""

    operations: dict[str, Operation]
    """By method."""
    parameters: dict[str, str]
    """As sent: percent-encoded."""


class _Segment:
    """The segments that may follow in a template."""

    __slots__ = ("any", "here", "literal", "mixed")

    def __init__(self) -> None:
        self.literal: dict[str, _Segment] = {}
        self.mixed: list[tuple[re.Pattern[str], _Segment]] = []  # the longest literal text first
        self.any: _Segment | None = None
        self.here: tuple[tuple[str, ...], dict[str, Operation]] | None = None


class Paths:
    """The paths of a description."""

    def __init__(self, paths: Iterable[Path], prefix: str | None) -> None:
        """prefix: what comes before all of them; None: what their servers say."""
        self._root = _Segment()
        for path in paths:
            bases = path.bases if prefix is None else (prefix.rstrip("/"),)
            for base in bases:
                self._add(base, path)

    def _add(self, base: str, path: Path) -> None:
        at = self._root
        segments = [(text, True) for text in base.split("/")[1:]]
        segments += [(text, False) for text in path.template.split("/")[1:]]
        for text, plain in segments:
            at = self._next(at, text, plain)
        names = tuple(_VARIABLE.findall(path.template))
        operations = {one.method: one for one in path.operations}
        at.here = (names, operations if at.here is None else {**at.here[1], **operations})

    @staticmethod
    def _next(at: _Segment, text: str, plain: bool) -> _Segment:
        if plain or "{" not in text:
            return at.literal.setdefault(text, _Segment())
        if _VARIABLE.fullmatch(text):
            at.any = at.any or _Segment()
            return at.any
        parts = _VARIABLE.split(text)[::2]
        pattern = re.compile("([^/]+)".join(map(re.escape, parts)))
        for known, following in at.mixed:
            if known.pattern == pattern.pattern:
                return following
        following = _Segment()
        at.mixed.append((pattern, following))
        at.mixed.sort(key=lambda one: -len(one[0].pattern))
        return following

    def find(self, path: str) -> Found | None:
        """The path of the description that matches; None: it has none."""
        values: list[str] = []
        here = self._walk(self._root, path.split("/")[1:], 0, values)
        if here is None:
            return None
        names, operations = here
        return Found(operations, dict(zip(names, values, strict=True)))

    def _walk(
        self, at: _Segment, segments: list[str], number: int, values: list[str]
    ) -> tuple[tuple[str, ...], dict[str, Operation]] | None:
        if number == len(segments):
            return at.here
        text = segments[number]
        following = at.literal.get(text)
        if following is not None:
            found = self._walk(following, segments, number + 1, values)
            if found is not None:
                return found
        if not text:
            return None  # a parameter is never empty
        mark = len(values)
        for pattern, following in at.mixed:
            match = pattern.fullmatch(text)
            if match is not None:
                values.extend(match.groups())
                found = self._walk(following, segments, number + 1, values)
                if found is not None:
                    return found
                del values[mark:]
        if at.any is None:
            return None
        values.append(text)
        found = self._walk(at.any, segments, number + 1, values)
        if found is None:
            del values[mark:]
        return found
