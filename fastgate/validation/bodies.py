"""Bodies of requests: the media type, and the data that a schema is about.

JSON is read strictly, so that the upstream cannot read it differently: UTF-8, no key twice in an
object, no more than `DEEPEST` levels.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from fastgate._core.handlers.json_shape import shape_of
from fastgate.validation.faults import Fault, listed, pointer_of
from fastgate.validation.program import Body, Media
from fastgate.validation.values import (
    MISSING,
    Bad,
    clip,
    in_pairs,
    names_of,
    query_pairs,
)

DEEPEST = 128
"""Maximum levels of JSON."""

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""Strings, so that their brackets do not count, and brackets."""
_TOO_DEEP = Fault(f"is nested in more than {DEEPEST} levels", pointer="")


class BadBody(ValueError):
    """A body without data; has the fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


# ---- media types ------------------------------------------------------------------------


def media_of(body: Body, content_type: str | None) -> Media:
    """The media type of a request among those of the operation. Raises BadBody."""
    types = [media.type for media in body.content]
    wanted = listed(list(dict.fromkeys(types))) if types else "nothing"
    if content_type is None:
        if "*/*" in types:
            return next(media for media in body.content if media.type == "*/*")
        raise BadBody(_header(f"is required with a body: it must be {wanted}"))
    essence, _, rest = content_type.partition(";")
    essence = essence.strip().lower()
    parameters = _parameters(rest)
    best, rank = None, -1
    for media in body.content:
        this = _rank(media, essence, parameters)
        if this > rank:
            best, rank = media, this
    if best is None:
        raise BadBody(_header(f"must be {wanted}"))
    if best.kind != "other" and parameters.get("charset", "utf-8") not in ("utf-8", "utf8"):
        raise BadBody(_header("must have the charset utf-8, or none"))
    return best


def _rank(media: Media, essence: str, parameters: dict[str, str]) -> int:
    """How exactly a media type matches; -1: it does not."""
    if any(parameters.get(name) != value for name, value in media.parameters.items()):
        return -1
    if media.type == essence:
        return 10 + len(media.parameters)
    group = essence.partition("/")[0]
    if media.type == f"{group}/*":
        return 1
    return 0 if media.type == "*/*" else -1


def _parameters(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            found[name.strip().lower()] = value.strip().strip('"').lower()
    return found


def _header(detail: str, name: str = "Content-Type") -> Fault:
    return Fault(detail, place="header", name=name)


# ---- data -------------------------------------------------------------------------------


def data_of(media: Media, body: bytes, encoding: str | None) -> tuple[Any, int]:
    """The data of a body, and how many values it has. Raises BadBody."""
    if encoding is not None and encoding.strip().lower() != "identity":
        raise BadBody(
            _header(
                "is not supported here: the body can be validated only as it is",
                "Content-Encoding",
            )
        )
    return json_of(body) if media.kind == "json" else form_of(media, body)


def json_of(body: bytes) -> tuple[Any, int]:
    """The data of JSON, and how many values it has. Raises BadBody."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadBody(_not_json(body)) from None
    values, depth, twice = shape_of(data, body)
    if depth > DEEPEST:
        raise BadBody(_TOO_DEEP)
    if twice:
        raise BadBody(_twice(body))
    return data, values


def _not_json(body: bytes) -> Fault:
    """What is wrong with JSON, and where."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return Fault(f"must be UTF-8: byte {error.start} is not", pointer="")
    if text.startswith("\ufeff"):
        return Fault("must be JSON without a byte order mark", pointer="")
    if _too_deep(text):  # before json.loads, which is recursive
        return _TOO_DEEP
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        return Fault(f"is not valid JSON: {error.msg} ({where})", pointer="")
    except ValueError:
        pass
    return Fault(
        "is not valid JSON: it has a number that is too large, NaN, or half of a character",
        pointer="",
    )


def _too_deep(text: str) -> bool:
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif found[0] in "]}":
            depth -= 1
    return False


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _twice(body: bytes) -> Fault:
    """The first key that is twice in one object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key, value in pairs:
            if key in built:
                raise BadBody(Fault(f"has the key {clip(key)!r} twice in one object", pointer=""))
            built[key] = value
        return built

    try:
        json.loads(body, object_pairs_hook=unique)
    except BadBody as error:
        return error.fault
    return Fault("has a key twice in one object", pointer="")


def form_of(media: Media, body: bytes) -> tuple[dict[str, Any], int]:
    """The data of a form, and how many values it has. Raises BadBody."""
    try:
        pairs = query_pairs(body.decode("ascii"))
    except UnicodeDecodeError:
        raise BadBody(Fault("must be percent-encoded", pointer="")) from None
    except Bad as why:
        raise BadBody(Fault(str(why), pointer="")) from None
    data: dict[str, Any] = {}
    known: set[str] = set()
    names = {each.name for each in media.fields}
    for field in media.fields:
        try:
            value = in_pairs(pairs, field, names - {field.name})
        except Bad as why:
            raise BadBody(Fault(str(why), pointer=pointer_of([field.name]))) from None
        known |= names_of(field, pairs)
        if value is not MISSING:
            data[field.name] = value
    for name, value in pairs:
        if name not in known:
            if name in data:
                raise BadBody(Fault("must be there only once", pointer=pointer_of([name])))
            data[name] = value
    return data, len(pairs)
