"""The errors of whole requests: how many, in which form, without values; validators that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from validationkit import JSON, View, checker, document, operation, schema_checker

from fastgate.validation import validator as module
from fastgate.validation.faults import Fault, Faults, pointer_of
from fastgate.validation.load import read
from fastgate.validation.validator import Validator

INTEGERS = {"type": "array", "items": {"type": "integer"}}


def faults_of(check: Any, value: Any) -> Faults:
    faults = check.validator(View("POST", "/x", json.dumps(value).encode(), JSON))
    assert faults is not None
    return faults


def test_ten_errors_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    check = schema_checker(tmp_path, INTEGERS)
    for count in (1, 9, 10, 11, 500):
        faults = faults_of(check, ["a"] * count)
        listed = json.loads(faults.rendered("json")[1])
        assert [one["pointer"] for one in listed] == [f"/{i}" for i in range(min(count, 10))]
        assert faults.rendered("json")[2] == count
    assert faults_of(check, ["a"] * 1999).count == 1000  # no more are counted


def test_only_the_first_error_of_a_large_body_is_looked_for(tmp_path: Path) -> None:
    """To find one takes 20 µs; a body of ten million bytes can have millions."""
    check = schema_checker(tmp_path, INTEGERS)
    faults = faults_of(check, [1] * 100_000 + ["a"] * 2)
    assert (faults.count, [one.pointer for one in faults.listed]) == (1, ["/100000"])
    assert check.body([1] * 100_000) == []


def test_errors_of_parameters_and_body_are_together(tmp_path: Path) -> None:
    parameters = [
        {"in": "query", "name": "n", "schema": {"type": "integer"}, "required": True},
        {"in": "query", "name": "t", "schema": {"type": "integer"}},
        {"in": "header", "name": "X-A", "schema": {"type": "boolean"}, "required": True},
    ]
    body = {"type": "object", "required": ["a"]}
    check = checker(tmp_path, document({"/x": {"post": operation(*parameters, body=body)}}))
    found = check("POST", "/x?t=1&t=2", b"{}", JSON, x_a="no")
    by_name = {one.get("parameter") or one["pointer"]: one["detail"] for one in found}
    assert by_name == {
        "n": "is required",
        "t": "must be there only once",
        "X-A": "must be true or false, not a text",
        "/a": "is required",
    }
    # One error for each: a body that cannot be read is not also missing.
    found = check("POST", "/x?n=1", b"{", JSON, x_a="true")
    assert [one["detail"] for one in found] == [
        "is not valid JSON: Expecting property name enclosed in double quotes (line 1, column 2)"
    ]
    found = check("POST", "/x?n=1&n=2", b"{}", JSON, x_a="true")
    assert [one.get("parameter", "body") for one in found] == ["n", "body"]


SECRET = "s3cret-value"


def test_no_value_of_the_client_is_shown(tmp_path: Path) -> None:
    """Whatever the schema, and wherever the value is."""
    schemas: list[Any] = [
        {"type": "integer"}, {"enum": ["a"]}, {"const": "a"}, {"maxLength": 1}, {"pattern": "^a$"},
        {"format": "uuid"}, {"not": {}}, {"anyOf": [{"type": "null"}, {"maxLength": 2}]},
        {"oneOf": [{}, {"type": "string"}]}, False, {"format": "byte"},
    ]  # fmt: skip
    for schema in schemas:
        parameters = [
            {"in": place, "name": "p", "schema": schema, "required": True}
            for place in ("query", "header", "cookie", "path")
        ]
        body = {"properties": {"p": schema}, "items": schema}
        paths = {"/x/{p}": {"post": operation(*parameters, body=body)}}
        check = checker(tmp_path, document(paths))
        for value in ({"p": SECRET}, [SECRET, SECRET]):
            view = View(
                "POST", f"/x/{SECRET}?p={SECRET}", json.dumps(value).encode(), JSON,
                p=SECRET, cookie=f"p={SECRET}",
            )  # fmt: skip
            faults = check.validator(view)
            assert faults is not None
            assert faults.count >= 5
            for form in ("json", "markdown", "html"):
                first, listed, _ = faults.rendered(form)
                assert SECRET.encode() not in first + listed
    check = schema_checker(tmp_path, {})
    for body in (f'"{SECRET}', f'{{"a":"{SECRET}","a":1}}', f'["{SECRET}",]'):
        assert SECRET not in str(check.body(body.encode()))
        assert SECRET not in str(check.body(body.encode(), f"text/{SECRET}"))


# ---- forms ------------------------------------------------------------------------------

FAULTS = Faults(
    [
        Fault("must be <b>", pointer='/a"b/<i>/*c*/\x01'),
        Fault("is required", place="query", name="x_y"),
        Fault("must be an object", pointer=""),
        Fault("The API's description has no such path"),
    ],
    7,
)


def test_errors_for_programs() -> None:
    first, listed, count = FAULTS.rendered("json")
    assert json.loads(b'"%b"' % first) == "In the body, '/a\"b/<i>/*c*/ ' must be <b>."
    assert json.loads(listed) == [
        {"pointer": '/a"b/<i>/*c*/\x01', "detail": "must be <b>"},
        {"in": "query", "parameter": "x_y", "detail": "is required"},
        {"pointer": "", "detail": "must be an object"},
        {"detail": "The API's description has no such path"},
    ]
    assert count == 7


def test_errors_for_people_and_agents() -> None:
    first, listed, _ = FAULTS.rendered("html")
    assert first == b"In the body, &#x27;/a&quot;b/&lt;i&gt;/*c*/ &#x27; must be &lt;b&gt;."
    assert listed == (
        b"<ul><li>%b</li><li>The query parameter &#x27;x_y&#x27; is required.</li>"
        b"<li>The body must be an object.</li><li>The API&#x27;s description has no such path.</li>"
        b"<li>and 3 more</li></ul>" % first
    )
    first, listed, _ = FAULTS.rendered("markdown")
    assert first == rb"""In the body, '/a"b/\<i\>/\*c\*/ ' must be \<b\>."""
    assert listed == (
        b"\n  - %b\n  - The query parameter 'x\\_y' is required.\n  - The body must be an object."
        b"\n  - The API's description has no such path.\n  - and 3 more" % first
    )


@pytest.mark.parametrize("form", ["json", "markdown", "html"])
@pytest.mark.parametrize("text", ["x", "<", '"', "\x01", "\u00e4", "\U0001f600", "_"])
def test_a_refusal_has_room_for_the_errors_whatever_is_in_them(form: Any, text: str) -> None:
    faults = Faults([Fault(text * 5000, pointer=pointer_of([text * 5000])) for _ in range(10)])
    first, listed, count = faults.rendered(form)
    assert 0 < len(first) <= 500
    assert 500 < len(listed) <= 8192
    assert count == 10
    if form == "json":
        assert 1 <= len(json.loads(listed)) <= 10


def test_a_pointer_has_a_length() -> None:
    assert pointer_of(["a/b", 0, "~"]) == "/a~1b/0/~0"
    assert len(pointer_of(["a" * 500, "b"])) == 256


# ---- validators -------------------------------------------------------------------------


def test_a_reload_that_changes_nothing_keeps_the_validator(tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document({"/x": {"get": operation()}})))
    text = f"{{}}\n{read(str(path)).text}"
    first = Validator(text)
    assert Validator(str(text)) is first
    assert Validator(f'{{"unknown":"pass"}}{text[2:]}') is not first
    known = len(module._known)
    del first
    assert len(module._known) < known  # what no configuration uses is not kept


def test_nothing_is_compiled_before_it_is_used(tmp_path: Path, monkeypatch: Any) -> None:
    paths = {f"/{name}": {"post": operation(body=INTEGERS)} for name in "abc"}
    check = checker(tmp_path, document(paths))
    compiled: list[Any] = []
    whole = module.compiled
    monkeypatch.setattr(module, "compiled", lambda schema: compiled.append(1) or whole(schema))
    for _ in range(2):
        assert check("POST", "/a", b"[]", JSON) == []
        assert check("POST", "/b", b"[]", JSON) == []
    assert len(compiled) == 2


def test_a_request_that_is_not_valid_never_passes_for_lack_of_words(
    tmp_path: Path, monkeypatch: Any
) -> None:
    check = schema_checker(tmp_path, INTEGERS)
    monkeypatch.setattr(module, "faults_of", lambda errors, schema: iter(()))
    assert check.body("a") == [("", "The request is not valid")]


def test_only_some_spellings_of_a_media_type_are_remembered(tmp_path: Path) -> None:
    check = schema_checker(tmp_path, {"type": "integer"})
    for number in range(100):
        assert check.body(1, f"application/json; a={number}") == []
        assert check.body("x", f"application/json; a={number}") != []
    (prepared,) = check.validator._prepared.values()
    assert len(prepared.media) == 32
