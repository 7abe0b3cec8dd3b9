"""Kong's routes: which requests match.

A path of Kong is a prefix of the text, `/orders` also of `/orders-old`; FastGate's consist of whole
segments. Regular expressions are translated if they are segments with groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from fastgate.importers.source import Fields

MOST_VARIANTS = 16
_GROUP = re.compile(r"\(\?P?<([A-Za-z_]\w*)>([^()]+)\)|\(([^()?][^()]*)\)|([^()]+)", re.A)
_ANY_SEGMENT = frozenset({"[^/]+", "[^\\/]+", "[^/]*"})
_SOME_SEGMENT = frozenset({r"\d+", r"\w+", "[0-9]+", "[a-z]+", "[a-zA-Z0-9]+", "[a-zA-Z0-9_-]+"})
_REST = frozenset({".*", ".+"})
_LITERAL = re.compile(r"(?:[A-Za-z0-9_~%-]|\\[.\-_/])+", re.A)
_PLAIN = re.compile(r"[A-Za-z0-9._~/%-]*", re.A)


class Path(NamedTuple):
    """A path as FastGate writes it."""

    pattern: str
    prefix: str
    """What `strip_path` takes off; empty: nothing that is literal."""


def paths(fields: Fields, new_format: bool) -> list[Path]:
    """The paths of a route that can be expressed. No `paths`: any path."""
    given = fields.texts("paths")
    if not given:
        return [Path("/{rest*}", "")]
    found: dict[str, Path] = {}
    for text in given:
        regex = text[1:] if text.startswith("~") else None
        if regex is None and not new_format and not _PLAIN.fullmatch(text):
            regex = text
        path = _prefix(fields, text) if regex is None else _regex(fields, regex)
        if path is not None:
            found.setdefault(path.pattern, path)
    return list(found.values())


def _prefix(fields: Fields, text: str) -> Path | None:
    if not text.startswith("/") or "{" in text or "}" in text:
        fields.note("lost", f"the path {text!r}: it is not a plain prefix", "paths")
        return None
    bare = re.sub("/+", "/", text).rstrip("/")
    if text == "/":
        return Path("/{rest*}", "")
    if not text.endswith("/"):
        message = f"the path {text!r} is a prefix of whole segments: not of {bare + 'x'!r}"
    else:
        message = f"the path {text!r} also matches {bare!r}"
    fields.note("changed", message, "paths")
    return Path(bare + "/{rest*}", bare)


def _regex(fields: Fields, text: str) -> Path | None:
    """A path for a simple regular expression."""
    exact = text.endswith("$")
    body = text.removeprefix("^").removesuffix("$")
    segments: list[str] = []
    names: set[str] = set()
    parts = _segments(body)
    for number, part in enumerate(parts):
        segment = _segment(part, number == len(parts) - 1, names)
        if segment is None:
            fields.note("lost", f"the regular expression {text!r}", "paths")
            return None
        if part.strip("()") in _SOME_SEGMENT or any(f">{p})" in part for p in _SOME_SEGMENT):
            fields.note("changed", f"the path {text!r}: it takes any text as a segment", "paths")
        segments.append(segment)
    if not exact and "*}" not in segments[-1]:
        fields.note("changed", f"the path {text!r} is a prefix of whole segments", "paths")
        if segments[-1] == "":
            segments.pop()
        segments.append("{rest*}")
    return Path("/" + "/".join(segments), "")


def _segments(text: str) -> list[str]:
    """The parts between slashes outside of brackets, without the empty one before the first."""
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif char == "/" and depth == 0:
            parts.append(text[begin:at])
            begin = at + 1
    parts.append(text[begin:])
    return parts[1:] if parts[0] == "" and len(parts) > 1 else ["\0"]


def _segment(part: str, last: bool, names: set[str]) -> str | None:
    if part == "" and last:
        return ""
    if _LITERAL.fullmatch(part):
        return part.replace("\\", "")
    found = _GROUP.fullmatch(part)
    if found is None:
        return None
    inner = found[2] or found[3] or found[4] or ""
    name = found[1] or f"p{len(names) + 1}"
    while name in names:
        name += "_"
    names.add(name)
    if inner in _REST and last:
        return f"{{{name}*}}"
    return f"{{{name}}}" if inner in _ANY_SEGMENT | _SOME_SEGMENT else None


def matches(fields: Fields) -> list[dict[str, Any]] | None:
    """The `match` of each variant of a route, since one has one value for a header. None: the
    condition cannot be expressed."""
    headers = fields.raw("headers")
    if headers in (None, {}):
        return [{}]
    if not isinstance(headers, dict):
        fields.note("lost", "the route: its headers are not a mapping", "headers")
        return None
    options = []
    for name, values in headers.items():
        listed = [str(one) for one in (values if isinstance(values, list) else [values])]
        if not listed or any(one.startswith("~*") for one in listed):
            fields.note("lost", f"the route: a regular expression for {name!r}", "headers")
            return None
        options.append([(name, {"equals": one}) for one in listed])
    if any(one["equals"] != one["equals"].lower() for option in options for _, one in option):
        fields.note("changed", "values of headers are compared with their case", "headers")
    variants = [dict(chosen) for chosen in product(*options)]
    if len(variants) > MOST_VARIANTS:
        fields.note("lost", "the route: its headers have too many combinations", "headers")
        return None
    return [{"headers": one} for one in variants]


def hosts(fields: Fields) -> list[str] | None:
    """The hosts that can be expressed. None: there were some, but none can."""
    given = fields.texts("hosts")
    found = []
    for text in given:
        bare = text.lower().rpartition(":")[0] if re.search(r":\d+$", text) else text.lower()
        if bare != text.lower():
            fields.note("changed", f"the host {text!r}: any port", "hosts")
        if bare.endswith(".*"):
            fields.note("lost", f"the host {text!r}: a wildcard at its end", "hosts")
            continue
        found.append(bare)
    return None if given and not found else list(dict.fromkeys(found))


def reordered(routes: list[tuple[dict[str, Any], Fields]]) -> Iterator[tuple[Fields, str, str]]:
    """Routes that Kong tries before one with a longer path, since they have more conditions."""
    by_path: dict[str, list[tuple[dict[str, Any], Fields]]] = {}
    for route, fields in routes:
        for path in route.get("paths") or [route["path"]]:
            by_path.setdefault(path, []).append((route, fields))
    for path, longer in by_path.items():
        segments = path.split("/")
        for end in range(1, len(segments)):
            shorter = "/".join([*segments[:end], "{rest*}"])
            for broad, fields in by_path.get(shorter, []) if shorter != path else []:
                for narrow, _ in longer:
                    same_host = not broad.get("hosts") or broad.get("hosts") == narrow.get("hosts")
                    if same_host and _conditions(broad) > _conditions(narrow):
                        yield fields, broad["name"], narrow["name"]


def _conditions(route: dict[str, Any]) -> int:
    given = ("hosts", "methods", "match")
    return sum(1 for key in given if route.get(key)) + len(
        route.get("match", {}).get("headers", {})
    )
