"""Text of a document → plain data; and a place in the data → its line.

YAML is read by YAML 1.2's core schema, so that no value silently changes its type: `on`, `yes` and
`0660` are text, `true` is a boolean, dates are text. Keys are text and unique; tags are refused;
anchors, aliases and `<<` merge keys are supported, up to a limit. JSON and TOML follow their own
rules, with the same strictness about keys.

Lines are computed only if an error needs them: `Lines` composes the text again and walks to the
place. A valid document does not pay for them.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import orjson

from fastgate.errors import ConfigurationError

Format = Literal["yaml", "json", "toml"]

_MAX_NODES = 20_000_000
_FREE_NODES = 100_000
_MAX_DEPTH = 100
_MAX_DIGITS = 100

_PLAIN, _TEXT, _LIST, _MAP = "plain", "text", "list", "map"
_MERGE = "<<"
_TOO_LONG = f"a number may have at most {_MAX_DIGITS} digits"
_STANDARD_TEXT = "tag:yaml.org,2002:str"

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]{3})*)|0x[0-9a-fA-F]+", re.A)
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", re.A)
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


def format_of(path: str) -> Format:
    """The format by the file's name: `.json`, `.toml`; anything else is YAML."""
    if path.endswith(".json"):
        return "json"
    return "toml" if path.endswith(".toml") else "yaml"


def parse(text: str, kind: Format) -> Any:
    """The plain data of a document. Raises ConfigurationError with the line."""
    if kind == "json":
        return _parse_json(text)
    if kind == "toml":
        return _parse_toml(text)
    node = _compose(text)
    if node is None:
        return None
    return _Builder(len(text)).value(node, "")


# ---- YAML -------------------------------------------------------------------------------


class _Resolver:
    """Marks nodes instead of guessing types; the builder reads plain scalars itself."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        name = kind.__name__
        if name == "ScalarNode":
            return _PLAIN if implicit[0] else _TEXT
        return _LIST if name == "SequenceNode" else _MAP

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Skip the path resolver, since nothing depends on a node's place."""

    def ascend_resolver(self) -> None:
        """As above."""


def _loader(text: str) -> Any:
    try:
        from yaml._yaml import CParser
    except ImportError:  # PyYAML without libyaml: slower, with the same result
        from yaml.composer import Composer
        from yaml.parser import Parser
        from yaml.reader import Reader
        from yaml.scanner import Scanner

        class Slow(_Resolver, Reader, Scanner, Parser, Composer):
            def __init__(self) -> None:
                Reader.__init__(self, text)
                Scanner.__init__(self)
                Parser.__init__(self)
                Composer.__init__(self)

        return Slow()

    class Fast(_Resolver, CParser):
        pass

    return Fast(text)


def _compose(text: str) -> Any:
    import yaml

    try:
        return _loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise ConfigurationError(
            f"not valid YAML: {problem}", line=line, hint=_yaml_hint(text, line)
        ) from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"not valid YAML: {' '.join(str(error).split())}") from None


def _yaml_hint(text: str, line: int | None) -> str | None:
    if line is None:
        return None
    lines = text.splitlines()
    if any("\t" in found[: len(found) - len(found.lstrip())] for found in lines[line - 2 : line]):
        return "YAML must be indented with spaces; there is a tab here."
    return None


class _Builder:
    """Nodes → plain data. Each alias is a copy, so a few lines of aliases to aliases could expand
    to billions of nodes. So the maximum number of nodes is proportional to the text's length."""

    def __init__(self, length: int) -> None:
        self._nodes = 0
        self._most = min(_MAX_NODES, _FREE_NODES + 4 * length)
        self._open: set[int] = set()

    def value(self, node: Any, path: str) -> Any:
        self._nodes += 1
        if self._nodes > self._most:
            raise ConfigurationError(
                "the document is too large once its aliases are filled in",
                re.split(r"[.\[]", path, maxsplit=1)[0],  # deeper inside, it is one of many copies
                hint="Use fewer aliases to values that have aliases themselves.",
            )
        tag = node.tag
        if tag == _PLAIN:
            try:
                return self._scalar(node.value)
            except ValueError:
                raise self._fault(_TOO_LONG, node, path) from None
        if tag in (_TEXT, _STANDARD_TEXT):
            return node.value
        if tag not in (_MAP, _LIST):
            raise self._fault(
                f"tags such as {tag!r} are not supported", node, path, "Write the plain value."
            )
        if id(node) in self._open or len(self._open) >= _MAX_DEPTH:
            raise self._fault("an alias to itself, or nested too deeply", node, path)
        self._open.add(id(node))
        built = self._list(node, path) if tag == _LIST else self._map(node, path)
        self._open.discard(id(node))
        return built

    @staticmethod
    def _scalar(text: str) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if text[0] in "-+.0123456789":
            if _INT.fullmatch(text):
                if len(text) > _MAX_DIGITS:
                    raise ValueError
                return int(text, 16) if text.startswith("0x") else int(text.replace("_", ""))
            if _FLOAT.fullmatch(text):
                return float(text)
        return text

    def _list(self, node: Any, path: str) -> list[Any]:
        return [self.value(item, f"{path}[{index}]") for index, item in enumerate(node.value)]

    def _map(self, node: Any, path: str) -> dict[str, Any]:
        built: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[dict[str, Any]] = []
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str) or key_node.tag not in (_PLAIN, _TEXT, _STANDARD_TEXT):
                raise self._fault("a key must be a plain text", key_node, path)
            line = key_node.start_mark.line + 1
            here = f"{path}.{key}" if path else key
            if key == _MERGE and key_node.tag == _PLAIN:
                merged.extend(self._merge(value_node, here))
                continue
            if key in built:
                raise ConfigurationError(
                    f"the key {key!r} is there twice", here, line, f"First on line {first[key]}."
                )
            first[key] = line
            built[key] = self.value(value_node, here)
        for other in merged:
            for key, value in other.items():
                built.setdefault(key, value)
        return built

    def _merge(self, node: Any, path: str) -> list[dict[str, Any]]:
        value = self.value(node, path)
        many = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) for one in many):
            raise self._fault("'<<' can only merge mappings", node, path)
        return many

    @staticmethod
    def _fault(message: str, node: Any, path: str, hint: str | None = None) -> ConfigurationError:
        return ConfigurationError(message, path, node.start_mark.line + 1, hint)


# ---- JSON and TOML ----------------------------------------------------------------------


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key, value in pairs:
            if key in built:
                raise ConfigurationError(f"the key {key!r} is there twice in one object")
            built[key] = value
        return built

    def no_constant(name: str) -> Any:
        raise ConfigurationError(f"{name} is not JSON")

    def integer(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise ConfigurationError(_TOO_LONG)
        return int(digits)

    _bound_nesting(text)
    try:
        data = json.loads(
            text, object_pairs_hook=unique, parse_constant=no_constant, parse_int=integer
        )
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except UnicodeEncodeError:
        raise ConfigurationError("a \\u escape is half of a pair, not a character") from None
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"not valid JSON: {error.msg} at column {error.colno}", line=error.lineno
        ) from None


def _bound_nesting(text: str) -> None:
    """Raise if JSON nests too deeply. The standard library's parser is limited only by the
    interpreter's recursion limit, and may crash the process if that was raised."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):  # the text of this error differs between versions
            raise ConfigurationError("nested too deeply") from None


def _parse_toml(text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text, parse_float=float)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = int(found[1]) if found else None
        raise ConfigurationError(
            f"not valid TOML: {re.sub(r' [(]at .*', '', str(error))}", line=line
        ) from None
    except RecursionError:
        raise ConfigurationError("nested too deeply") from None
    except ValueError:  # from int(): Python's own limit on digits
        raise ConfigurationError(_TOO_LONG) from None


# ---- lines ------------------------------------------------------------------------------


class Lines:
    """Maps a place in a document ("routes[3].path") to its line, counted from 1."""

    def __init__(self, text: str, kind: Format) -> None:
        self._text = text
        self._kind: Format = kind
        self._root: Any = None
        self._toml: dict[str, int] | None = None

    def of(self, path: str) -> int | None:
        """The line of the place, or of the nearest one in the text; None if unknown."""
        if self._kind == "toml":
            return self._of_toml(path)
        if self._root is None:
            try:
                self._root = _compose(self._text)
            except ConfigurationError:  # JSON that is not YAML
                return None
        return _walk(self._root, path) if self._root is not None else None

    def _of_toml(self, path: str) -> int | None:
        if self._toml is None:
            self._toml = _toml_lines(self._text)
        while path:
            if path in self._toml:
                return self._toml[path]
            path = re.sub(r"(\.[^.\[\]]+|\[\d+\]|^[^.\[\]]+)$", "", path)
        return None


def _walk(node: Any, path: str) -> int:
    line: int = node.start_mark.line + 1
    while path:
        if node.tag == _LIST and (index := re.match(r"\[(\d+)\]\.?", path)):
            if int(index[1]) >= len(node.value):
                break
            node = node.value[int(index[1])]
            line = node.start_mark.line + 1
            path = path[index.end() :]
            continue
        found = _entry(node, path) if node.tag == _MAP else None
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
        path = path[len(key.value) :].removeprefix(".")
    return line


def _entry(node: Any, path: str) -> tuple[Any, Any] | None:
    """The longest key of a mapping that `path` begins with, since keys may contain dots."""
    best = None
    for key, value in node.value:
        name = key.value
        if key.tag == _PLAIN and name == _MERGE:
            many = value.value if value.tag == _LIST else [value]
            inner = next((e for one in many if one.tag == _MAP and (e := _entry(one, path))), None)
            best = best or inner
        elif (
            isinstance(name, str)
            and path.startswith(name)
            and path[len(name) : len(name) + 1] in ("", ".", "[")
            and (best is None or len(name) >= len(best[0].value))
        ):
            best = (key, value)
    return best


def _toml_lines(text: str) -> dict[str, int]:
    """Lines of tables and of keys at the beginning of a line; skips multi-line values."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    base = ""
    until = ""
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        if until:
            until = "" if until in line else until
            continue
        if depth == 0 and (table := re.match(r"\s*(\[\[?)\s*([\w.\- ]+?)\s*\]\]?", line)):
            base = _toml_table(table[2].replace(" ", ""), table[1] == "[[", counts)
            found[base] = number
            continue
        key = re.match(r"\s*([\w.-]+)\s*=\s*", line)
        if depth == 0 and key:
            found[f"{base}.{key[1]}" if base else key[1]] = number
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                until = quotes
        bare = re.sub(r'"(\\.|[^"\\])*"|\'[^\']*\'|#.*', "", line[key.end() if key else 0 :])
        depth = max(
            0, depth + bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
        )
    return found


def _toml_table(name: str, many: bool, counts: dict[str, int]) -> str:
    path = ""
    parts = name.split(".")
    for index, part in enumerate(parts):
        path = f"{path}.{part}" if path else part
        if many and index == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = f"{path}[{counts[path]}]"
    return path
