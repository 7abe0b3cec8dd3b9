"""Schemas of OpenAPI 3.0 and 3.1 as JSON Schema, and what is said about values that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from validationkit import checker, document, operation, schema_checker

OLD, NEW = "3.0.3", "3.1.0"


def ok(folder: Path, schema: Any, version: str, *values: Any, **more: Any) -> None:
    check = schema_checker(folder, schema, version, **more)
    for value in values:
        assert check.body(value) == [], value


def bad(folder: Path, schema: Any, version: str, value: Any, *expected: Any, **more: Any) -> None:
    assert schema_checker(folder, schema, version, **more).body(value) == list(expected)


# ---- what OpenAPI 3.0 has of its own ----------------------------------------------------


def test_nullable(tmp_path: Path) -> None:
    ok(tmp_path, {"type": "string", "nullable": True}, OLD, None, "a")
    bad(tmp_path, {"type": "string"}, OLD, None, ("", "must be a text, not null"))
    bad(
        tmp_path,
        {"type": "string", "nullable": True},
        OLD,
        5,
        ("", "must be a text or null, not a number"),
    )
    # It does not add a value to an enumeration, says the specification.
    bad(
        tmp_path,
        {"type": "string", "nullable": True, "enum": ["a"]},
        OLD,
        None,
        ("", "must be 'a'"),
    )
    ok(tmp_path, {"type": "string", "nullable": True, "enum": ["a", None]}, OLD, None, "a")
    # Generators write a reference that may be null in this way.
    components = {"schemas": {"A": {"type": "object", "required": ["b"]}}}
    schema = {"nullable": True, "allOf": [{"$ref": "#/components/schemas/A"}]}
    ok(tmp_path, schema, OLD, None, {"b": 1}, components=components)
    bad(tmp_path, schema, OLD, {}, ("/b", "is required"), components=components)
    # OpenAPI 3.1 does not have it.
    bad(
        tmp_path,
        {"type": "string", "nullable": True},
        NEW,
        None,
        ("", "must be a text, not null"),
    )


def test_exclusive_bounds(tmp_path: Path) -> None:
    schema = {"minimum": 1, "exclusiveMinimum": True, "maximum": 3, "exclusiveMaximum": False}
    ok(tmp_path, schema, OLD, 2, 3)
    bad(tmp_path, schema, OLD, 1, ("", "must be more than 1"))
    bad(tmp_path, schema, OLD, 4, ("", "must be at most 3"))
    ok(tmp_path, {"exclusiveMinimum": True}, OLD, -5)
    bad(tmp_path, {"exclusiveMinimum": 1}, NEW, 1, ("", "must be more than 1"))


def test_nothing_counts_beside_a_reference_of_3_0(tmp_path: Path) -> None:
    components = {"schemas": {"A": {"type": "string"}}}
    schema = {"$ref": "#/components/schemas/A", "maxLength": 1}
    ok(tmp_path, schema, OLD, "abc", components=components)
    bad(tmp_path, schema, NEW, "abc", ("", "must have at most 1 character"), components=components)


# ---- references -------------------------------------------------------------------------


def test_references_to_other_files(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "items.yaml").write_text(
        "Item:\n  type: object\n  required: [sku]\n  properties:\n"
        "    sku: {$ref: 'plain.json'}\n"
        "    order: {$ref: '../openapi.json#/components/schemas/O'}\n"
        "    parts: {type: array, items: {$ref: '#/Item'}}\n"
    )
    (tmp_path / "parts" / "plain.json").write_text('{"$id": "http://a/b", "maxLength": 3}')
    order = {"type": "object", "properties": {"n": {"type": "integer"}}}
    data = document(
        {"/x": {"$ref": "paths.yaml#/~1x"}},
        components={"schemas": {"O": order}},
    )
    (tmp_path / "paths.yaml").write_text(
        "/x:\n  post:\n    requestBody: {$ref: '#/body'}\n"
        "body: {content: {application/json: {schema: {$ref: 'parts/items.yaml#/Item'}}}}\n"
    )
    check = checker(tmp_path, data)
    assert {Path(file).name for file in check.description.stamps} == {
        "openapi.json",
        "paths.yaml",
        "items.yaml",
        "plain.json",
    }
    assert check.body({"sku": "abc", "parts": [{"sku": "x", "order": {"n": 1}}]}) == []
    assert sorted(check.body({"sku": "abcd", "parts": [{"order": {"n": "1"}}]})) == [
        ("/parts/0/order/n", "must be an integer, not a text"),
        ("/parts/0/sku", "is required"),
        ("/sku", "must have at most 3 characters"),
    ]


def test_two_schemas_of_one_name_are_two(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"components":{"schemas":{"A":{"type":"integer"}}}}')
    schema = {
        "properties": {
            "own": {"$ref": "#/components/schemas/A"},
            "other": {"$ref": "other.json#/components/schemas/A"},
            "odd": {"$ref": "#/components/schemas/a b~1c%25"},
        }
    }
    components = {"schemas": {"A": {"type": "string"}, "a b/c%": {"type": "null"}}}
    check = schema_checker(tmp_path, schema, components=components)
    assert check.body({"own": "a", "other": 1, "odd": None}) == []
    assert len(check.body({"own": 1, "other": "a", "odd": 1})) == 3


def test_a_schema_that_contains_itself(tmp_path: Path) -> None:
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/T"}}},
        "additionalProperties": False,
    }
    components = {"schemas": {"T": tree}}
    schema = {"$ref": "#/components/schemas/T"}
    value: dict[str, Any] = {}
    for _ in range(60):
        value = {"children": [value]}
    ok(tmp_path, schema, NEW, value, components=components)
    bad(
        tmp_path,
        schema,
        NEW,
        {"children": [{"children": [{"x": 1}]}]},
        ("/children/0/children/0/x", "is not known"),
        components=components,
    )


# ---- read-only --------------------------------------------------------------------------

READ_ONLY = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {
        "id": {"type": "integer", "readOnly": True},
        "name": {"type": "string"},
        "secret": {"type": "string", "writeOnly": True},
        "made": {"$ref": "#/components/schemas/Made"},
    },
}
MADE = {"schemas": {"Made": {"type": "string", "readOnly": True}}}


@pytest.mark.parametrize("version", [OLD, NEW])
def test_properties_that_are_read_only(tmp_path: Path, version: str) -> None:
    values = ({"name": "a", "secret": "s"}, {"name": "a", "id": 5}, {"name": "a", "made": "b"})
    ok(tmp_path, READ_ONLY, version, *values, components=MADE)
    # It is what a client sends that read the object before: it must fit all the same.
    bad(
        tmp_path,
        READ_ONLY,
        version,
        {"name": "a", "id": "5"},
        ("/id", "must be an integer, not a text"),
        components=MADE,
    )
    data = document({"/x": {"post": operation(body=READ_ONLY)}}, version, components=MADE)
    check = checker(tmp_path, data, read_only="refuse")
    assert check.body(values[0]) == []
    assert sorted(check.body({"id": 5, "made": "b"})) == [
        ("/id", "is read-only and cannot be sent"),
        ("/made", "is read-only and cannot be sent"),
        ("/name", "is required"),
    ]


def test_read_only_properties_of_combined_schemas(tmp_path: Path) -> None:
    components = {"schemas": {"Base": {"properties": {"id": {"readOnly": True}}}}}
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Base"},
            {"properties": {"name": {}}, "required": ["id", "name"]},
        ],
        "required": ["id"],
    }
    ok(tmp_path, schema, NEW, {"name": 1}, components=components)
    bad(tmp_path, schema, NEW, {}, ("/name", "is required"), components=components)


# ---- words ------------------------------------------------------------------------------

WORDS = [
    ({"type": "object"}, [], "", "must be an object, not a list"),
    ({"type": ["array", "null"]}, "a", "", "must be a list or null, not a text"),
    ({"enum": ["a", 1, None]}, 2, "", "must be 'a', 1 or null"),
    ({"enum": list(range(20))}, 50, "", "must be 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …"),
    ({"const": {"a": 1}}, 2, "", 'must be {"a":1}'),
    ({"maximum": 1.5}, 2, "", "must be at most 1.5"),
    ({"exclusiveMaximum": 2}, 2, "", "must be less than 2"),
    ({"multipleOf": 0.5}, 0.7, "", "must be a multiple of 0.5"),
    ({"minLength": 2}, "a", "", "must have at least 2 characters"),
    ({"pattern": "^a$"}, "b", "", "must match the pattern '^a$'"),
    ({"pattern": "^" + "a" * 200}, "b", "", f"must match the pattern '^{'a' * 77}…"),
    ({"minItems": 1}, [], "", "must have at least 1 item"),
    ({"uniqueItems": True}, [1, 1], "", "must not have the same item twice"),
    ({"minProperties": 1}, {}, "", "must have at least 1 property"),
    ({"maxProperties": 0}, {"a": 1}, "", "must have at most 0 properties"),
    ({"propertyNames": {"const": "a"}}, {"b": 1}, "", "has a property whose name is not allowed"),
    ({"additionalProperties": False}, {"a": 1}, "", "must have no properties"),
    (
        {"properties": {"b": {}}, "additionalProperties": False},
        {"a/b~": 1},
        "/a~1b~0",
        "is not known",
    ),
    ({"properties": {"a": False}}, {"a": 1}, "/a", "is not allowed"),
    ({"unevaluatedProperties": False}, {"a": 1}, "/a", "is not known"),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "/b", "is required"),
    ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, "/b", "is required"),
    ({"not": {"type": "null"}}, None, "", "is of a form that is not allowed"),
    ({"contains": {"const": 1}}, [2], "", "has not as many items of the required kind as it must"),
    ({"prefixItems": [True], "items": False}, [1, 2], "/1", "is not allowed"),
    ({"unevaluatedItems": False}, [1, 2], "", "has items that are not known"),
    ({"format": "uuid"}, "x", "", "must be a UUID"),
    ({"format": "date-time"}, "x", "", "must be a date and time such as 2026-01-31T12:00:00Z"),
    ({"format": "byte"}, "%", "", "must be text in base64"),
    ({"format": "idn-email"}, "x", "", "must be of the format 'idn-email'"),
    ({"format": "int32", "type": "integer"}, 2**31, "", "must be at most 2147483647"),
    ({"format": "int32", "maximum": 5}, 6, "", "must be at most 5"),
    ({"properties": {"a": {"type": "null"}}}, {"a": 1}, "/a", "must be null, not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "pointer", "detail"), WORDS)
def test_words(tmp_path: Path, schema: Any, value: Any, pointer: str, detail: str) -> None:
    bad(tmp_path, schema, NEW, value, (pointer, detail))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("byte", "YQ=="), ("int32", 5), ("int64", 5.0), ("password", "x"), ("binary", "x"),
        ("float", 1.5), ("no-such-format", "x"), ("date", "2026-01-31"), ("email", "a@b.example"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000"), ("uri", "https://a.example/b"),
        ("ipv4", "10.0.0.1"), ("ipv6", "::1"), ("time", "12:00:00Z"), ("hostname", "a.example"),
    ],
)  # fmt: skip
def test_values_of_formats(tmp_path: Path, name: str, value: Any) -> None:
    ok(tmp_path, {"format": name}, NEW, value)


# ---- alternatives -----------------------------------------------------------------------

CARD = {
    "type": "object",
    "required": ["kind", "number"],
    "properties": {"kind": {"type": "string"}, "number": {"type": "string"}},
}
IBAN = {
    "type": "object",
    "required": ["kind", "iban"],
    "properties": {"kind": {"const": "iban"}, "iban": {"type": "string"}},
}
PAY = {
    "oneOf": [{"$ref": "#/components/schemas/Card"}, {"$ref": "#/components/schemas/Iban"}],
    "discriminator": {
        "propertyName": "kind",
        "mapping": {
            "card": "#/components/schemas/Card",
            "credit": "Card",
            "iban": "#/components/schemas/Iban",
        },
    },
}
PARTS = {"schemas": {"Card": CARD, "Iban": IBAN}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"kind": "card", "number": "1"}, []),
        ({"kind": "card"}, [("/number", "is required")]),
        ({"kind": "credit", "number": 1}, [("/number", "must be a text, not a number")]),
        ({"kind": "Card"}, [("/number", "is required")]),
        ({"kind": "iban"}, [("/iban", "is required")]),
        ({"kind": "x"}, [("/kind", "does not name one of the forms that this object can have")]),
        ({}, [("/kind", "does not name one of the forms that this object can have")]),
        (5, [("", "matches none of the 2 forms that it can have")]),
    ],
)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_discriminator_says_which_alternative_errors_are_about(
    tmp_path: Path, version: str, value: Any, expected: list
) -> None:
    bad(tmp_path, PAY, version, value, *expected, components=PARTS)


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        (
            {"anyOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]},
            {},
            [("/a", "is required")],
        ),
        (
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
            ["x"],
            [("/0", "must be an integer, not a text")],
        ),
        (
            {
                "oneOf": [
                    {"properties": {"k": {"const": "a"}, "x": {"type": "integer"}}},
                    {"properties": {"k": {"const": "b"}, "y": {"type": "integer"}}},
                ]
            },
            {"k": "b", "y": "no", "x": "no"},
            [("/y", "must be an integer, not a text")],
        ),
        (
            {"oneOf": [{"type": "integer"}, {"minimum": 0}]},
            5,
            [("", "matches more than one of the forms that it can have")],
        ),
        (
            {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            {},
            [("", "matches none of the 2 forms that it can have")],
        ),
        (
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            None,
            [("", "matches none of the 2 forms that it can have")],
        ),
    ],
)
def test_errors_are_about_the_alternative_that_was_meant(
    tmp_path: Path, schema: Any, value: Any, expected: list
) -> None:
    bad(tmp_path, schema, NEW, value, *expected)
