"""The JSON Schema: what decodes is valid, and what is not said there is refused there too."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from regress import Regex
from test_codec import DOCUMENT

from fastgate.config import documents
from fastgate.model.base import PATTERNS
from fastgate.model.codec import decode, encode
from fastgate.model.schema import json_schema
from fastgate.model.values import Value

SCHEMA = json_schema()
EXAMPLES = Path(__file__).parents[2] / "examples"
TYPES: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
    "array": list, "object": dict,
}  # fmt: skip
KNOWN = {
    "$schema", "$ref", "$defs", "title", "description", "default", "examples", "type", "enum",
    "anyOf", "items", "properties", "patternProperties", "propertyNames", "required",
    "additionalProperties", "pattern", "minimum", "maximum", "minItems", "maxItems", "minLength",
    "maxLength",
}  # fmt: skip


def valid(schema: Any, value: Any) -> bool:
    """A validator for the keywords that are used, and no others."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema and not valid(SCHEMA["$defs"][schema["$ref"][8:]], value):
        return False
    if "anyOf" in schema and not any(valid(one, value) for one in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or type(value) is not bool)
        for kind in kinds
    ):
        return False
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value):
            return False
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30)
    if isinstance(value, int | float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30):
            return False
        return all(valid(schema.get("items", {}), item) for item in value)
    if isinstance(value, dict):
        return _valid_object(schema, value)
    return True


def _valid_object(schema: Any, value: dict[str, Any]) -> bool:
    if any(name not in value for name in schema.get("required", [])):
        return False
    for key, inner in value.items():
        if not valid(schema.get("propertyNames", {}), key):
            return False
        if key in schema.get("properties", {}):
            below = schema["properties"][key]
        else:
            patterns = schema.get("patternProperties", {})
            matching = [one for pattern, one in patterns.items() if re.search(pattern, key)]
            below = matching[0] if matching else schema.get("additionalProperties", {})
        if below is False or (below is not True and not valid(below, inner)):
            return False
    return True


def test_what_decodes_is_valid_in_short_and_in_canonical_form() -> None:
    assert valid(SCHEMA, DOCUMENT)
    assert valid(SCHEMA, encode(decode(DOCUMENT)))


@pytest.mark.parametrize(
    ("listener", "good"),
    [
        ({"tls": True}, True),
        ({"tls": {"min": 1.2, "hsts": "180d", "client": "partners"}}, True),
        ({"tls": {"min": "1.3", "hsts": {"max_age": "1d"}, "client": ["a", "b"]}}, True),
        ({"redirect": "https", "https_port": 8443}, True),
        ({"tls": {"min": "1.1"}}, False),
        ({"tls": {"certificate": "a"}}, False),
        ({"redirect": "http"}, False),
    ],
)
def test_listeners_with_tls(listener: dict[str, Any], good: bool) -> None:
    document = {"version": 1, "listeners": [{"bind": ":443", **listener}]}
    assert valid(SCHEMA, document) is good
    if good:
        assert valid(SCHEMA, encode(decode(document)))


@pytest.mark.parametrize(
    ("auth", "good"),
    [
        ("basic", True),
        ({"jwt": "corp"}, True),
        ({"jwt": ["corp", "other"], "scopes": "a"}, True),
        ({"jwt": {"issuer": "corp", "scopes": {"GET": "a", "*": ["b"]}}}, True),
        ({"any": ["api_key", {"mtls": "partners"}], "anonymous": "guest"}, True),
        ({"any": ["none"]}, False),
        ({"jwt": 5}, False),
        ({"jwt": "corp", "scopes": [5]}, False),
        ({"jwt": "corp", "scopes": {"GET": 5}}, False),
        ({"oauth": {}}, False),
    ],
)
def test_authentication(auth: Any, good: bool) -> None:
    document = {"version": 1, "routes": [{"name": "r", "path": "/", "respond": 204, "auth": auth}]}
    assert valid(SCHEMA, document) is good
    if good:
        assert valid(SCHEMA, encode(decode(document)))


def test_issuers_and_what_their_subjects_are() -> None:
    issuer = {
        "name": "corp",
        "issuer": "https://id.example.com",
        "consumer": ["a", "b.c"],
        "scopes": [["realm_access", "roles"], "scope"],
        "headers": {"X-Email": "email", "X-Tier": ["https://a.b"]},
        "plan": "free",
    }
    consumer = {"name": "a", "subjects": {"corp": "x", "other": ["y", "z"]}}
    document = {"version": 1, "issuers": [issuer], "consumers": [consumer]}
    assert valid(SCHEMA, document)
    assert valid(SCHEMA, encode(decode(document)))
    issuer["consumer"] = 5
    assert not valid(SCHEMA, document)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*ml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert valid(SCHEMA, documents.parse(path.read_text(), documents.format_of(path.name)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["routes", 0, "pth"], "/x"),
        (["routes", 0, "path"], 5),
        (["routes", 0, "name"], "a b"),
        (["routes", 0, "websocket"], "yes"),
        (["routes", 0, "limits", "rate"], None),
        (["routes", 0, "auth"], "jwt"),
        (["upstreams", 0, "balance"], "random"),
        (["upstreams", 0, "targets"], []),
        (["services", 0, "retries", "attempts"], 99),
        (["version"], 2),
        (["workers"], "all"),
        (["control"], 8081),
        (["nothing"], 1),
    ],
)
def test_what_is_wrong_is_invalid(place: list[Any], value: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    at: Any = document
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    assert not valid(SCHEMA, document)


def test_editors_get_descriptions_and_defaults() -> None:
    route = SCHEMA["$defs"]["Route"]
    assert route["required"] == ["name"]
    assert route["anyOf"] == [{"required": ["path"]}, {"required": ["paths"]}]
    assert all(one["description"] for one in route["properties"].values())
    assert SCHEMA["$defs"]["Caps"]["properties"]["head"]["default"] == "16KiB"


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "pattern":
                yield value
            elif key == "patternProperties":
                yield from value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for one in schema:
            yield from _patterns(one)


@pytest.mark.parametrize("pattern", sorted(set(_patterns(SCHEMA))))
def test_patterns_are_those_of_ecmascript(pattern: str) -> None:
    """JSON Schema's patterns are ECMAScript's; editors compile them with the flag `u`."""
    Regex(pattern, "u")


def test_every_pattern_of_a_field_has_words() -> None:
    values = {kind.schema().get("pattern") for kind in _values(Value)}
    without = set(_patterns(SCHEMA)) - set(PATTERNS) - values - {"^x-"}
    assert not without, "declare them with `worded`"


def _values(kind: type[Value]) -> Iterator[type[Value]]:
    for one in kind.__subclasses__():
        yield one
        yield from _values(one)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if "$" in p])
def test_no_pattern_takes_a_line_end_after_the_text(pattern: str) -> None:
    """Python's `$` alone would."""
    assert pattern.endswith("$(?!\\n)")
