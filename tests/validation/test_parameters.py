"""Parameters: how they are written in requests, and what their schemas are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from validationkit import checker, document, operation

INTEGERS = {"type": "array", "items": {"type": "integer"}}
NOT_AN_INTEGER = "must be an integer, not a text"
COLOR = {
    "type": "object",
    "properties": {"R": {"type": "integer"}, "G": {"type": "integer"}},
    "required": ["R"],
    "additionalProperties": False,
}


def errors(folder: Path, parameter: dict[str, Any], target: str, **fields: str) -> list[str]:
    path = "/x/{p}" if parameter["in"] == "path" else "/x"
    check = checker(folder, document({path: {"get": operation(parameter)}}))
    found = check("GET", target, **fields)
    for one in found:
        assert (one["in"], one["parameter"]) == (parameter["in"], parameter["name"])
    return [one["detail"] for one in found]


QUERY = [
    # schema, more of the parameter, query, errors
    ({"type": "integer"}, {}, "p=5", []),
    ({"type": "integer"}, {}, "p=-5", []),
    ({"type": "integer"}, {}, "p=", [NOT_AN_INTEGER]),
    ({"type": "integer"}, {}, "p", [NOT_AN_INTEGER]),
    ({"type": "integer"}, {}, "p=05", [NOT_AN_INTEGER]),
    ({"type": "integer"}, {}, "p=5.5", ["must be an integer, not a number"]),
    ({"type": "integer"}, {}, "p=5.0", []),
    ({"type": "integer"}, {}, "p=1_000", [NOT_AN_INTEGER]),
    ({"type": "integer"}, {}, "p=%35", []),
    ({"type": "integer"}, {}, "%70=5", []),
    ({"type": "integer"}, {}, "", []),
    ({"type": "integer"}, {"required": True}, "", ["is required"]),
    ({"type": "integer"}, {"required": True}, "q=1", ["is required"]),
    ({"type": "integer"}, {}, "p=1&p=2", ["must be there only once"]),
    ({"type": "integer", "maximum": 10}, {}, "p=11", ["must be at most 10"]),
    ({"type": "integer"}, {}, "p=" + "9" * 100, []),
    ({"type": "integer"}, {}, "p=" + "9" * 101, [NOT_AN_INTEGER]),
    ({"type": "number"}, {}, "p=1e3", []),
    ({"type": "number"}, {}, "p=1e999", ["must be a number, not a text"]),
    ({"type": "number"}, {}, "p=NaN", ["must be a number, not a text"]),
    ({"type": "boolean"}, {}, "p=true", []),
    ({"type": "boolean"}, {}, "p=True", ["must be true or false, not a text"]),
    ({"type": "boolean"}, {}, "p=1", ["must be true or false, not a text"]),
    ({"type": ["integer", "null"]}, {}, "p=null", []),
    ({"type": "string"}, {}, "p=5", []),
    ({"type": "string", "maxLength": 3}, {}, "p=a+b", []),
    ({"type": "string", "const": "a b"}, {}, "p=a%20b", []),
    (
        {"type": "string", "format": "date"},
        {},
        "p=2026-13-01",
        ["must be a date such as 2026-01-31"],
    ),
    ({"type": "string"}, {}, "p=%ff", None),
    ({"enum": [1, 2]}, {}, "p=2", []),
    ({"enum": [1, 2]}, {}, "p=3", ["must be 1 or 2"]),
    ({"enum": ["1", "2"]}, {}, "p=2", []),
    ({"anyOf": [{"type": "integer"}, {"const": "all"}]}, {}, "p=all", []),
    ({"anyOf": [{"type": "integer"}, {"const": "all"}]}, {}, "p=7", []),
    ({"type": "string"}, {"allowEmptyValue": True, "required": False}, "p=", []),
    ({"type": "integer"}, {"allowEmptyValue": True}, "p", []),
    (True, {}, "p=anything", []),
    # arrays
    (INTEGERS, {}, "p=1&p=2", []),
    (INTEGERS, {}, "p=1&p=x", [f"is not valid: item 2 {NOT_AN_INTEGER}"]),
    (INTEGERS, {"explode": False}, "p=1,2", []),
    (INTEGERS, {"explode": False}, "p=1%2C2", []),
    (
        INTEGERS,
        {"explode": False},
        "p=1,,2",
        [f"is not valid: item 2 {NOT_AN_INTEGER}"],
    ),
    (INTEGERS, {"explode": False}, "p=1&p=2", ["must be there only once"]),
    ({**INTEGERS, "maxItems": 1}, {}, "p=1&p=2", ["must have at most 1 item"]),
    (INTEGERS, {"style": "spaceDelimited", "explode": False}, "p=1%202", []),
    (INTEGERS, {"style": "pipeDelimited", "explode": False}, "p=1|2", []),
    (INTEGERS, {"style": "pipeDelimited", "explode": False}, "p=1%7C2", []),
    # objects
    (COLOR, {"style": "deepObject"}, "p[R]=1&p[G]=2", []),
    (COLOR, {"style": "deepObject"}, "p%5BR%5D=1", []),
    (COLOR, {"style": "deepObject"}, "p[G]=1", ["is not valid: its /R is required"]),
    (
        COLOR,
        {"style": "deepObject"},
        "p[R]=x",
        [f"is not valid: its /R {NOT_AN_INTEGER}"],
    ),
    (COLOR, {"style": "deepObject"}, "p[R]=1&p[R]=2", ["has the property 'R' twice"]),
    (COLOR, {"style": "deepObject"}, "p[R]=1&p[B]=2", ["is not valid: its /B is not known"]),
    (COLOR, {"style": "deepObject"}, "", []),
    (COLOR, {"style": "deepObject", "required": True}, "p=1", ["is required"]),
    (
        {"type": "object", "properties": {"t": INTEGERS}},
        {"style": "deepObject"},
        "p[t][]=1&p[t][]=2",
        [],
    ),
    (COLOR, {"explode": False}, "p=R,1,G,2", []),
    (COLOR, {"explode": False}, "p=R,1,G", ["must be names and values by turns"]),
    (COLOR, {}, "R=1&G=2", []),
    (COLOR, {}, "R=1&Z=2", []),
    (COLOR, {}, "G=2", ["is not valid: its /R is required"]),
]


@pytest.mark.parametrize(("schema", "more", "query", "expected"), QUERY)
def test_query(tmp_path: Path, schema: Any, more: Any, query: str, expected: list[str]) -> None:
    parameter = {"name": "p", "in": "query", "schema": schema, **more}
    if expected is None:
        check = checker(tmp_path, document({"/x": {"get": operation(parameter)}}))
        assert check("GET", f"/x?{query}") == [
            {"detail": "The query must be UTF-8, percent-encoded"}
        ]
        return
    assert errors(tmp_path, parameter, f"/x?{query}") == expected


@pytest.mark.parametrize(
    ("schema", "more", "segment", "expected"),
    [
        ({"type": "integer"}, {}, "5", []),
        ({"type": "integer"}, {}, "x", [NOT_AN_INTEGER]),
        ({"type": "string", "maxLength": 1}, {}, "%C3%A4", []),
        ({"type": "string"}, {}, "%FF", ["must be UTF-8, percent-encoded"]),
        ({"type": "string", "const": "a+b"}, {}, "a+b", []),
        (INTEGERS, {}, "1,2", []),
        (INTEGERS, {}, "1,x", [f"is not valid: item 2 {NOT_AN_INTEGER}"]),
        (COLOR, {}, "R,1,G,2", []),
        (COLOR, {"explode": True}, "R=1,G=2", []),
        (COLOR, {"explode": True}, "R=1,R=2", ["has the property 'R' twice"]),
        ({"type": "integer"}, {"style": "label"}, ".5", []),
        ({"type": "integer"}, {"style": "label"}, "5", ["must begin with '.'"]),
        (INTEGERS, {"style": "label"}, ".1,2", []),
        (INTEGERS, {"style": "label", "explode": True}, ".1.2", []),
        ({"type": "integer"}, {"style": "matrix"}, ";p=5", []),
        ({"type": "integer"}, {"style": "matrix"}, ";q=5", ["must be written as ';p=…'"]),
        ({"type": "integer"}, {"style": "matrix"}, "5", ["must begin with ';'"]),
        (INTEGERS, {"style": "matrix"}, ";p=1,2", []),
        (INTEGERS, {"style": "matrix", "explode": True}, ";p=1;p=2", []),
        (COLOR, {"style": "matrix", "explode": True}, ";R=1;G=2", []),
    ],
)
def test_path(tmp_path: Path, schema: Any, more: Any, segment: str, expected: list[str]) -> None:
    parameter = {"name": "p", "in": "path", "required": True, "schema": schema, **more}
    assert errors(tmp_path, parameter, f"/x/{segment}") == expected


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": "integer"}, "5", []),
        ({"type": "integer"}, "5%35", [NOT_AN_INTEGER]),
        ({"type": "integer"}, "5, 6", [NOT_AN_INTEGER]),
        (INTEGERS, "1,2", []),
        (INTEGERS, "1, 2", []),
        ({"type": "string", "minLength": 1}, "", ["must have at least 1 character"]),
    ],
)
def test_header(tmp_path: Path, schema: Any, value: str, expected: list[str]) -> None:
    parameter = {"name": "X-Count", "in": "header", "required": True, "schema": schema}
    assert errors(tmp_path, parameter, "/x", x_count=value) == expected
    assert errors(tmp_path, parameter, "/x") == ["is required"]


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        ("a=1; p=5; b=2", []),
        ('p="5"', []),
        ("p=x", [NOT_AN_INTEGER]),
        ("P=5", ["is required"]),
        ("p=5; p=6", ["must be there only once"]),
        ("", ["is required"]),
    ],
)
def test_cookie(tmp_path: Path, cookies: str, expected: list[str]) -> None:
    parameter = {"name": "p", "in": "cookie", "required": True, "schema": {"type": "integer"}}
    assert errors(tmp_path, parameter, "/x", cookie=cookies) == expected


def test_a_parameter_with_content_is_json(tmp_path: Path) -> None:
    content = {"application/json": {"schema": COLOR}}
    parameter = {"name": "p", "in": "query", "content": content}
    assert errors(tmp_path, parameter, '/x?p={"R":1}') == []
    assert errors(tmp_path, parameter, '/x?p={"R":"1"}') == [
        f"is not valid: its /R {NOT_AN_INTEGER}"
    ]
    assert errors(tmp_path, parameter, "/x?p={R") == ["must be JSON"]


def test_headers_that_other_parts_describe_are_ignored(tmp_path: Path) -> None:
    names = ("Accept", "Content-Type", "Authorization")
    parameters = [{"name": name, "in": "header", "required": True} for name in names]
    check = checker(tmp_path, document({"/x": {"get": operation(*parameters)}}))
    assert check("GET", "/x") == []


def test_parameters_of_a_path_hold_for_its_operations_unless_they_have_their_own(
    tmp_path: Path,
) -> None:
    common = {"name": "p", "in": "query", "schema": {"type": "integer"}}
    own = {"name": "p", "in": "query", "schema": {"type": "boolean"}}
    item = {"parameters": [common], "get": operation(), "delete": operation(own)}
    check = checker(tmp_path, document({"/x": item}))
    assert check("GET", "/x?p=5") == []
    assert [one["detail"] for one in check("DELETE", "/x?p=5")] == [
        "must be true or false, not a text"
    ]


def test_unknown_query_parameters(tmp_path: Path) -> None:
    parameters = [
        {"name": "p", "in": "query", "schema": {"type": "integer"}},
        {"name": "f", "in": "query", "style": "deepObject", "schema": COLOR},
        {"name": "o", "in": "query", "schema": {**COLOR, "required": []}},
    ]
    data = document(
        {"/x": {"get": operation(*parameters)}},
        components={
            "securitySchemes": {
                "k": {"type": "apiKey", "in": "query", "name": "key"},
                "h": {"type": "apiKey", "in": "header", "name": "X-Key"},
            }
        },
    )
    target = "/x?p=1&f[R]=1&R=1&key=k&new=1&new=2&X-Key=3"
    assert checker(tmp_path, data)("GET", target) == []
    check = checker(tmp_path, data, unknown_query="refuse")
    assert check("GET", target) == [
        {"in": "query", "parameter": "new", "detail": "is not known"},
        {"in": "query", "parameter": "X-Key", "detail": "is not known"},
    ]
    long = "n" * 1000
    assert len(check("GET", f"/x?{long}=1")[0]["parameter"]) == 64


def test_an_object_with_any_properties_takes_those_that_no_other_parameter_has(
    tmp_path: Path,
) -> None:
    parameters = [
        {"name": "p", "in": "query", "schema": {"type": "integer"}},
        {
            "name": "rest",
            "in": "query",
            "schema": {"type": "object", "additionalProperties": {"maxLength": 3}},
        },
    ]
    data = document({"/x": {"get": operation(*parameters)}})
    check = checker(tmp_path, data, unknown_query="refuse")
    assert check("GET", "/x?p=1234&a=abc") == []
    assert check("GET", "/x?p=1234&a=abcd") == [
        {
            "in": "query",
            "parameter": "rest",
            "detail": "is not valid: its /a must have at most 3 characters",
        }
    ]
