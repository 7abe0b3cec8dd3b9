"""Descriptions that can be used, and those that cannot: place, error, and how to fix it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from validationkit import checker, document, operation, refused, written

from fastgate.api.openapi import document as control_document
from fastgate.api.reference import _routes
from fastgate.errors import ConfigurationError
from fastgate.model import codec
from fastgate.validation import load as loading
from fastgate.validation.faults import listed
from fastgate.validation.load import load, read

HEAD = 'openapi: "3.1.0"\ninfo: {title: t, version: "1"}\n'
POST = "paths:\n  /x:\n    post:\n"


def control_api() -> dict[str, Any]:
    return control_document(_routes())


def schema_of(text: str) -> str:
    return (
        f"{HEAD}{POST}      requestBody:\n        content:\n          application/json:\n"
        f"            schema: {text}\n"
    )


PARAMETERS = f"{HEAD}{POST}      parameters: "
BODY = f"{HEAD}{POST}      requestBody: "
BEGINS = 'It begins with `openapi: "3.1.0"`, or `openapi: 3.0.3`.'
TYPES = "the type must be string, number, integer, boolean, array, object or null"
ENTRY = "paths./x.post"
FIRST = f"{ENTRY}.parameters[0]"
OTHER = "https://a.example/b.yaml"
OLD = "http://json-schema.org/draft-04/schema#"

FAULTS = [
    # the description; the line and place of its error; what is wrong; how to fix it
    ("", None, "", "a description must be a mapping, not empty", None),
    ("[]", 1, "", "a description must be a mapping, not a list", None),
    (
        "a: [1",
        2,
        "",
        "not valid YAML: did not find expected ',' or ']' while parsing a flow sequence",
        None,
    ),
    ("a: 1\na: 2", 2, "a", "the key 'a' is there twice", "First on line 1."),
    ("info: {}", 1, "", "this is not a description of OpenAPI 3.0 or 3.1", BEGINS),
    (
        '\nswagger: "2.0"',
        2,
        "swagger",
        "this is Swagger 2.0; requests can be validated against OpenAPI 3.0 and 3.1",
        "Convert it, for example with `npx swagger2openapi FILE`.",
    ),
    ("openapi: 4.0", 1, "openapi", "the version '4.0' of OpenAPI is not supported", BEGINS),
    (HEAD, 1, "", "the description has no operations", None),
    (f"{HEAD}paths: {{}}", 3, "paths", "the description has no operations", None),
    (f"{HEAD}paths: []", 3, "paths", "paths must be a mapping, not a list", None),
    (
        f"{HEAD}paths: {{x: {{get: {{}}}}}}",
        3,
        "paths.x",
        "the path 'x' does not begin with '/'",
        None,
    ),
    (
        f"{HEAD}paths: {{/x: {{get: 5}}}}",
        3,
        "paths./x.get",
        "an operation must be a mapping, not a number",
        None,
    ),
    (
        f"{HEAD}paths: {{'/{{a}}/{{a}}': {{get: {{}}}}}}",
        3,
        "paths./{a}/{a}",
        "the path '/{a}/{a}' has a parameter twice",
        None,
    ),
    (
        f"{HEAD}paths:\n  '/{{a}}': {{get: {{}}}}\n  '/{{b}}': {{get: {{}}}}\n",
        5,
        "paths./{b}",
        "GET /{b} is the same operation as GET /{a}",
        "Remove one of them: names of parameters do not make paths different.",
    ),
    (
        f"{HEAD}jsonSchemaDialect: {OLD}\n{POST}",
        3,
        "jsonSchemaDialect",
        f"schemas of {OLD!r} are not supported; JSON Schema 2020-12 is",
        None,
    ),
    (
        f"{HEAD}servers: [{{url: 'https://{{a}}/'}}]\n{POST}",
        3,
        "servers[0]",
        "the server's variable 'a' has no default",
        "Write one.",
    ),
    # parameters
    (
        f"{PARAMETERS}[{{in: query}}]",
        6,
        f"{ENTRY}.parameters[0]",
        "the parameter has no name",
        None,
    ),
    (f"{PARAMETERS}[{{name: a}}]", 6, f"{ENTRY}.parameters[0]", "the parameter has no in", None),
    (
        f"{PARAMETERS}[{{in: body, name: b}}]",
        6,
        f"{ENTRY}.parameters[0].in",
        "in: 'body' is not supported",
        "It is path, query, header or cookie.",
    ),
    (
        f"{PARAMETERS}\n        - {{in: query, name: b}}\n        - {{in: query, name: b}}",
        8,
        f"{ENTRY}.parameters[1]",
        "the query parameter 'b' is there twice",
        "Remove one of them.",
    ),
    (
        f"{PARAMETERS}[{{in: path, name: id, required: true}}]",
        6,
        f"{ENTRY}.parameters[0]",
        "the path '/x' has no parameter {id}",
        "Write it into the path, or remove the parameter.",
    ),
    (
        f"{PARAMETERS}[{{in: query, name: b, style: simple}}]",
        6,
        f"{ENTRY}.parameters[0].style",
        "a query parameter cannot have the style 'simple'",
        "It is form, spaceDelimited, pipeDelimited or deepObject.",
    ),
    # bodies and references
    (f"{BODY}{{}}", 6, f"{ENTRY}.requestBody", "requestBody has no content", None),
    (
        f"{BODY}{{content: {{json: {{}}}}}}",
        6,
        f"{ENTRY}.requestBody.content.json",
        "'json' is not a media type",
        "Write it as in application/json.",
    ),
    (
        f"{BODY}{{$ref: '#/components/B'}}",
        6,
        f"{ENTRY}.requestBody.$ref",
        "'#/components/B' leads nowhere: this file has no '#/components/B'",
        None,
    ),
    (
        f"{BODY}{{$ref: 'other.yaml#/B'}}",
        6,
        f"{ENTRY}.requestBody.$ref",
        "'other.yaml': there is no such file",
        "The path is that of the machine on which the gateway runs.",
    ),
    (
        f"{BODY}{{$ref: '{OTHER}'}}",
        6,
        f"{ENTRY}.requestBody.$ref",
        f"{OTHER!r} is not a file of this machine",
        "Put it into a file beside the description, and refer to that.",
    ),
    (
        f"{BODY}{{$ref: '#anchor'}}",
        6,
        f"{ENTRY}.requestBody.$ref",
        "'#anchor' is an anchor, which is not supported",
        "Write the place, as in '#/components/schemas/Order'.",
    ),
    (
        f"{BODY}{{$ref: '#/paths/~1x/post/requestBody'}}",
        6,
        f"{ENTRY}.requestBody",
        "the references lead in a circle",
        None,
    ),
]

SCHEMAS = [
    # the schema; the place of its error in it; what is wrong; how to fix it
    ("[]", "", "a schema must be a mapping, not a list", None),
    ("{type: strin}", ".type", TYPES, None),
    ("{properties: {a: {type: [string, strin]}}}", ".properties.a.type", TYPES, None),
    ("{pattern: 'a(b'}", ".pattern", "the pattern is not a regular expression", None),
    (
        "{minLength: -1}",
        ".minLength",
        "not a valid schema: -1 is less than the minimum of 0",
        None,
    ),
    ("{required: a}", ".required", 'not a valid schema: "a" is not of type "array"', None),
    ("{allOf: {}}", ".allOf", "allOf must be a list, not a mapping", None),
    ("{properties: []}", ".properties", "properties must be a mapping, not a list", None),
    (
        "{$dynamicRef: '#a'}",
        ".$dynamicRef",
        "$dynamicRef in schemas is not supported",
        "Use `$ref`.",
    ),
    (
        "{$id: 'a'}",
        ".$id",
        "$id inside a file is not supported",
        "Leave it out: references are places in files.",
    ),
    (
        f"{{$schema: '{OLD}'}}",
        ".$schema",
        f"the schema is of {OLD!r}; only JSON Schema 2020-12 is supported",
        "Convert it, or leave out $schema if it is valid for 2020-12, too.",
    ),
    (
        "{oneOf: [{}], discriminator: {}}",
        ".discriminator",
        "discriminator has no propertyName",
        None,
    ),
]


@pytest.mark.parametrize(("text", "line", "place", "message", "hint"), FAULTS)
def test_a_description_that_cannot_be_used(
    tmp_path: Path, text: str, line: int | None, place: str, message: str, hint: str | None
) -> None:
    path = written(tmp_path, text, "openapi.yaml")
    error = refused(path)
    assert (error.file, error.line, error.path) == (str(path), line, place)
    assert (error.message, error.hint) == (message, hint)


@pytest.mark.parametrize(("schema", "place", "message", "hint"), SCHEMAS)
def test_a_schema_that_cannot_be_used(
    tmp_path: Path, schema: str, place: str, message: str, hint: str | None
) -> None:
    error = refused(written(tmp_path, schema_of(schema), "openapi.yaml"))
    where = f"{ENTRY}.requestBody.content.application/json.schema{place}"
    assert (error.line, error.path) == (9, where)
    assert (error.message, error.hint) == (message, hint)


def test_every_operation_with_an_error_is_reported(tmp_path: Path) -> None:
    wrong = operation({"in": "nowhere", "name": "a"})
    paths = {f"/{number}": {"get": wrong, "put": wrong} for number in range(15)}
    error = refused(written(tmp_path, document(paths)))
    assert len(list(error)) == 20
    assert {one.path for one in error} >= {
        "paths./0.get.parameters[0].in",
        "paths./0.put.parameters[0].in",
    }
    schemas = {f"S{number}": {"type": "x"} for number in range(3)}
    uses = {
        f"/{name}": {"post": operation(body={"$ref": f"#/components/schemas/{name}"})}
        for name in schemas
    }
    error = refused(written(tmp_path, document(uses, components={"schemas": schemas})))
    assert {one.path for one in error} == {f"components.schemas.{name}.type" for name in schemas}


def test_an_error_in_another_file_is_placed_there(tmp_path: Path) -> None:
    other = written(tmp_path, "A:\n  type: object\n  properties:\n    b: {type: no}\n", "o.yaml")
    data = document({"/x": {"post": operation(body={"$ref": "o.yaml#/A"})}})
    error = refused(written(tmp_path, data))
    assert str(error).startswith(f"{other}:4: A.properties.b.type: the type must be ")
    other.write_text("A: [")
    error = refused(written(tmp_path, data))
    assert str(error).startswith(f"{other}:2: not valid YAML: ")


@pytest.mark.parametrize("kind", ["missing", "folder", "not UTF-8", "large"])
def test_files_that_cannot_be_read(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    path = tmp_path / "openapi.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\xff" * 100)
    if kind == "large":
        monkeypatch.setattr("fastgate.validation.source.MOST", 50)
    said = {
        "missing": "there is no such file",
        "folder": "cannot be read: Is a directory",
        "not UTF-8": "is not UTF-8: invalid start byte",
        "large": "is larger than 0 MiB",
    }
    gateway = codec.decode(
        {
            "version": 1,
            "policies": [{"name": "p", "validate": str(path)}],
            "routes": [{"name": "r", "path": "/", "respond": 200, "validate": str(path)}],
        }
    )
    with pytest.raises(ConfigurationError) as caught:
        load(gateway)
    assert caught.value.path == "routes[0].validate.openapi"
    assert caught.value.message == f"{path} {said[kind]}"


def test_a_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    path = written(tmp_path, document({"/x": {"get": operation()}}))
    monkeypatch.setitem(__import__("sys").modules, "fastgate.validation.checks", None)
    error = refused(path)
    assert "validation needs the package jsonschema-rs" in str(error)
    assert error.hint == "pip install 'fastgate[validation]'."


# ---- what can be used -------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.0.0", "3.0.3", "3.1.0", "3.1.1", "3.2.0", "3.0.0-rc1"])
def test_versions(tmp_path: Path, version: str) -> None:
    check = checker(tmp_path, document({"/x": {"get": operation()}}, version))
    assert check("GET", "/x") == []


def test_yaml_and_json_mean_the_same(tmp_path: Path) -> None:
    yaml = written(
        tmp_path,
        f"{HEAD}{POST}      responses: {{200: {{}}}}\n      requestBody: &b\n"
        "        content: {application/json: {schema: {const: 2026-01-31}}}\n"
        "    put: {requestBody: *b}\n",
        "openapi.yaml",
    )
    body = {"content": {"application/json": {"schema": {"const": "2026-01-31"}}}}
    item = {"post": {"requestBody": body, "responses": {"200": {}}}, "put": {"requestBody": body}}
    assert read(str(yaml)).text == read(str(written(tmp_path, document({"/x": item})))).text


@pytest.mark.parametrize(
    ("servers", "path"),
    [
        (None, "/x"),
        ([], "/x"),
        ([{"url": "https://api.example.com"}], "/x"),
        ([{"url": "https://api.example.com/v1/"}], "/v1/x"),
        ([{"url": "/v1"}], "/v1/x"),
        ([{"url": "/"}], "/x"),
        ([{"url": "https://a/v1"}, {"url": "https://b/v2"}], "/v2/x"),
        (
            [{"url": "https://a/{base}", "variables": {"base": {"default": "v3", "enum": ["v3"]}}}],
            "/v3/x",
        ),
    ],
)
def test_servers(tmp_path: Path, servers: Any, path: str) -> None:
    more = {} if servers is None else {"servers": servers}
    check = checker(tmp_path, document({"/x": {"get": operation()}}, **more))
    assert check("GET", path) == []
    assert check("GET", f"/other{path}") == [{"detail": "The API's description has no such path"}]


def test_servers_of_a_path_and_an_operation(tmp_path: Path) -> None:
    item = {
        "servers": [{"url": "/p"}],
        "get": operation(),
        "put": operation(servers=[{"url": "/o"}]),
    }
    data = document({"/x": item, "/y": {"get": operation()}}, servers=[{"url": "/v1"}])
    check = checker(tmp_path, data)
    assert check("GET", "/p/x") == []
    assert check("PUT", "/o/x") == []
    assert check("GET", "/v1/y") == []
    assert check("GET", "/v1/x") != []


def test_the_prefix_of_the_configuration(tmp_path: Path) -> None:
    data = document({"/x": {"get": operation()}}, servers=[{"url": "/v1"}])
    check = checker(tmp_path, data, prefix="/shop")
    assert check("GET", "/shop/x") == []
    assert check("GET", "/v1/x") != []


def test_equal_paths_with_different_methods_are_one(tmp_path: Path) -> None:
    parameter = {"in": "path", "name": "b", "required": True, "schema": {"type": "integer"}}
    data = document({"/a/{a}": {"get": operation()}, "/a/{b}": {"put": operation(parameter)}})
    check = checker(tmp_path, data)
    assert check("GET", "/a/x") == []
    assert check("PUT", "/a/x") == [
        {"in": "path", "parameter": "a", "detail": "must be an integer, not a text"}
    ]


def test_methods(tmp_path: Path) -> None:
    number = {"in": "query", "name": "n", "schema": {"type": "integer"}}
    data = document({"/x": {"get": operation(number), "purge": {}, "summary": "s", "x-y": 1}})
    check = checker(tmp_path, data)
    # A HEAD is a GET without its answer's body, unless the description says otherwise.
    assert check("HEAD", "/x?n=1") == []
    assert check("HEAD", "/x?n=a") != []
    assert check("POST", "/x") == [
        {"detail": "The API's description has no such method for this path; it has GET"}
    ]
    data["paths"]["/x"]["head"] = operation()
    data["paths"]["/x"]["additionalOperations"] = {"PURGE": operation()}
    check = checker(tmp_path, data)
    assert check("HEAD", "/x?n=a") == []
    assert check("PURGE", "/x") == []


def test_unknown_operations_may_pass(tmp_path: Path) -> None:
    check = checker(tmp_path, document({"/x": {"get": operation()}}), unknown="pass")
    assert check("GET", "/y", b"anything") == []
    assert check("DELETE", "/x") == []
    assert check("GET", "/x", b"anything") != []


def test_the_description_of_the_control_api(tmp_path: Path) -> None:
    """A large one that nobody wrote for this."""
    data = control_api()
    check = checker(tmp_path, data)
    assert len(check.description.text) > 50_000
    for path, item in data["paths"].items():
        assert check("BREW", path.replace("{", "").replace("}", "")) == [
            {
                "detail": "The API's description has no such method for this path; it has "
                + listed(sorted(method.upper() for method in item))
            }
        ]
    assert check("GET", "/v1/requests?limit=0") == [
        {"in": "query", "parameter": "limit", "detail": "must be at least 1"}
    ]


# ---- reading again ----------------------------------------------------------------------


def test_a_description_is_read_again_only_if_a_file_has_changed(
    tmp_path: Path, monkeypatch: Any
) -> None:
    part = written(tmp_path, "A: {type: string}", "part.yaml")
    data = document({"/x": {"post": operation(body={"$ref": "part.yaml#/A"})}})
    path = written(tmp_path, data)
    gateway = codec.decode(
        {"version": 1, "policies": [{"name": "p", "validate": {"openapi": str(path)}}]}
    )
    first = load(gateway)
    count = 0

    def counted(path: str) -> Any:
        nonlocal count
        count += 1
        return read(path)

    monkeypatch.setattr(loading, "read", counted)
    second = load(gateway, first)
    assert (second, count) == (first, 0)
    part.write_text("A: {type: integer}")
    os.utime(part, ns=(1, 1))
    third = load(gateway, second)
    assert count == 1
    assert third[str(path)].text != first[str(path)].text
    part.unlink()
    with pytest.raises(ConfigurationError):
        load(gateway, third)
