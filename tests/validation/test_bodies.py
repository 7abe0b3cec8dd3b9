"""Bodies: media types, JSON, forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from validationkit import JSON, checker, document, operation, schema_checker

from fastgate._core.handlers.json_shape import shape_of

LONG = b"k" * 900
FORM = "application/x-www-form-urlencoded"
ORDER = {
    "type": "object",
    "required": ["sku"],
    "properties": {
        "sku": {"type": "string"},
        "count": {"type": "integer"},
        "gift": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "to": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
    "additionalProperties": False,
}


def media(content: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"content": content, **more}
    return document({"/x": {"post": {"requestBody": body, "responses": {}}}})


# ---- whether there is one ---------------------------------------------------------------


@pytest.mark.parametrize("required", [True, False])
def test_a_body_that_is_missing(tmp_path: Path, required: bool) -> None:
    check = checker(tmp_path, media({JSON: {"schema": ORDER}}, required=required))
    expected = [("", "is required")] if required else []
    assert check.body(b"") == expected
    assert check.body(b"", None) == expected


def test_a_body_where_none_belongs(tmp_path: Path) -> None:
    check = checker(tmp_path, document({"/x": {"post": operation()}}))
    assert check.body(b"") == []
    assert check.body(b"", FORM) == []
    assert check.body(b"{}") == [("", "must be empty for this operation")]


# ---- media types ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", []),
        ("APPLICATION/JSON; Charset=UTF-8", []),
        ('application/json;charset="utf-8"', []),
        (
            "application/json; charset=latin-1",
            [("Content-Type", "must have the charset utf-8, or none")],
        ),
        ("text/plain", [("Content-Type", "must be application/json")]),
        ("application/vnd.a+json", [("Content-Type", "must be application/json")]),
        ("", [("Content-Type", "must be application/json")]),
        (None, [("Content-Type", "is required with a body: it must be application/json")]),
    ],
)
def test_the_media_type(tmp_path: Path, content_type: str | None, expected: list) -> None:
    check = checker(tmp_path, media({JSON: {"schema": ORDER}}))
    assert check.body(b'{"sku":"a"}', content_type) == expected


def test_the_most_exact_media_type_counts(tmp_path: Path) -> None:
    def only(value: str) -> dict[str, Any]:
        return {"schema": {"const": value}}

    check = checker(
        tmp_path,
        media(
            {
                "*/*": {},
                "text/*": {},
                "application/json": only("plain"),
                "application/json; version=2": only("second"),
                "application/vnd.shop+json": only("vendor"),
            }
        ),
    )
    assert check.body("plain", "application/json") == []
    assert check.body("plain", "application/json; version=3") == []
    assert check.body("second", "application/json; version=2") == []
    assert check.body("vendor", "application/vnd.shop+json") == []
    assert check.body(b"anything", "text/csv") == []
    assert check.body(b"\xff\x00", "image/png") == []
    assert check.body(b"\xff\x00", None) == []
    assert check.body("second", "application/json") == [("", "must be 'plain'")]


def test_other_media_types_are_checked_by_their_name_alone(tmp_path: Path) -> None:
    check = checker(
        tmp_path,
        media(
            {
                "multipart/form-data": {"schema": ORDER},
                "text/plain": {"schema": {"type": "string", "maxLength": 1}},
            },
            required=True,
        ),
    )
    assert check.body(b"--x--", "multipart/form-data; boundary=x") == []
    assert check.body(b"more than one", "text/plain") == []
    assert check.body(b"", "text/plain") == [("", "is required")]
    assert check.body(b"{}") == [("Content-Type", "must be multipart/form-data or text/plain")]


@pytest.mark.parametrize(("encoding", "fine"), [("identity", True), ("gzip", False)])
def test_a_body_that_is_compressed_cannot_be_validated(
    tmp_path: Path, encoding: str, fine: bool
) -> None:
    content = {JSON: {"schema": ORDER}, "text/plain": {}}
    check = checker(tmp_path, media(content))
    found = check("POST", "/x", b'{"sku":"a"}', JSON, content_encoding=encoding)
    assert (found == []) == fine
    if not fine:
        assert (found[0]["in"], found[0]["parameter"]) == ("header", "Content-Encoding")
    assert check("POST", "/x", b"a", "text/plain", content_encoding=encoding) == []


# ---- JSON -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"a":1', "is not valid JSON: Expecting ',' delimiter (line 1, column 7)"),
        (b'{"a":1}\n\n x', "is not valid JSON: Extra data (line 3, column 2)"),
        (b"[1,]", "is not valid JSON: Expecting value (line 1, column 4)"),
        (b" ", "is not valid JSON: Expecting value (line 1, column 2)"),
        (b"'a'", "is not valid JSON: Expecting value (line 1, column 1)"),
        (b'"a\nb"', "is not valid JSON: Invalid control character at (line 1, column 3)"),
        (b'{"a":"\xff"}', "must be UTF-8: byte 6 is not"),
        (b"\xef\xbb\xbf{}", "must be JSON without a byte order mark"),
        ('{"a":1}'.encode("utf-16"), "must be UTF-8: byte 0 is not"),
        (b'{"a":1,"a":2}', "has the key 'a' twice in one object"),
        (b'{"b":[{"\\u0061":1,"a":1}]}', "has the key 'a' twice in one object"),
        (b'{"%s":1,"%s":1}' % (LONG, LONG), f"has the key '{'k' * 63}…' twice in one object"),
        (b"[" * 129 + b"]" * 129, "is nested in more than 128 levels"),
        (b"[" * 2000 + b"]" * 2000, "is nested in more than 128 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested in more than 128 levels"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_read(tmp_path: Path, body: bytes, detail: str) -> None:
    assert schema_checker(tmp_path, {}).body(body) == [("", detail)]


@pytest.mark.parametrize("body", [b"NaN", b"[-Infinity]", b"1e999", b'"\\ud800"'])
def test_values_that_are_not_json(tmp_path: Path, body: bytes) -> None:
    ((pointer, detail),) = schema_checker(tmp_path, {}).body(body)
    assert pointer == ""
    assert detail.startswith("is not valid JSON: ")


@pytest.mark.parametrize(
    "body", [b"0", b"[" * 128 + b"]" * 128, b'{"a":{"a":1},"b":[{"a":1},{"a":1}]}', b'{"a:b":":"}']
)
def test_json_that_is_fine(tmp_path: Path, body: bytes) -> None:
    assert schema_checker(tmp_path, {}).body(body) == []


def test_huge_numbers_are_compared(tmp_path: Path) -> None:
    check = schema_checker(tmp_path, {"type": "integer", "maximum": 10})
    assert check.body(b"9" * 300) == [("", "must be at most 10")]
    check = schema_checker(tmp_path, {"type": "integer", "format": "int64"})
    assert check.body(b"9223372036854775807") == []
    assert check.body(b"9223372036854775808") == [("", "must be at most 9223372036854775807")]
    assert check.body(b"-9223372036854775809") == [("", "must be at least -9223372036854775808")]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(max_size=4), one, max_size=4),
    max_leaves=20,
)  # fmt: skip


def shape(value: Any) -> tuple[int, int]:
    """Values and levels, the simple way."""
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return 1, 0
    found = [shape(one) for one in inner]
    return 1 + sum(count for count, _ in found), 1 + max((deep for _, deep in found), default=0)


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_the_shape_of_json(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    assert shape_of(value, text) == (*shape(value), False)


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=1), st.data())
def test_a_key_that_is_there_twice_is_noticed(value: dict[str, int], data: Any) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in key)
    text = f'{json.dumps(value)[:-1]},"{escaped}":0}}'.encode("utf-8", "surrogatepass")
    assert shape_of({**value, key: 0}, text)[2]


# ---- forms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("sku=a", []),
        ("sku=a&count=3&gift=true&tags=x&tags=y", []),
        ("sku=a+b%20c&count=3", []),
        ("count=3", [("/sku", "is required")]),
        ("sku=a&count=x", [("/count", "must be an integer, not a text")]),
        ("sku=a&sku=b", [("/sku", "must be there only once")]),
        ("sku=a&tags=x&tags=y&tags=z", [("/tags", "must have at most 2 items")]),
        ("sku=a&other=1", [("/other", "is not known")]),
        ("sku=a&other=1&other=2", [("/other", "must be there only once")]),
        ('sku=a&to={"city":"b"}', []),
        ("sku=a&to={}", [("/to/city", "is required")]),
        ("sku=a&to=b", [("/to", "must be JSON")]),
        ("sku=%ff", [("", "must be UTF-8, percent-encoded")]),
        ("sku=\u00e4", [("", "must be percent-encoded")]),
    ],
)
def test_forms(tmp_path: Path, body: str, expected: list) -> None:
    check = checker(tmp_path, media({FORM: {"schema": ORDER}}))
    assert check.body(body.encode(), FORM) == expected


def test_the_encoding_of_a_form(tmp_path: Path) -> None:
    encoding = {
        "tags": {"style": "form", "explode": False},
        "to": {"style": "deepObject"},
        "sku": {"contentType": "application/json"},
    }
    check = checker(tmp_path, media({FORM: {"schema": ORDER, "encoding": encoding}}))
    assert check.body(b'sku="a"&tags=x,y&to[city]=b', FORM) == []
    assert check.body(b"sku=5&tags=x,y,z", FORM) == [
        ("/sku", "must be a text, not a number"),
        ("/tags", "must have at most 2 items"),
    ]


def test_a_form_whose_schema_is_referred_to_and_combined(tmp_path: Path) -> None:
    data = media({FORM: {"schema": {"$ref": "#/components/schemas/Both"}}})
    one = {"type": "object", "properties": {"n": {"type": "integer"}}}
    two = {"type": "object", "properties": {"m": {"type": "boolean"}}}
    both = {"allOf": [{"$ref": "#/components/schemas/One"}, two]}
    data["components"] = {"schemas": {"One": one, "Both": both}}
    check = checker(tmp_path, data)
    assert check.body(b"n=1&m=true&o=x", FORM) == []
    assert check.body(b"n=x&m=y", FORM) == [
        ("/n", "must be an integer, not a text"),
        ("/m", "must be true or false, not a text"),
    ]
