"""Parameters and fields of forms: texts → the values that their schemas are about.

    style            written as                          where
    simple           3,4,5   R,100,G,200   R=100,G=200   path, header
    label, matrix    .3.4.5   ;id=3,4,5                  path
    form             id=3,4,5   id=3&id=4   R=100&G=200  query, cookie, forms
    spaceDelimited   id=3%204   pipeDelimited  id=3|4    query
    deepObject       color[R]=100&color[G]=200           query

A text becomes a number, a boolean or null if the schema can have one and the text is one; otherwise
it stays a text, and the schema says what is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, unquote_plus

import orjson

from fastgate.validation.faults import Fault
from fastgate.validation.program import Parameter, Shape

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,100})?([eE][-+]?[0-9]{1,3})?")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})")
_SPACED_COMMA = re.compile(r"[ \t]*,[ \t]*")
MISSING = object()
Pairs = list[tuple[str, str]]


class Bad(ValueError):
    """A parameter that has no value; the text says why."""


# ---- pairs ------------------------------------------------------------------------------


def query_pairs(query: str) -> Pairs:
    """The parameters of a query or form, decoded. Raises Bad for bytes that are not UTF-8."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((decoded(name, plus=True), decoded(value, plus=True)))
    return pairs


def cookie_pairs(field: str) -> Pairs:
    """The cookies of a Cookie field."""
    pairs = []
    for part in field.split(";"):
        name, equals, value = part.strip(" \t").partition("=")
        if equals:
            pairs.append((name, decoded(value.strip('"'))))
    return pairs


def decoded(text: str, *, plus: bool = False) -> str:
    """Text without percent-encoding. Raises Bad for bytes that are not UTF-8."""
    if "%" not in text and "+" not in text:
        return text
    try:
        return (unquote_plus if plus else unquote)(text, errors="strict")
    except UnicodeDecodeError:
        raise Bad("must be UTF-8, percent-encoded") from None


# ---- values -----------------------------------------------------------------------------


def scalar(text: str, shape: Shape) -> Any:
    """A text as the value that a schema can have."""
    kinds = shape.kinds
    if not kinds or kinds == ("string",):
        return text
    if "integer" in kinds and _INTEGER.fullmatch(text):
        return int(text)
    if ("number" in kinds or "integer" in kinds) and _NUMBER.fullmatch(text):
        number = float(text)
        if number not in (float("inf"), float("-inf")):
            return number
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    if "null" in kinds and text == "null" and "string" not in kinds:
        return None
    return text


def _nested(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Bad("must be JSON") from None


def _many(texts: Iterable[str], shape: Shape) -> list[Any]:
    inner = shape.items or Shape()
    return [scalar(text, inner) for text in texts]


def _properties(pairs: Iterable[tuple[str, str]], shape: Shape) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for name, text in pairs:
        if name in built:
            raise Bad(f"has the property {clip(name)!r} twice")
        built[name] = scalar(text, shape.properties.get(name, Shape()))
    return built


def clip(text: str) -> str:
    """A name of the client's, not longer than errors show."""
    return text if len(text) <= 64 else f"{text[:63]}…"


def is_array(shape: Shape) -> bool:
    return "array" in shape.kinds


def is_object(shape: Shape) -> bool:
    return "object" in shape.kinds and not is_array(shape)


def single(text: str, parameter: Parameter, separator: str = ",") -> Any:
    """The value of a parameter that is one text: in a path, a header or, not exploded, a query.

    Raises Bad.
    """
    shape = parameter.shape
    if parameter.json:
        return _nested(text)
    if is_array(shape):
        return _many(text.split(separator) if text else [], shape)
    if is_object(shape):
        parts = text.split(separator) if text else []
        if parameter.explode and parameter.style != "form":
            pairs = [part.partition("=")[::2] for part in parts]
            return _properties(pairs, shape)
        if len(parts) % 2:
            raise Bad("must be names and values by turns")
        return _properties(zip(parts[::2], parts[1::2], strict=True), shape)
    return scalar(text, shape)


def in_header(text: str, parameter: Parameter) -> Any:
    """The value of a header parameter. Raises Bad."""
    if "," in text and not parameter.json and (parameter.shape.items or parameter.shape.properties):
        text = _SPACED_COMMA.sub(",", text)
    return single(text, parameter)


def in_path(raw: str, parameter: Parameter) -> Any:
    """The value of a path parameter. Raises Bad."""
    style, name = parameter.style, parameter.name
    if style == "label":
        if not raw.startswith("."):
            raise Bad("must begin with '.'")
        explode = parameter.explode
        return single(decoded(raw[1:]), parameter, "." if explode else ",")
    if style == "matrix":
        if not raw.startswith(";"):
            raise Bad("must begin with ';'")
        pairs = [part.partition("=")[::2] for part in decoded(raw[1:]).split(";")]
        if parameter.explode and is_object(parameter.shape):
            return _properties(pairs, parameter.shape)
        values = [value for key, value in pairs if key == name]
        if len(values) != len(pairs):
            raise Bad(f"must be written as ';{name}=…'")
        if parameter.explode and is_array(parameter.shape):
            return _many(values, parameter.shape)
        return single(values[0], parameter)
    return single(decoded(raw), parameter)


def in_pairs(pairs: Pairs, parameter: Parameter, others: set[str]) -> Any:
    """The value of a parameter of a query, cookie or form; MISSING: it is not there.

    others: the names of the other parameters, which an exploded object leaves alone. Raises Bad.
    """
    name, shape, style = parameter.name, parameter.shape, parameter.style
    if style == "deepObject":
        return _deep(pairs, parameter)
    if style == "form" and parameter.explode and is_object(shape) and not parameter.json:
        mine = [
            (key, value)
            for key, value in pairs
            if key in shape.properties or (shape.more and key not in others)
        ]
        return _properties(mine, shape) if mine else MISSING
    values = [value for key, value in pairs if key == name]
    if not values:
        return MISSING
    if parameter.empty and values == [""]:
        return MISSING
    if style == "form" and parameter.explode and is_array(shape) and not parameter.json:
        return _many(values, shape)
    if len(values) > 1:
        raise Bad("must be there only once")
    separator = {"spaceDelimited": " ", "pipeDelimited": "|"}.get(style, ",")
    if is_array(shape) and parameter.explode and style != "form":
        return _many(values[0].split(separator), shape)
    return single(values[0], parameter, separator)


def _deep(pairs: Pairs, parameter: Parameter) -> Any:
    start = f"{parameter.name}["
    shape = parameter.shape
    lists: dict[str, list[str]] = {}
    for key, value in pairs:
        if key.startswith(start) and key.endswith("]"):
            lists.setdefault(key[len(start) : -1].removesuffix("]["), []).append(value)
    if not lists:
        return MISSING
    built: dict[str, Any] = {}
    for name, values in lists.items():
        inner = shape.properties.get(name, Shape())
        if is_array(inner):
            built[name] = _many(values, inner)
        elif len(values) > 1:
            raise Bad(f"has the property {clip(name)!r} twice")
        else:
            built[name] = scalar(values[0], inner)
    return built


def names_of(parameter: Parameter, pairs: Pairs) -> set[str]:
    """The names under which a parameter is in a query."""
    if parameter.style == "deepObject":
        start = f"{parameter.name}["
        return {key for key, _ in pairs if key.startswith(start)}
    shape = parameter.shape
    if parameter.style == "form" and parameter.explode and is_object(shape) and not parameter.json:
        return {key for key, _ in pairs} if shape.more else set(shape.properties)
    return {parameter.name}


def fault(parameter: Parameter, why: Bad) -> Fault:
    """The fault of a parameter that has no value."""
    return Fault(str(why), place=parameter.place, name=parameter.name)
