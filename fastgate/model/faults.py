"""Readable errors: turns msgspec's errors into ConfigurationError.

msgspec names the place as `$.routes[0].limits[1].rate`, and an entry of a mapping as `[...]`; its
key is found by trying all of them. An unknown name gets the nearest known one as a hint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from fastgate.errors import ConfigurationError
from fastgate.model.base import PATTERNS, Model
from fastgate.model.shape import fields_of, shape_of
from fastgate.model.values import Value, describe, masked


def dec_hook(kind: type, raw: Any) -> Any:
    """The hook of msgspec for types that it does not know."""
    if issubclass(kind, Value):
        return kind.read(raw)
    raise NotImplementedError(kind)


_AT = re.compile(r" - at (?:`(key)` in )?`\$(.*)`$", re.S)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_WORDS = {
    "object": "a mapping", "array": "a list", "str": "text", "int": "a whole number",
    "float": "a number", "bool": "true or false", "null": "nothing",
}  # fmt: skip


_COUNTED = {
    "array": ("entry", "entries"), "str": ("character", "characters"), "object": ("key", "keys"),
}  # fmt: skip


class _Spot(NamedTuple):
    """The place of an error in the data."""

    path: str
    annotation: Any
    value: Any


def _find(error_path: str, struct: type[Model], data: Any) -> _Spot:
    """Follow msgspec's path through data and types, and find the key where it says "..."."""
    spot = _Spot("", struct, data)
    for name, index in _STEP.findall(error_path):
        shape = shape_of(spot.annotation)
        value = spot.value
        if name:
            field = fields_of(shape.struct).get(name) if shape.struct else None
            annotation: Any = field.annotation if field else Any
            value = value.get(name) if isinstance(value, dict) else None
            spot = _Spot(f"{spot.path}.{name}" if spot.path else name, annotation, value)
        elif index == "..." and isinstance(value, dict):
            spot = _bad_entry(spot, shape.item)
        else:
            at = int(index) if index != "..." else 0
            inner = value[at] if isinstance(value, list) and at < len(value) else None
            spot = _Spot(f"{spot.path}[{at}]", shape.item, inner)
    return spot


def _bad_entry(spot: _Spot, item: Any) -> _Spot:
    for key, entry in spot.value.items():
        try:
            msgspec.convert(entry, item, dec_hook=dec_hook)
        except msgspec.ValidationError:
            return _Spot(f"{spot.path}.{key}", item, entry)
    return _Spot(spot.path, item, None)


def nearest(word: object, allowed: Iterable[str]) -> str | None:
    """The allowed word that `word` was probably meant to be, if any is near."""
    import difflib  # for errors alone

    names = list(allowed)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if not close:
        folded = {name.lower().replace("-", "_"): name for name in names}
        close = [
            folded[found]
            for found in difflib.get_close_matches(
                str(word).lower().replace("-", "_"), list(folded), n=1, cutoff=0.6
            )
        ]
    return close[0] if close else None


def listing(names: Iterable[str]) -> str:
    """Names for an error: all, or only the first if there are many."""
    known = list(names)
    if len(known) > 24:
        return f"{', '.join(known[:20])} and {len(known) - 20} more"
    return ", ".join(known)


def did_you_mean(word: object, allowed: Iterable[str], what: str) -> str:
    """A hint: the nearest name, if there is one, and the known names."""
    names = list(allowed)
    close = nearest(word, names)
    there = f"{what}: {listing(names)}." if names else f"{what}: none."
    return f"Did you mean {close!r}? {there}" if close else there


def below(text: str, name: str) -> str:
    """A ValidationError's text for a field's value, with the path from its struct."""
    match = _AT.search(text)
    if match is None:
        return f"{text} - at `$.{name}`"
    at = match.start(2)
    return f"{text[:at]}.{name}{text[at:]}"


def explain(text: str, struct: type[Model], data: Any) -> ConfigurationError:
    """A ValidationError's text as our error; `data` was decoded as `struct`."""
    match = _AT.search(text)
    message = text[: match.start()] if match else text
    spot = _find(match[2] if match else "", struct, data)
    if match and match[1]:
        return _explain_key(message, spot)
    shape = shape_of(spot.annotation)
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.S):
        names = fields_of(shape.struct) if shape.struct else {}
        return ConfigurationError(
            f"unknown key {unknown[1]!r}",
            path=f"{spot.path}.{unknown[1]}" if spot.path else unknown[1],
            hint=did_you_mean(unknown[1], names, "Keys here"),
        )
    if missing := re.fullmatch(r"Object missing required field `(.*)`", message):
        field = fields_of(shape.struct).get(missing[1]) if shape.struct else None
        return ConfigurationError(
            f"{missing[1]!r} is missing", path=spot.path, hint=field.description if field else None
        )
    if message.startswith("Invalid enum value"):
        return ConfigurationError(
            f"{spot.value!r} is not one of the choices",
            path=spot.path,
            hint=did_you_mean(spot.value, [str(choice) for choice in shape.choices], "Choices"),
        )
    own = re.match(r"(([a-z_]+)(\[\d+\]|\.[A-Za-z0-9_-]+)*): ", message)
    if own and shape.struct and own[2] in fields_of(shape.struct):
        # a struct's own check that names its field
        path = f"{spot.path}.{own[1]}" if spot.path else own[1]
        return ConfigurationError(message[own.end() :], path=path)
    return ConfigurationError(*_plainly(message, spot))


def _explain_key(message: str, spot: _Spot) -> ConfigurationError:
    for pattern, words in PATTERNS.items():
        if repr(pattern) in message and isinstance(spot.value, dict):
            bad = [key for key in spot.value if not re.search(pattern, str(key))]
            if bad:
                return ConfigurationError(f"the key {bad[0]!r} is not {words}", path=spot.path)
    return ConfigurationError(f"a key is not valid: {message}", path=spot.path)


def _plainly(message: str, spot: _Spot) -> tuple[str, str, None, str | None]:
    """Our error for a msgspec message about a value: message, path, no line, hint."""
    if found := re.search(r"matching regex (.*)$", message, re.S):
        pattern = next((p for p in PATTERNS if repr(p) == found[1]), None)
        words = PATTERNS[pattern] if pattern else f"text that matches {found[1]}"
        return f"{_shown(spot.value)} is not {words}", spot.path, None, _description(spot)
    if found := re.fullmatch(r"Expected `([^`]*)`, got `([^`]*)`", message):
        wanted = [part for part in found[1].split(" | ") if part != "null"] or ["null"]
        expected = " or ".join(_WORDS.get(part, part) for part in wanted)
        hint = None
        if "str" in wanted and found[2] in ("int", "float", "bool"):
            written = str(spot.value).lower() if found[2] == "bool" else spot.value
            hint = f'Put it in quotes: "{written}".'
        elif found[2] == "null":
            hint = "The key has no value; leave the key out, or give it a value."
        return f"expected {expected}, not {_shown(spot.value)}", spot.path, None, hint
    if found := re.fullmatch(r"Expected `(int|float)` (>=|<=|>|<) (\S+)", message):
        words = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}[found[2]]
        return f"expected {words} {found[3]}, not {spot.value}", spot.path, None, None
    if found := re.fullmatch(r"Expected `(array|str|object)` of length (>=|<=) (\d+)", message):
        words = "at least" if found[2] == ">=" else "at most"
        one, many = _COUNTED[found[1]]
        of = one if found[3] == "1" else many
        return f"expected {words} {found[3]} {of}", spot.path, None, _description(spot)
    return message, spot.path, None, None


def _shown(value: Any) -> str:
    """A value as text, with passwords in addresses masked."""
    return masked(describe(value))


def _description(spot: _Spot) -> str | None:
    for meta in getattr(spot.annotation, "__metadata__", ()):
        if meta.description:
            return str(meta.description)
    return None
