"""The files of a description, and places in them.

A description may consist of several files, which refer to each other by `$ref`. Only files of this
machine are read, never addresses of the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from fastgate.config import documents
from fastgate.errors import ConfigurationError

MOST = 16 << 20
"""Maximum bytes of a file."""
_MOST_FILES = 500
_MOST_REFERENCES = 32
"""Maximum length of a chain of references."""


class Node(NamedTuple):
    """A value in a file, with its place."""

    file: str
    at: tuple[str | int, ...]
    value: Any

    def get(self, key: str | int) -> Node | None:
        """The entry of a mapping, or the element of a list; None: there is none."""
        value = self.value
        if isinstance(value, dict):
            if key not in value:
                return None
        elif not (isinstance(value, list) and isinstance(key, int) and key < len(value)):
            return None
        return Node(self.file, (*self.at, key), value[key])

    def entries(self) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping, without extensions (`x-…`)."""
        for key, value in self.value.items():
            if not key.startswith("x-"):
                yield key, Node(self.file, (*self.at, key), value)

    def elements(self) -> Iterator[Node]:
        """The elements of a list."""
        for index, value in enumerate(self.value):
            yield Node(self.file, (*self.at, index), value)

    def below(self, path: Sequence[str | int]) -> Node:
        """The place that is as far along this path as the file goes."""
        node = self
        for key in path:
            found = node.get(key)
            if found is None:
                break
            node = found
        return node

    @property
    def place(self) -> str:
        """`paths./orders.post.parameters[0]`."""
        text = ""
        for key in self.at:
            text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
        return text


class Sources:
    """The files of one description, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, Node] = {}
        self._texts: dict[str, str] = {}
        self._lines: dict[str, documents.Lines] = {}

    @property
    def files(self) -> tuple[str, ...]:
        """Those that were read."""
        return tuple(self._files)

    def open(self, path: str) -> Node:
        """The content of a file. Raises ConfigurationError."""
        if path not in self._files:
            if len(self._files) >= _MOST_FILES:
                raise ConfigurationError(f"it consists of more than {_MOST_FILES} files", file=path)
            text = _text(path)
            self._texts[path] = text
            try:
                data = documents.parse(text, documents.format_of(path))
            except ConfigurationError as error:
                error.file = path
                raise
            self._files[path] = Node(path, (), data)
        return self._files[path]

    def fault(self, node: Node, message: str, hint: str | None = None) -> ConfigurationError:
        """The error about a place, with its line."""
        if node.file not in self._lines:
            text = self._texts.get(node.file, "")
            self._lines[node.file] = documents.Lines(text, documents.format_of(node.file))
        line = self._lines[node.file].of(node.place)
        return ConfigurationError(message, node.place, line, hint, node.file)

    def mapping(self, node: Node, what: str) -> Node:
        """The node, if it is a mapping. Raises ConfigurationError."""
        if not isinstance(node.value, dict):
            raise self.fault(node, f"{what} must be a mapping, not {_kind(node.value)}")
        return node

    def listed(self, node: Node, what: str) -> Iterator[Node]:
        """The elements of a node that must be a list. Raises ConfigurationError."""
        if not isinstance(node.value, list):
            raise self.fault(node, f"{what} must be a list, not {_kind(node.value)}")
        return node.elements()

    def text(self, owner: Node, key: str) -> str | None:
        """A text of a mapping; None: it has none. Raises ConfigurationError."""
        node = owner.get(key)
        if node is None:
            return None
        if not isinstance(node.value, str):
            raise self.fault(node, f"{key} must be a text, not {_kind(node.value)}")
        return node.value

    def flag(self, owner: Node, key: str) -> bool | None:
        """A boolean of a mapping; None: it has none. Raises ConfigurationError."""
        node = owner.get(key)
        if node is None:
            return None
        if not isinstance(node.value, bool):
            raise self.fault(node, f"{key} must be true or false, not {_kind(node.value)}")
        return node.value

    def followed(self, node: Node) -> Node:
        """What a node refers to with `$ref`, or the node itself. Raises ConfigurationError."""
        first = node
        for _ in range(_MOST_REFERENCES):
            reference = node.get("$ref") if isinstance(node.value, dict) else None
            if reference is None or not isinstance(reference.value, str):
                return node
            node = self.target(reference)
        raise self.fault(first, "the references lead in a circle")

    def target(self, reference: Node) -> Node:
        """What the text of a `$ref` leads to. Raises ConfigurationError."""
        text = reference.value
        if not isinstance(text, str):
            raise self.fault(reference, f"$ref must be a text, not {_kind(text)}")
        where, _, fragment = text.partition("#")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", where):
            raise self.fault(
                reference,
                f"{where!r} is not a file of this machine",
                "Put it into a file beside the description, and refer to that.",
            )
        node = self._referred(reference, where)
        if fragment and not fragment.startswith("/"):
            raise self.fault(
                reference,
                f"'#{fragment}' is an anchor, which is not supported",
                "Write the place, as in '#/components/schemas/Order'.",
            )
        for part in fragment.split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            index = isinstance(node.value, list) and name.isdecimal()
            found = node.get(int(name) if index else name)
            if found is None:
                whose = f"the file {where!r}" if where else "this file"
                raise self.fault(reference, f"{text!r} leads nowhere: {whose} has no '#{fragment}'")
            node = found
        return node

    def _referred(self, reference: Node, where: str) -> Node:
        if not where:
            return self._files[reference.file]
        path = os.path.normpath(os.path.join(os.path.dirname(reference.file), unquote(where)))
        try:
            return self.open(path)
        except ConfigurationError as error:
            if error.file == path and error.line is None and not error.path:
                raise self.fault(reference, f"{where!r}: {error.message}", error.hint) from None
            raise


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "a mapping")


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
        with open(fd, "rb") as file:
            if not Path(path).is_file():
                raise ConfigurationError("is not a file", file=path)
            data = file.read(MOST + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            "there is no such file",
            file=path,
            hint="The path is that of the machine on which the gateway runs.",
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}", file=path) from None
    if len(data) > MOST:
        raise ConfigurationError(f"is larger than {MOST >> 20} MiB", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"is not UTF-8: {error.reason}", file=path) from None
