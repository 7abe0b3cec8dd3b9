"""The OpenAPI 3.1 document, generated from the declarations at the handlers (`describe.spec`).

Structs of the API are described by msgspec, resources of the configuration by the same schema
that editors use, so the document cannot say other than what is decoded. Made when first asked
for, and kept as bytes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_origin

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

import fastgate
from fastgate.api.idempotent import WRITES
from fastgate.api.problems import MEDIA_TYPE, PROBLEMS, Fault
from fastgate.api.roles import NEEDS
from fastgate.model.base import Model
from fastgate.model.schema import json_schema

REFERENCE = "#/components/schemas/"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SUCCESS = {200: "Done.", 201: "Created.", 202: "Accepted.", 204: "Done; there is no body."}
_DESCRIPTION = """\
The control API of a FastGate gateway.

Authenticate with `Authorization: Bearer TOKEN`. The first admin token is in the file
`admin-token` of the gateway's state directory. Errors are problem+json (RFC 9457) with a stable
`reason`. Lists give `next`, the cursor of the next page. Writes accept `Idempotency-Key`;
PUT and PATCH of existing resources need `If-Match` with the ETag that was read, or `*`.
"""


class Operation(msgspec.Struct, frozen=True):
    """One method of one path."""

    path: str
    method: str
    handler: Any
    path_names: tuple[str, ...]


def operations(routes: Iterable[Any]) -> Iterator[Operation]:
    """Every declared operation, by path and method."""
    found = [
        Operation(route.path_format, method, handler, tuple(route.path_parameters))
        for route in routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "permission" in handler.opt  # not the framework's own answers to OPTIONS
        for method in handler.http_methods
    ]
    yield from sorted(found, key=lambda one: (one.path, METHODS.index(one.method)))


def document(routes: Iterable[Any]) -> dict[str, Any]:
    """The document as plain data."""
    found = [one for one in operations(routes) if one.handler.opt.get("media") != "text/html"]
    schemas = _schemas(found)
    paths: dict[str, dict[str, Any]] = {}
    for one in found:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FastGate control API",
            "version": fastgate.__version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": _problem_response()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A control token."}
            },
        },
    }


# ---- schemas ----------------------------------------------------------------------------


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)


def _types(found: list[Operation]) -> list[Any]:
    kinds: list[Any] = [Fault]
    for one in found:
        kinds += [kind for kind in (one.handler.opt["body"], one.handler.opt["answer"]) if kind]
    return kinds


def _own(kinds: list[Any]) -> list[Any]:
    """The types that msgspec describes: not the configuration's, and not pages of those."""
    return [
        kind
        for kind in kinds
        if not _is_model(kind)
        and kind is not str
        and not (get_origin(kind) is not None and any(map(_is_model, _arguments(kind))))
    ]


def _arguments(kind: Any) -> tuple[Any, ...]:
    return tuple(getattr(kind, "__args__", ()))


def _schemas(found: list[Operation]) -> dict[str, Any]:
    kinds = _types(found)
    _, components = msgspec.json.schema_components(_own(kinds), ref_template=REFERENCE + "{name}")
    schemas: dict[str, Any] = {_name(name): part for name, part in components.items()}
    models = {part for kind in kinds for part in (kind, *_arguments(kind)) if _is_model(part)}
    for model in models:
        for name, part in json_schema(model)["$defs"].items():
            if name in schemas and schemas[name] != _relocated(part):
                raise AssertionError(f"two schemas are named {name}")
            schemas[name] = _relocated(part)
    schemas["Problem"] = _problem_schema()
    renamed: dict[str, Any] = _relocated(schemas)
    return dict(sorted(renamed.items()))


def _name(name: str) -> str:
    """ "Page[Account]" → "Page_Account", as component names may be."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_")


def _relocated(data: Any) -> Any:
    """References moved to the components, with names that components may have."""
    if isinstance(data, dict):
        return {
            key: REFERENCE + _name(value.rpartition("/")[2])
            if key == "$ref" and isinstance(value, str)
            else _relocated(value)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [_relocated(one) for one in data]
    return data


def _schema_of(kind: Any) -> dict[str, Any]:
    if _is_model(kind):
        return {"$ref": REFERENCE + kind.__name__}
    if any(map(_is_model, _arguments(kind))):  # a page of resources
        (item,) = _arguments(kind)
        return {
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": _schema_of(item)},
                "next": {"type": ["string", "null"]},
            },
            "required": ["items", "next"],
        }
    if kind is str:
        return {"type": "string"}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFERENCE + "{name}")
    relocated: dict[str, Any] = _relocated(schema)
    return relocated


def _problem_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "An error: RFC 9457 problem details.",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "reason": {"type": "string", "enum": sorted(PROBLEMS)},
            "errors": {"type": "array", "items": {"$ref": REFERENCE + "Fault"}},
        },
        "required": ["type", "title", "status", "detail", "reason"],
    }


def _problem_response() -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE + "Problem"}}}
    return {"description": "An error.", "content": content}


# ---- operations -------------------------------------------------------------------------


def _operation(one: Operation) -> dict[str, Any]:
    handler: HTTPRouteHandler = one.handler
    opt = handler.opt
    text = inspect.cleandoc(handler.fn.__doc__ or "")
    summary = handler.summary or _first(" ".join(text.split()))
    need = NEEDS[opt["permission"]]
    role = f"Role: `{need}`." if need else "Open to anyone who can connect."
    parameters = [*_parameters(one), *_headers(one)]
    made: dict[str, Any] = {
        "operationId": handler.name or handler.fn.__name__,
        "tags": [_tag(one.path)],
        "summary": summary.rstrip(".;:"),
        "description": f"{text}\n\n{role}".strip(),
        "responses": _responses(one),
    }
    if need is None:
        made["security"] = []
    elif opt["permission"] == "metrics":
        made["security"] = [{}, {"token": []}]  # as control.metrics_open says
    if parameters:
        made["parameters"] = parameters
    if opt["body"] is not None:
        made["requestBody"] = _body(one)
    return made


def _first(text: str) -> str:
    """The first clause of a text, outside of brackets."""
    for end in re.finditer(r"(?<=[.;:])\s", text):
        clause = text[: end.start()]
        if clause.count("(") == clause.count(")"):
            return clause
    return text


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and not part.startswith("{")]
    if parts[0] != "v1":
        return "health"
    return "credentials" if "credentials" in parts else parts[1]


def _body(one: Operation) -> dict[str, Any]:
    schema = {"schema": _schema_of(one.handler.opt["body"])}
    content = {"application/json": schema}
    if one.path == "/v1/config":
        content |= {"application/yaml": schema, "application/toml": schema}
    if one.method == "PATCH":
        content["application/merge-patch+json"] = schema
    optional = one.path.endswith(("/credentials", "/rotate"))
    return {"required": not optional, "content": content}


def _parameters(one: Operation) -> Iterator[dict[str, Any]]:
    for name, field in one.handler.parsed_fn_signature.parameters.items():
        if name in ("ctx", "request"):
            continue
        in_path = name in one.path_names
        meta = field.kwarg_definition
        schema = _schema_of(field.annotation)
        for ours, theirs in (("ge", "minimum"), ("le", "maximum")):
            if (bound := getattr(meta, ours, None)) is not None:
                schema[theirs] = bound
        made = {
            "name": name,
            "in": "path" if in_path else "query",
            "required": in_path,
            "schema": schema,
        }
        if not in_path and field.has_default and field.default is not None:
            schema["default"] = field.default
        if words := getattr(meta, "description", None) or _WORDS.get(name):
            made["description"] = words
        yield made


_WORDS = {
    "cursor": "Where to continue: `next` of the page before.",
    "dry_run": "Validate, compile and compare, and apply nothing.",
    "ident": "Its id, or its name where it has one.",
    "name": "The resource's name.",
    "number": "The revision's number.",
    "against": "The revision to compare with; 0: the empty document. Default: the one before.",
    "credential": "The credential's id.",
    "consumer": "The consumer's id or name.",
    "route": "Only this route.",
    "account": "Only consumers of this account, by id or name.",
    "plan": "Only consumers on this plan.",
}


def _headers(one: Operation) -> Iterator[dict[str, Any]]:
    opt = one.handler.opt
    if opt["match"]:
        yield {
            "name": "If-Match",
            "in": "header",
            # Needed only for what exists: a PUT may also create.
            "required": opt["match"] == "required" and one.method != "PUT",
            "schema": {"type": "string"},
            "description": "The ETag that was read, or *.",
        }
    if one.method in WRITES and opt["idempotent"]:
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            "description": "If a write is sent again with the same key, it gets the same answer "
            "and is not repeated.",
        }


def _responses(one: Operation) -> dict[str, Any]:
    opt = one.handler.opt
    content: dict[str, Any] = {}
    if opt["answer"] is not None:
        content[opt["media"]] = {"schema": _schema_of(opt["answer"])}
        content |= {media: _TEXT for media in opt["also"] if isinstance(media, str)}
    found: dict[str, Any] = {}
    for status in sorted({opt["status"], *(one for one in opt["also"] if isinstance(one, int))}):
        success = found[str(status)] = {"description": SUCCESS[status]}
        if content:
            success["content"] = content
        if opt["etag"]:
            success["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return {**found, "default": {"$ref": "#/components/responses/Problem"}}


_TEXT = {"schema": {"type": "string"}}
