"""The JSON Schema of the document (draft 2020-12), including short forms.

Editors use it for completion and checks: `fastgate schema > fastgate.schema.json`, and in the
document `# yaml-language-server: $schema=fastgate.schema.json`. It is slightly less strict than
decoding: conditions on several fields, and the syntax of values such as rates, are checked only
when the document is loaded.

It is generated from the annotations that decoding uses (msgspec's own generator supports neither
the defaults of our values nor the short forms).
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from fastgate.model.base import Model
from fastgate.model.codec import encode
from fastgate.model.gateway import Gateway, Route
from fastgate.model.shape import Field, fields_of
from fastgate.model.short import ONE_MAPPING, SHORT
from fastgate.model.values import Value

_PLAIN = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_ONE_OF: dict[type[Model], tuple[str, ...]] = {Route: ("path", "paths")}
"""Fields of which exactly one is required."""
_SCALARS = ("string", "integer", "number")
_KEYWORDS = {
    "pattern": "pattern", "ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum", "description": "description",
}  # fmt: skip


def json_schema(struct: type[Model] = Gateway) -> dict[str, Any]:
    """The schema of the whole document, or of one resource."""
    definitions: dict[str, dict[str, Any]] = {}
    top = _annotation(struct, "", definitions)
    if struct is Gateway:
        document = definitions["Gateway"]
        document["properties"]["$schema"] = {"type": "string"}
        document["patternProperties"] = {"^x-": {}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "FastGate configuration" if struct is Gateway else struct.__name__,
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _annotation(annotation: Any, key: str, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        built = _annotation(arguments[0], key, definitions)
        for meta in arguments[1:]:
            if isinstance(meta, Meta):
                built = _constrain(built, meta)
        return built
    if origin in (Union, types.UnionType):
        return {"anyOf": [_annotation(one, key, definitions) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        items = _annotation(arguments[0], key, definitions)
        return _one_or_many({"type": "array", "items": items}, key)
    if origin is dict:
        built = {
            "type": "object",
            "additionalProperties": _annotation(arguments[1], key, definitions),
        }
        names = _annotation(arguments[0], key, definitions)
        if "pattern" in names:
            built["propertyNames"] = {"pattern": names["pattern"]}
        return built
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return annotation.schema()
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return _struct(annotation, definitions)
    return dict(_PLAIN[annotation])


def _constrain(built: dict[str, Any], meta: Meta) -> dict[str, Any]:
    """`built` with the conditions of a Meta; bounds are added to the part that they apply to."""
    more = {
        keyword: value
        for name, keyword in _KEYWORDS.items()
        if (value := getattr(meta, name)) is not None
    }
    words = {"description": more.pop("description")} if "description" in more else {}
    target = built
    if "anyOf" in built:  # a list that its one item may stand for
        target = next((x for x in built["anyOf"] if x.get("type") == "array"), built)
    lengths = (
        ("minItems", "maxItems") if target.get("type") == "array" else ("minLength", "maxLength")
    )
    for name, keyword in zip(("min_length", "max_length"), lengths, strict=True):
        if (value := getattr(meta, name)) is not None:
            more[keyword] = value
    target.update(more)
    target.update(meta.extra_json_schema or {})
    return {**words, **built}


def _struct(struct: type[Model], definitions: dict[str, Any]) -> dict[str, Any]:
    name = struct.__name__
    if name not in definitions:
        definitions[name] = {}  # reserved first, in case the struct contains itself
        fields = fields_of(struct).values()
        definitions[name] = {
            "description": (struct.__doc__ or "").strip().partition("\n")[0],
            "type": "object",
            "properties": {field.name: _field(field, definitions) for field in fields},
            "required": [field.name for field in fields if field.required],
            "additionalProperties": False,
        }
        if struct in _ONE_OF:
            definitions[name]["anyOf"] = [{"required": [field]} for field in _ONE_OF[struct]]
    reference = {"$ref": f"#/$defs/{name}"}
    short = SHORT.get(struct)
    return {"anyOf": [*(form.schema for form in short), reference]} if short else reference


def _field(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    built = _annotation(field.annotation, field.name, definitions)
    if not field.required and (default := encode(field.default)) not in (None, [], {}):
        built["default"] = default
    return built


def _one_or_many(array: dict[str, Any], key: str) -> dict[str, Any]:
    """An array's schema that also accepts a single item, if decoding does."""
    items = array["items"]
    alone = [
        option
        for option in items.get("anyOf", [items])
        if option.get("type") in _SCALARS
        or "enum" in option
        or isinstance(option.get("type"), list)
        or (key in ONE_MAPPING and "$ref" in option)
    ]
    return {"anyOf": [*alone, array]} if alone else array
