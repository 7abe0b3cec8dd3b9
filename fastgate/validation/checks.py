"""The last check of a description: its schemas are compiled as workers compile them.

A worker must never fail at what control accepted, so everything that can be wrong with a schema is
found here, with its place in the description.
"""

from __future__ import annotations

from collections.abc import Iterator

import jsonschema_rs

from fastgate.errors import ConfigurationError
from fastgate.validation.describe import MOST_ERRORS, Described
from fastgate.validation.formats import compiled
from fastgate.validation.program import Schema
from fastgate.validation.source import Node, Sources

META = "https://json-schema.org/draft/2020-12/schema"


def check(described: Described, sources: Sources) -> None:
    """Raise ConfigurationError for schemas that are not valid."""
    schemas = described.schemas
    every: list[tuple[Schema, Node]] = [
        *((schema, schemas.origins[name]) for name, schema in schemas.definitions.items()),
        *described.places,
    ]
    errors = list(_invalid(every, sources))
    if errors:
        errors[0].others = tuple(errors[1:MOST_ERRORS])
        raise errors[0]
    if not every:
        return
    whole = {"allOf": [schema for schema, _ in every], "$defs": schemas.definitions}
    try:
        compiled(whole)
    except jsonschema_rs.ValidationError as error:
        kind, which, *path = [*error.instance_path, "", ""]
        node = every[int(which)][1] if kind == "allOf" else schemas.origins.get(str(which))
        place = (node or every[0][1]).below(path[:-2])
        raise sources.fault(place, _words(error)) from None


def _invalid(every: list[tuple[Schema, Node]], sources: Sources) -> Iterator[ConfigurationError]:
    """What is not a schema of JSON Schema 2020-12."""
    meta = jsonschema_rs.Draft202012Validator({"$ref": META}, offline=True)
    for schema, node in every:
        if isinstance(schema, bool) or meta.is_valid(schema):
            continue
        for error in meta.iter_errors(schema):
            place = node.below([key for key in error.instance_path if key != "$defs"])
            yield sources.fault(place, _words(error))


def _words(error: jsonschema_rs.ValidationError) -> str:
    keyword = error.instance_path[-1] if error.instance_path else ""
    if keyword == "type" or "type" in error.instance_path[-2:]:
        return "the type must be string, number, integer, boolean, array, object or null"
    if keyword == "pattern":
        return "the pattern is not a regular expression"
    return f"not a valid schema: {error.message}"
