"""Descriptions of real APIs: they can be used, workers can compile all of them, and the examples in
them are valid requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from validationkit import Checker, View, refused

from fastgate.config import documents
from fastgate.validation import program
from fastgate.validation.formats import compiled
from fastgate.validation.validator import schema_of

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "openapi"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs ../shared/vectors/openapi")

METHODS = ("get", "post", "put", "patch", "delete")
METHODS_OF = {*METHODS, "head", "options", "trace"}
WRONG = {
    "openapi_customer_disputes_v1.json /action",  # required, and not in the example
    "openapi_customer_disputes_v1.json /note",
    "openapi_invoicing_v2.json /invoicer/website",  # format: uri, without a scheme
}
"""Examples that do not fit their own schemas."""
PLACEHOLDERS = ("spec_yaml_twilio_chat_v1.yaml", "spec_yaml_twilio_ip_messaging_v2.yaml")
"""Descriptions whose examples have names in the place of addresses and methods."""


def files() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(VECTORS.rglob("*.*")):
        if path.suffix in (".json", ".yaml"):
            yield path, documents.parse(path.read_text(), documents.format_of(path.name))


def operations_of(data: dict[str, Any]) -> int:
    return sum(len(METHODS_OF & item.keys()) for item in (data.get("paths") or {}).values())


def usable() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, data in files():
        if "openapi" in data and operations_of(data):
            yield path, data


def test_they_can_be_used() -> None:
    found = 0
    for path, data in files():
        if "swagger" in data:
            assert "Swagger 2.0" in refused(path).message
        elif not operations_of(data):
            assert refused(path).message == "the description has no operations"
        else:
            found += 1
            known = program.decode(Checker(path).description.text)
            operations = sum(len(one.operations) for one in known.paths)
            assert operations == operations_of(data), path
    assert found > 30


def test_workers_can_compile_all_of_them() -> None:
    for path, _ in usable():
        known = program.decode(Checker(path).description.text)
        for one in known.paths:
            for operation in one.operations:
                content = operation.body.content if operation.body else ()
                for media in (None, *content):
                    compiled(program.closed(schema_of(operation, media), known.definitions))


def followed(data: dict[str, Any], value: Any) -> Any:
    while isinstance(value, dict) and "$ref" in value:
        target: Any = data
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        value = target
    return value


def examples(data: dict[str, Any]) -> Iterator[tuple[str, str, str, bytes]]:
    """Method, path, media type, body."""
    for template, item in data["paths"].items():
        for method in METHODS:
            body = followed(data, item.get(method, {}).get("requestBody") or {})
            for kind, media in body.get("content", {}).items():
                named = (followed(data, one) for one in media.get("examples", {}).values())
                values = [media.get("example"), *(one.get("value") for one in named)]
                for value in values:
                    if value is not None and "json" in kind:
                        yield method.upper(), template, kind, json.dumps(value).encode()
                    elif isinstance(value, dict):
                        sent = {name: one for name, one in value.items() if one is not None}
                        text = urlencode(sent, doseq=True)
                        text = text.replace("=True", "=true").replace("=False", "=false")
                        yield method.upper(), template, kind, text.encode()


def test_their_examples_are_valid() -> None:
    wrong, right = set(), 0
    for path, data in usable():
        if path.name in PLACEHOLDERS:
            continue
        check = Checker(path)
        base = program.decode(check.description.text).paths[0].bases[0]
        for method, template, kind, body in examples(data):
            target = base + re.sub(r"\{[^}]*\}", "x", template)
            faults = check.validator(View(method, target, body, kind))
            found = [] if faults is None else [one for one in faults.listed if one.place is None]
            wrong |= {f"{path.name} {one.pointer}" for one in found}
            right += not found
    assert wrong == WRONG
    assert right > 70
