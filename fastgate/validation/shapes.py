"""Which types the values of a schema may have.

Parameters are texts; a worker converts them to what their schema wants. The answer is an
approximation that is right for the schemas that parameters have, and allows more where it is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast, get_args

from fastgate.validation.program import Kind, Schema, Shape

_ALL: frozenset[Kind] = frozenset(get_args(Kind))
_DEEPEST = 6


class Shapes:
    """The shapes of schemas with these definitions."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def of(self, schema: Schema) -> Shape:
        """The shape of a converted schema."""
        return self._shape(schema, 0)

    def _shape(self, schema: Schema, depth: int) -> Shape:
        parts = list(self._parts(schema, 0)) if depth < _DEEPEST else []
        kinds = self._kinds(schema, 0)
        items = next((part["items"] for part in parts if isinstance(part.get("items"), dict)), None)
        properties: dict[str, Shape] = {}
        more = True
        for part in parts:
            for name, one in part.get("properties", {}).items():
                properties.setdefault(name, self._shape(one, depth + 1))
            more = more and part.get("additionalProperties", True) is not False
        return Shape(
            kinds=() if kinds == _ALL else cast("tuple[Kind, ...]", tuple(sorted(kinds))),
            items=None if items is None else self._shape(items, depth + 1),
            properties=properties,
            more=more,
        )

    def _parts(self, schema: Schema, depth: int) -> Iterable[dict[str, Any]]:
        """The schema and all that it is combined with."""
        if not isinstance(schema, dict) or depth > 2 * _DEEPEST:
            return
        yield schema
        for key in ("allOf", "anyOf", "oneOf"):
            for one in schema.get(key, ()):
                yield from self._parts(one, depth + 1)
        if (name := _referred(schema)) is not None:
            yield from self._parts(self._definitions.get(name, True), depth + 1)

    def _kinds(self, schema: Schema, depth: int) -> frozenset[Kind]:
        if not isinstance(schema, dict) or depth > 2 * _DEEPEST:
            return _ALL
        kinds = _ALL
        if "type" in schema:
            named = schema["type"]
            kinds &= _with_integers(named if isinstance(named, list) else [named])
        elif "enum" in schema and isinstance(schema["enum"], list):
            kinds &= _with_integers(map(_kind_of, schema["enum"]))
        elif "const" in schema:
            kinds &= _with_integers([_kind_of(schema["const"])])
        for one in schema.get("allOf", ()):
            kinds &= self._kinds(one, depth + 1)
        for key in ("anyOf", "oneOf"):
            if alternatives := schema.get(key):
                kinds &= frozenset().union(*(self._kinds(one, depth + 1) for one in alternatives))
        if (name := _referred(schema)) is not None:
            kinds &= self._kinds(self._definitions.get(name, True), depth + 1)
        return kinds


def _referred(schema: dict[str, Any]) -> str | None:
    reference = schema.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else None


def _with_integers(kinds: Iterable[Any]) -> frozenset[Kind]:
    found = {kind for kind in kinds if kind in _ALL}
    return frozenset(found | ({"integer"} if "number" in found else set()))


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")
