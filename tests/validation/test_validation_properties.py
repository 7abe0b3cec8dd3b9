"""Whatever a client sends, a validator has an answer, and a refusal has room for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from validationkit import JSON, Checker, View, checker, document, operation

FORM = "application/x-www-form-urlencoded"
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]*$"},
        "count": {"type": "integer", "format": "int32", "multipleOf": 2},
        "when": {"type": "string", "format": "date-time"},
        "children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}},
        "pay": {
            "oneOf": [{"$ref": "#/components/schemas/Card"}, {"type": "array", "minItems": 1}],
            "discriminator": {"propertyName": "kind"},
        },
        "any": {"anyOf": [{"type": "null"}, {"type": "number", "minimum": 0.5}]},
    },
    "additionalProperties": False,
}
CARD = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["Card"]}}}
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}
PARAMETERS = [
    {"in": "path", "name": "id", "required": True, "schema": {"type": "integer"}},
    {"in": "query", "name": "q", "schema": {"type": "array", "items": {"type": "number"}}},
    {"in": "query", "name": "d", "style": "deepObject", "schema": OBJECT},
    {"in": "query", "name": "o", "schema": OBJECT},
    {"in": "query", "name": "p", "explode": False, "schema": OBJECT},
    {"in": "query", "name": "j", "content": {JSON: {"schema": OBJECT}}},
    {"in": "header", "name": "X-H", "schema": {"type": "array", "items": {"type": "integer"}}},
    {"in": "cookie", "name": "c", "schema": {"type": ["integer", "null"]}},
]


@pytest.fixture(scope="module", params=["3.0.3", "3.1.0"])
def check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checker:
    schema = {"$ref": "#/components/schemas/Tree"}
    content = {JSON: {"schema": schema}, FORM: {"schema": schema}, "text/*": {}}
    parameters = [
        {**one, "schema": {"type": "integer", "nullable": True}} if one["name"] == "c" else one
        for one in PARAMETERS
    ]
    item = operation(*(PARAMETERS if request.param == "3.1.0" else parameters))
    item["requestBody"] = {"content": content}
    folder: Path = tmp_path_factory.mktemp("description")
    data = document(
        {"/x/{id}": {"post": item}},
        request.param,
        components={"schemas": {"Tree": TREE, "Card": CARD}},
    )
    return checker(folder, data, unknown_query="refuse", read_only="refuse")


text = st.text(max_size=6)
pieces = st.sampled_from(
    ["q=", "d[a]=", "d[a][", "o", "a=", "b=true", "p=a,1", "j={", '"a":1}', "&", "&", "%", "%ff",
     "1", ",", "]", "[]=", "null", "1e400", "=", "c=", ";", "+", "d[", "\xe9", '"']
)  # fmt: skip
joined = st.lists(pieces | text, max_size=12).map("".join)
data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "count", "when", "children", "pay", "any", "kind"]) | text, one,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
bodies = st.binary(max_size=40) | joined.map(str.encode) | data.map(json.dumps).map(str.encode)
types = st.sampled_from([JSON, FORM, "text/x", "application/json; charset=x", "", None]) | joined


def answered(check: Checker, view: View) -> Any:
    faults = check.validator(view)
    if faults is None:
        return None
    assert faults.count >= len(faults.listed) >= 1
    for form in ("json", "markdown", "html"):
        first, listed, _ = faults.rendered(form)
        assert 0 < len(first) <= 500
        assert 0 < len(listed) <= 8192
    return json.loads(faults.rendered("json")[1])


@settings(max_examples=300)
@given(segment=text, query=joined, body=bodies, kind=types, header=joined, cookie=joined)
def test_there_is_always_an_answer(
    check: Checker,
    segment: str,
    query: str,
    body: bytes,
    kind: str | None,
    header: str,
    cookie: str,
) -> None:
    view = View("POST", f"/x/{segment}?{query}", body, kind, x_h=header, cookie=cookie)
    answered(check, view)


ORACLE = jsonschema_rs.Draft202012Validator(
    {
        "$ref": "#/components/schemas/Tree",
        "components": {
            "schemas": {
                "Tree": {
                    **TREE,
                    "properties": {
                        **TREE["properties"],
                        "count": {
                            "type": "integer",
                            "multipleOf": 2,
                            "minimum": -(2**31),
                            "maximum": 2**31 - 1,
                        },
                    },
                },
                "Card": CARD,
            }
        },
    },
    validate_formats=True,
)
"""The schema as it is written, without a conversion."""


@settings(max_examples=300)
@given(value=data)
def test_a_body_is_judged_as_its_schema_says(check: Checker, value: Any) -> None:
    written = json.dumps(value)
    found = answered(check, View("POST", "/x/1", written.encode(), JSON))
    assert (found is None) == ORACLE.is_valid(json.loads(written))
