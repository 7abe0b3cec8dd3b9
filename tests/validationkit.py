"""Descriptions of APIs for tests, and requests to validate without a gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastgate.errors import ConfigurationError
from fastgate.model.gateway import DescriptionPlace, Validate
from fastgate.model.validation import validator_name
from fastgate.validation.load import Description, read
from fastgate.validation.validator import Validator

JSON = "application/json"


class View:
    """A request, as the core shows it to a validator."""

    def __init__(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        content_type: str | None = None,
        **fields: str,
    ) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.body = body
        self.fields = {name.replace("_", "-").lower(): value for name, value in fields.items()}
        if content_type is not None:
            self.fields["content-type"] = content_type

    def field(self, name: bytes) -> str | None:
        return self.fields.get(name.decode())


def document(paths: dict[str, Any], version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    return {"openapi": version, "info": {"title": "t", "version": "1"}, "paths": paths, **more}


def operation(*parameters: dict[str, Any], body: Any = None, **more: Any) -> dict[str, Any]:
    """An operation with these parameters; `body`: a schema of JSON."""
    built: dict[str, Any] = {"parameters": list(parameters), "responses": {}, **more}
    if body is not None:
        built["requestBody"] = {"content": {JSON: {"schema": body}}}
    return built


def written(folder: Path, data: Any, name: str = "openapi.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data) if isinstance(data, dict) else data)
    return path


class Checker:
    """A validator with the description of a file."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.description: Description = read(str(path))
        place = Validate(openapi=DescriptionPlace.parse(str(path)), **options)
        name = validator_name(place, self.description.text)
        self.validator = Validator(name.partition(" ")[2])

    def __call__(self, *request: Any, **fields: str) -> list[dict[str, str]]:
        """The errors of a request, as a refusal lists them."""
        faults = self.validator(View(*request, **fields))
        return [] if faults is None else json.loads(faults.rendered("json")[1])

    def body(self, value: Any, content_type: str | None = JSON) -> list[tuple[str, str]]:
        """(pointer, detail) of the errors of a body, sent to POST /x."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return [
            (one.get("pointer", one.get("parameter", "")), one["detail"])
            for one in self("POST", "/x", data, content_type)
        ]


def checker(folder: Path, data: Any, **options: Any) -> Checker:
    return Checker(written(folder, data), **options)


def schema_checker(folder: Path, schema: Any, version: str = "3.1.0", **more: Any) -> Checker:
    """A checker of bodies that have this schema."""
    return checker(folder, document({"/x": {"post": operation(body=schema)}}, version, **more))


def refused(path: Path) -> ConfigurationError:
    """The error for a description that cannot be used."""
    try:
        read(str(path))
    except ConfigurationError as error:
        return error
    raise AssertionError("it was accepted")
