"""Errors of the schema validator → faults in plain English.

The validator's own texts contain the values that it looked at, so they are not used. If a value
fits none of several alternatives, the errors of the one that it is meant to be are reported: the
one that its discriminator names, or the only one of its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema_rs import ValidationError

from fastgate.validation.faults import Fault, listed, pointer_of, shown
from fastgate.validation.program import DISCRIMINATOR
from fastgate.validation.values import clip

_TYPES = {
    "null": "null", "boolean": "true or false", "integer": "an integer", "number": "a number",
    "string": "a text", "array": "a list", "object": "an object",
}  # fmt: skip
_FORMATS = {
    "byte": "text in base64", "date": "a date such as 2026-01-31",
    "date-time": "a date and time such as 2026-01-31T12:00:00Z",
    "duration": "a duration such as P3D",
    "email": "an email address", "hostname": "a host name", "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address", "json-pointer": "a JSON pointer", "regex": "a regular expression",
    "time": "a time such as 12:00:00Z", "uri": "an absolute URI", "uri-reference": "a URI",
    "uri-template": "a URI template", "uuid": "a UUID",
}  # fmt: skip
_DEEPEST = 8

Found = tuple[list[str | int], str]
"""Where, and what is wrong."""


def faults_of(errors: Iterator[ValidationError], schema: dict[str, Any]) -> Iterator[Fault]:
    """The faults of a request. schema: that the validator was made of."""
    for error in errors:
        for path, detail in _found(error, schema, 0):
            yield _fault(path, detail)


def _fault(path: list[str | int], detail: str) -> Fault:
    place = path[0] if path else ""
    if place == "body":
        return Fault(detail, pointer=pointer_of(path[1:]))
    if place not in ("path", "query", "header", "cookie") or len(path) < 2:
        return Fault(f"the request {detail}")
    inner = path[2:]
    if inner:
        number = isinstance(inner[0], int) and len(inner) == 1
        what = f"item {int(inner[0]) + 1}" if number else f"its {clip(pointer_of(inner))}"
        detail = f"is not valid: {what} {detail}"
    return Fault(detail, place=place, name=str(path[1]))  # type: ignore[arg-type]


def _found(error: ValidationError, schema: dict[str, Any], depth: int) -> Iterator[Found]:
    kind, path = error.kind.name, list(error.instance_path)
    values: dict[str, Any] = error.kind.as_dict()
    if kind in ("anyOf", "oneOf"):
        context = values.get("context")
        if context and depth < _DEEPEST:
            if not any(not one for one in context):
                yield from _alternative(error, context, schema, depth)
                return
            yield path, "matches more than one of the forms that it can have"
            return
    if kind == "required":
        yield [*path, values["property"]], "is required"
    elif kind in ("additionalProperties", "unevaluatedProperties"):
        for name in values.get("unexpected", []):
            yield [*path, name], "is not known"
    elif kind == "falseSchema" and list(error.schema_path)[-1:] == ["additionalProperties"]:
        yield path, "must have no properties"
    elif kind == "falseSchema":
        yield path, _not_allowed(error, schema)
    else:
        yield path, _words(kind, values, error.instance)


def _not_allowed(error: ValidationError, schema: dict[str, Any]) -> str:
    where = list(error.schema_path)
    owner = _at(schema, where[:-2]) if len(where) >= 2 else None
    name = error.instance_path[-1] if error.instance_path else None
    if isinstance(owner, dict) and name in owner.get("x-read-only", ()):
        return "is read-only and cannot be sent"
    return "is not allowed"


def _alternative(
    error: ValidationError, context: list[Any], schema: dict[str, Any], depth: int
) -> Iterator[Found]:
    """The errors of the alternative that the value is meant to be."""
    path = list(error.instance_path)
    chosen = _named(error, schema)
    if isinstance(chosen, str):
        yield [*path, chosen], "does not name one of the forms that this object can have"
        return
    if chosen is None:
        base = len(path)
        close = [
            number
            for number, errors in enumerate(context)
            if not any(_excludes(one, base) for one in errors)
        ]
        chosen = close[0] if len(close) == 1 else None
    if chosen is None or not 0 <= chosen < len(context):
        yield path, f"matches none of the {len(context)} forms that it can have"
        return
    for one in context[chosen]:
        yield from _found(one, schema, depth + 1)


def _excludes(error: ValidationError, base: int) -> bool:
    """Whether an error says that the value is meant to be something else: another type, or another
    fixed value of a property."""
    depth, kind = len(error.instance_path), error.kind.name
    return (kind == "type" and depth == base) or (kind in ("const", "enum") and depth <= base + 1)


def _named(error: ValidationError, schema: dict[str, Any]) -> int | str | None:
    """The number of the alternative that the value's discriminator names; the discriminator's name
    if it names none; None: there is no discriminator."""
    owner = _at(schema, list(error.schema_path)[:-1])
    found = owner.get(DISCRIMINATOR) if isinstance(owner, dict) else None
    if not isinstance(found, dict) or not isinstance(error.instance, dict):
        return None
    value = error.instance.get(found["property"])
    number = found["alternatives"].get(value) if isinstance(value, str) else None
    return found["property"] if number is None else int(number)


def _at(schema: Any, path: list[str | int]) -> Any:
    for key in path:
        try:
            schema = schema[key]
        except (KeyError, IndexError, TypeError):
            return None
    return schema


# ---- words ------------------------------------------------------------------------------


def _words(kind: str, values: dict[str, Any], instance: Any) -> str:
    if kind == "type":
        types = values["types"] if "types" in values else [values.get("type")]
        kinds = [_TYPES.get(str(one), str(one)) for one in sorted(map(str, types), key=_order)]
        return f"must be {listed(kinds)}, not {_kind(instance)}"
    if kind == "enum":
        options = values["options"]
        return f"must be {listed([shown(one) for one in options[:11]])}"
    if kind == "const":
        return f"must be {shown(values['expected_value'])}"
    if kind == "pattern":
        return f"must match the pattern {shown(values['pattern'])}"
    if kind == "format":
        name = values["format"]
        return f"must be {_FORMATS.get(name, f'of the format {name!r}')}"
    if "limit" in values:
        return _limit(kind, values["limit"])
    return (
        _OTHERS.get(kind, "is not valid")
        if kind != "multipleOf"
        else (f"must be a multiple of {values['multiple_of']}")
    )


def _order(kind: str) -> int:
    """null last."""
    return kind == "null"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")


def _limit(kind: str, limit: Any) -> str:
    def counted(noun: str, least: bool) -> str:
        plural = {"property": "properties"}.get(noun, f"{noun}s") if limit != 1 else noun
        return f"must have at {'least' if least else 'most'} {limit} {plural}"

    nouns = {"Length": "character", "Items": "item", "Properties": "property"}
    if kind[3:] in nouns:
        return counted(nouns[kind[3:]], kind.startswith("min"))
    said = {
        "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }  # fmt: skip
    if kind in said:
        return f"must be {said[kind]} {limit}"
    return f"must have at most {limit} items"


_OTHERS = {
    "contains": "has not as many items of the required kind as it must",
    "not": "is of a form that is not allowed",
    "propertyNames": "has a property whose name is not allowed",
    "unevaluatedItems": "has items that are not known",
    "uniqueItems": "must not have the same item twice",
    "anyOf": "matches none of the forms that it can have",
    "oneOf": "matches none of the forms that it can have",
}
