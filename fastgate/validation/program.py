"""A compiled description: what a worker needs to validate requests, as one line of JSON.

Control makes it from the files of a description; everything in it was checked. References between
files are resolved, schemas are of JSON Schema 2020-12 whatever the description's version, and lists
say how each parameter is written in a request.

`definitions` are the schemas that others refer to (`{"$ref": "#/$defs/Order"}`). Two keywords of
our own are in schemas: `x-read-only`, the names of properties that are `readOnly`, and
`x-discriminator`, the property that names the alternative, with the alternative of each value.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Place = Literal["path", "query", "header", "cookie"]
Kind = Literal["null", "boolean", "integer", "number", "string", "array", "object"]
READ_ONLY = "x-read-only"
DISCRIMINATOR = "x-discriminator"
Schema = dict[str, Any] | bool


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """The types that the values of a schema may have, so that texts can be converted to them."""

    kinds: tuple[Kind, ...] = ()
    """Empty: any."""
    items: Shape | None = None
    properties: dict[str, Shape] = {}
    more: bool = True
    """Whether an object may have other properties."""


class Parameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A parameter, or a field of a form."""

    name: str
    place: Place
    schema: Schema
    shape: Shape = Shape()
    style: str = "simple"
    explode: bool = False
    required: bool = False
    json: bool = False
    """Its value is JSON as text."""
    empty: bool = False
    """It may have no value."""


class Media(msgspec.Struct, frozen=True, omit_defaults=True):
    """One media type of a body."""

    type: str
    """In lower case, without parameters: `application/json`, `text/*`, `*/*`."""
    parameters: dict[str, str] = {}
    kind: Literal["json", "form", "other"] = "other"
    schema: Schema = True
    fields: tuple[Parameter, ...] = ()
    """How the fields of a form are written."""
    more: bool = True
    """Whether a form may have other fields."""


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an operation."""

    content: tuple[Media, ...]
    required: bool = False


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one method of a path takes."""

    method: str
    """In upper case."""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    known: tuple[str, ...] = ()
    """Query parameters that hold a credential."""


class Path(msgspec.Struct, frozen=True, omit_defaults=True):
    """A path with its operations."""

    bases: tuple[str, ...]
    """What its servers put before it: empty, or paths such as `/v1`."""
    template: str
    """`/orders/{id}`."""
    operations: tuple[Operation, ...]


class Program(msgspec.Struct, frozen=True, omit_defaults=True):
    """A compiled description."""

    title: str = ""
    paths: tuple[Path, ...] = ()
    definitions: dict[str, Schema] = {}


def encode(program: Program) -> str:
    """The program as one line."""
    return msgspec.json.encode(program).decode()


def decode(text: str) -> Program:
    """The program of a line. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Program)


def references(schema: Any) -> set[str]:
    """The names of the definitions that a schema may refer to directly."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            reference = one.get("$ref")
            if isinstance(reference, str):
                found.add(reference.removeprefix("#/$defs/"))
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return found


def closed(schema: dict[str, Any], definitions: dict[str, Schema]) -> dict[str, Any]:
    """The schema with the definitions that it needs, so that it can be compiled alone."""
    needed: dict[str, Schema] = {}
    waiting = references(schema)
    while waiting:
        name = waiting.pop()
        if name in definitions and name not in needed:  # a value of `const` may look like one
            needed[name] = definitions[name]
            waiting |= references(definitions[name])
    return {**schema, "$defs": needed} if needed else schema
