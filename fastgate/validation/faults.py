"""What is wrong with a request, in words, for the refusal.

    {"pointer": "/items/0/count", "detail": "must be at least 1"}          in the body
    {"in": "query", "parameter": "limit", "detail": "must be an integer"}

No value that the client sent is shown: it may be secret. Names of properties are, since a pointer
consists of them, up to a length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import msgspec

from fastgate.validation.program import Place

MOST = 10
"""Faults that are listed; more are counted."""
_POINTER_MOST, _DETAIL_MOST = 256, 500
_LIST_MOST, _FIRST_MOST = 8000, 480
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>])")
_PLACES = {"query": "query parameter", "path": "path parameter", "header": "header",
           "cookie": "cookie"}  # fmt: skip

Form = Literal["json", "markdown", "html"]


class Fault(NamedTuple):
    """One thing that is wrong: of a parameter, at a place of the body, or of the whole request."""

    detail: str
    """What is wrong, as the rest of a sentence: "must be an integer"."""
    place: Place | None = None
    """Of the parameter; None: it is about none."""
    name: str = ""
    pointer: str | None = None
    """Into the body; None: it is not about the body."""

    @property
    def data(self) -> dict[str, str]:
        """For programs."""
        if self.place is not None:
            return {"in": self.place, "parameter": self.name, "detail": self.detail}
        if self.pointer is not None:
            return {"pointer": self.pointer, "detail": self.detail}
        return {"detail": self.detail}

    @property
    def sentence(self) -> str:
        """For people."""
        if self.place is not None:
            return f"The {_PLACES[self.place]} '{self.name}' {self.detail}."
        if self.pointer == "":
            return f"The body {self.detail}."
        if self.pointer is not None:
            return f"In the body, '{self.pointer}' {self.detail}."
        return f"{self.detail}."


class Faults:
    """All faults of a request: at least one."""

    def __init__(self, faults: Sequence[Fault], count: int = 0) -> None:
        """count: how many there are, if more than these."""
        self.listed = [
            fault._replace(detail=_clipped(fault.detail, _DETAIL_MOST)) for fault in faults[:MOST]
        ]
        self.count = max(count, len(faults))

    def rendered(self, form: Form) -> tuple[bytes, bytes, int]:
        """The first fault as a sentence, the list, and how many there are, for the refusal's form.
        They are short enough for it."""
        return self._first(form), self._list(form), self.count

    def _first(self, form: Form) -> bytes:
        text = _clean(self.listed[0].sentence)
        most = 240
        while len(said := _escaped(_clipped(text, most), form)) > _FIRST_MOST:
            most -= 20
        return said

    def _list(self, form: Form) -> bytes:
        parts: list[bytes] = []
        size = 0
        for fault in self.listed:
            if form == "json":
                part = msgspec.json.encode(fault.data)
            else:
                said = _escaped(_clean(fault.sentence), form)
                part = b"<li>%b</li>" % said if form == "html" else b"\n  - %b" % said
            size += len(part) + 1
            if size > _LIST_MOST:
                break
            parts.append(part)
        if form == "json":
            return b"[%b]" % b",".join(parts)
        rest = self.count - len(parts)
        if rest > 0:
            more = f"and {rest} more".encode()
            parts.append(b"<li>%b</li>" % more if form == "html" else b"\n  - %b" % more)
        return b"<ul>%b</ul>" % b"".join(parts) if form == "html" else b"".join(parts)


def pointer_of(path: Iterable[str | int]) -> str:
    """A JSON pointer, not longer than errors show."""
    text = "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in path)
    return _clipped(text, _POINTER_MOST)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text)


def _escaped(text: str, form: Form) -> bytes:
    if form == "html":
        return escape(text).encode()
    if form == "markdown":
        return _MARKDOWN.sub(r"\\\1", text).encode()
    return msgspec.json.encode(text)[1:-1]


def listed(words: Sequence[str], most: int = 10) -> str:
    """'a', 'b' or 'c'."""
    if len(words) == 1:
        return words[0]
    if len(words) > most:
        return f"{', '.join(words[:most])}, …"
    return f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """A value of the description, for a sentence."""
    text = f"'{value}'" if isinstance(value, str) else msgspec.json.encode(value).decode()
    return _clipped(text, 80)
