"""A source document as mappings that remember which of their keys were read.

What an importer does not read is reported by `Fields.rest`, so a key that an importer does not know
cannot be lost silently. A value of the wrong type is an error with its place; no message has a
value of the source, which could be a secret.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fastgate.config import documents
from fastgate.errors import ConfigurationError
from fastgate.importers.report import Kind, Report

_KINDS: dict[type, str] = {
    bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
    dict: "a mapping", type(None): "nothing",
}  # fmt: skip


class Source(NamedTuple):
    """A file as it was read."""

    data: dict[str, Any]
    lines: documents.Lines
    file: str

    def locate(self, error: ConfigurationError) -> ConfigurationError:
        """The error and its `others`, with file and line filled in."""
        for one in error:
            one.file = one.file or self.file
            if one.line is None and one.path:
                one.line = self.lines.of(one.path)
        return error


def read(file: str, what: str) -> Source:
    """Read a YAML or JSON file ("-": standard input). `what`: what it should be, for errors."""
    name = "<stdin>" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=name) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"is not UTF-8: {error.reason}", file=name) from None
    except ValueError as error:  # a name that no file can have
        raise ConfigurationError(f"cannot be read: {error}", file=name) from None
    data, lines = _parsed(text, name)
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"expected {what}, not {kind_of(data)}",
            file=name,
            line=1,
            hint="The document must be a mapping of keys to values.",
        )
    return Source(data, lines, name)


def _parsed(text: str, name: str) -> tuple[Any, documents.Lines]:
    """The data of a text: JSON if it is, else YAML."""
    if text.lstrip()[:1] == "{":
        try:
            return documents.parse(text, "json"), documents.Lines(text, "json")
        except ConfigurationError as error:
            if name.endswith(".json"):
                error.file = name
                raise
    lines = documents.Lines(text, "yaml")
    try:
        return documents.parse(text, "yaml"), lines
    except ConfigurationError as error:
        error.file = name
        if error.line is None and error.path:
            error.line = lines.of(error.path)
        raise


def kind_of(value: Any) -> str:
    """The type of a plain value in words, without the value."""
    return _KINDS.get(type(value), type(value).__name__)


class Fields:
    """A mapping of the source, with typed access. Keys that are null count as absent."""

    def __init__(self, data: Any, path: str, report: Report, name: str = "") -> None:
        if not isinstance(data, dict):
            raise ConfigurationError(f"expected a mapping, not {kind_of(data)}", path)
        self.data: dict[str, Any] = data
        self.path = path
        self.report = report
        self.name = name
        """What it is, for the report: `route 'orders'`."""
        self._read: set[str] = set()

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return self.data.get(key) is not None

    def raw(self, key: str) -> Any:
        """The value as it is; None: absent."""
        self._read.add(key)
        return self.data.get(key)

    def _wrong(self, key: str, expected: str, value: Any) -> ConfigurationError:
        return ConfigurationError(f"expected {expected}, not {kind_of(value)}", self.at(key))

    def text(self, key: str) -> str | None:
        """A text; numbers are taken as text."""
        value = self.raw(key)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | list | dict):
            raise self._wrong(key, "a text", value)
        return str(value)

    def number(self, key: str) -> float | None:
        """A number that is not negative; text of digits is taken, too."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value) if value.isascii() else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number", value)
        if not 0 <= value <= 1e15:
            raise ConfigurationError("expected a number from 0 to 10^15", self.at(key))
        return value

    def whole(self, key: str) -> int | None:
        """A whole number that is not negative."""
        value = self.number(key)
        return None if value is None else int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; one text is a list of one."""
        value = self.raw(key)
        if value is None:
            return []
        listed = value if isinstance(value, list) else [value]
        for one in listed:
            if isinstance(one, bool | list | dict) or one is None:
                raise self._wrong(key, "a list of texts", one if listed is value else value)
        return [str(one) for one in listed]

    def section(self, key: str, name: str | None = None) -> Fields | None:
        """A mapping below this one."""
        value = self.raw(key)
        if value is None:
            return None
        return Fields(value, self.at(key), self.report, self.name if name is None else name)

    def some(self, key: str) -> Fields:
        """Like `section`, but empty if absent."""
        return self.section(key) or Fields({}, self.at(key), self.report, self.name)

    def sections(self, key: str) -> list[Fields]:
        """A list of mappings below this one."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return [
            Fields(one, f"{self.at(key)}[{index}]", self.report, self.name)
            for index, one in enumerate(value)
        ]

    def skip(self, *keys: str) -> None:
        """Keys that have no effect on requests."""
        self._read.update(keys)

    def note(self, kind: Kind, message: str, key: str = "") -> None:
        """Report something about this mapping, or one of its keys."""
        place = self.at(key) if key else self.path
        self.report.add(kind, place, self.name, message.removeprefix(f"{key}: "))

    def nothing_like(self, protects: bool) -> None:
        """Report a plugin that cannot be expressed. `protects`: without it, more is served."""
        message = "FastGate has nothing like it"
        if protects:
            message += "; the routes serve requests that it would refuse"
        self.note("open" if protects else "lost", message)

    def lost(self, keys: Iterable[str], message: str, kind: Kind = "lost") -> None:
        """Report each of the keys that has a value other than false or empty."""
        for key in keys:
            if self.raw(key):
                self.note(kind, f"{key}: {message}", key)

    def rest(self) -> None:
        """Report all keys that were not read."""
        for key, value in self.data.items():
            if key not in self._read and value is not None and value not in ([], {}, ""):
                self.note("lost", f"{key}: FastGate has nothing like it", key)
