"""Shapes: the types of the fields of the document's structs, read from their annotations.

All code that walks a document by its types (expansion, errors, schema, reference) uses this.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from typing import get_type_hints as _hints

import msgspec

from fastgate.model.base import Model
from fastgate.model.values import Value


class Shape(NamedTuple):
    """The type of a field."""

    kind: Literal["struct", "list", "dict", "value", "plain"]
    struct: type[Model] | None
    """Of kind struct."""
    item: Any
    """The annotation of the items of a list or dict."""
    choices: tuple[Any, ...]
    """Of a Literal."""
    value: type[Value] | None
    """Of kind value."""


@cache
def shape_of(annotation: Any) -> Shape:
    """The type of `annotation`, without Annotated and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return shape_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        shapes = [shape_of(part) for part in get_args(annotation) if part is not type(None)]
        return max(shapes, key=lambda shape: shape.kind != "plain" or bool(shape.choices))
    if origin is Literal:
        return Shape("plain", None, None, get_args(annotation), None)
    if origin is list:
        return Shape("list", None, get_args(annotation)[0], (), None)
    if origin is dict:
        return Shape("dict", None, get_args(annotation)[1], (), None)
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return Shape("struct", annotation, None, (), None)
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return Shape("value", None, None, (), annotation)
    return Shape("plain", None, None, (), None)


class Field(NamedTuple):
    """A field of a struct, as in documents."""

    name: str
    """The name in documents."""
    attribute: str
    """The name in Python."""
    annotation: Any
    required: bool
    default: Any
    """Meaningful unless required."""
    description: str
    shape: Shape


@cache
def fields_of(struct: type[Model]) -> dict[str, Field]:
    """The fields of a struct by their names in documents; the name first, then as declared."""
    hints = _hints(struct, include_extras=True)
    found = []
    for info in msgspec.structs.fields(struct):
        annotation = hints[info.name]
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        description = ""
        for meta in getattr(annotation, "__metadata__", ()):
            description = getattr(meta, "description", None) or description
        found.append(
            Field(
                info.encode_name,
                info.name,
                annotation,
                info.required,
                default,
                description,
                shape_of(annotation),
            )
        )
    own = list(struct.__annotations__)
    found.sort(key=lambda f: (f.name != "name", f.attribute not in own))
    return {field.name: field for field in found}
