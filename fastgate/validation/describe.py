"""A description of OpenAPI 3 → the program that validates its requests.

    description ─ paths ─ operations ─┬─ parameters ─ schemas ─┐
                                      └─ body ─ media types ───┴─▶ Program

Each operation with an error is reported, up to `MOST_ERRORS`. `checks` has the last word about the
schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from msgspec.structs import replace

from fastgate.errors import ConfigurationError
from fastgate.validation.faults import listed
from fastgate.validation.program import (
    Body,
    Media,
    Operation,
    Parameter,
    Path,
    Place,
    Program,
    Schema,
)
from fastgate.validation.schemas import Schemas
from fastgate.validation.shapes import Shapes
from fastgate.validation.source import Node, Sources

MOST_ERRORS = 20
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace", "query")
_STYLES: dict[str, tuple[str, ...]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form", "cookie"),
}
"""The styles of each place; the first is the default."""
_FRAMING = ("accept", "content-type", "authorization")
"""Header parameters that OpenAPI ignores: other parts of a description are about them."""
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_JSON = re.compile(r"(application|text)/json|[^/]+/[^/]+\+json")
_FORM = "application/x-www-form-urlencoded"


class Described(NamedTuple):
    """A description as it was read."""

    program: Program
    schemas: Schemas
    places: list[tuple[Schema, Node]]
    """The schemas of parameters and bodies, with their places."""


def describe(sources: Sources, path: str) -> Described:
    """The program of the description in this file. Raises ConfigurationError."""
    return _Description(sources, path).described()


class _Description:
    def __init__(self, sources: Sources, path: str) -> None:
        self.sources = sources
        self.root = sources.mapping(sources.open(path), "a description")
        version = self._version()
        self.schemas = Schemas(sources, old=version == "3.0")
        self.shapes = Shapes(self.schemas.definitions)
        self.places: list[tuple[Schema, Node]] = []
        self.errors: list[ConfigurationError] = []

    def _version(self) -> str:
        if "swagger" in self.root.value:
            raise self.sources.fault(
                self.root.below(["swagger"]),
                "this is Swagger 2.0; requests can be validated against OpenAPI 3.0 and 3.1",
                "Convert it, for example with `npx swagger2openapi FILE`.",
            )
        node = self.root.get("openapi")
        version = "" if node is None else str(node.value)
        found = re.fullmatch(r"(3\.[012])(\.\S+)?", version)
        if found is None:
            raise self.sources.fault(
                node or self.root,
                "this is not a description of OpenAPI 3.0 or 3.1"
                if node is None
                else f"the version {version[:20]!r} of OpenAPI is not supported",
                'It begins with `openapi: "3.1.0"`, or `openapi: 3.0.3`.',
            )
        dialect = self.sources.text(self.root, "jsonSchemaDialect")
        if dialect and not re.search(r"draft/2020-12/|spec\.openapis\.org/oas/3\.\d/", dialect):
            raise self.sources.fault(
                self.root.below(["jsonSchemaDialect"]),
                f"schemas of {dialect!r} are not supported; JSON Schema 2020-12 is",
            )
        return found[1]

    def described(self) -> Described:
        root = self.root
        info = root.get("info")
        title = self.sources.text(info, "title") if info and isinstance(info.value, dict) else None
        bases = self._bases(root) or ("",)
        known = tuple(self._credentials())
        found: dict[str, Path] = {}
        paths = root.get("paths")
        entries = [] if paths is None else self.sources.mapping(paths, "paths").entries()
        for template, node in entries:
            path = self._path(template, node, bases, known)
            if path is None:
                continue
            same = re.sub(_VARIABLE, "{}", template)
            other = found.get(same)
            found[same] = path if other is None else self._merged(node, other, path)
        if self.errors:
            self.errors[0].others = tuple(self.errors[1:MOST_ERRORS])
            raise self.errors[0]
        if not any(path.operations for path in found.values()):
            raise self.sources.fault(paths or root, "the description has no operations")
        program = Program(title or "", tuple(found.values()), self.schemas.definitions)
        return Described(program, self.schemas, self.places)

    def _merged(self, node: Node, one: Path, other: Path) -> Path:
        """Two paths that match the same requests, with operations of both."""
        methods = {each.method for each in one.operations}
        twice = next((each.method for each in other.operations if each.method in methods), None)
        if twice is not None:
            self.errors.append(
                self.sources.fault(
                    node,
                    f"{twice} {other.template} is the same operation as {twice} {one.template}",
                    "Remove one of them: names of parameters do not make paths different.",
                )
            )
        if one.template != other.template:
            renamed = dict(zip(_names(other.template), _names(one.template), strict=True))
            other = Path(other.bases, one.template, tuple(_renamed(other, renamed)))
        return Path(one.bases, one.template, (*one.operations, *other.operations))

    # ---- servers and credentials ----------------------------------------------------------

    def _bases(self, owner: Node) -> tuple[str, ...]:
        """What the servers of the description, a path or an operation put before its paths."""
        servers = owner.get("servers")
        if servers is None:
            return ()
        found = []
        for server in self.sources.listed(servers, "servers"):
            self.sources.mapping(server, "a server")
            url = self.sources.text(server, "url") or "/"
            found.append(self._base(server, url))
        return tuple(dict.fromkeys(found))

    def _base(self, server: Node, url: str) -> str:
        variables = server.get("variables")
        for name in _VARIABLE.findall(url):
            default = variables.below([name, "default"]) if variables is not None else None
            if default is None or default.at[-1] != "default":
                raise self.sources.fault(
                    server, f"the server's variable {name!r} has no default", "Write one."
                )
            url = url.replace(f"{{{name}}}", str(default.value))
        try:
            path = urlsplit(url).path
        except ValueError:
            raise self.sources.fault(server.below(["url"]), f"{url!r} is not an address") from None
        return f"/{path.strip('/')}" if path.strip("/") else ""

    def _credentials(self) -> Iterator[str]:
        """Query parameters that hold an API key."""
        schemes = self.root.below(["components", "securitySchemes"])
        if schemes.at[-1:] != ("securitySchemes",) or not isinstance(schemes.value, dict):
            return
        for _, node in schemes.entries():
            scheme = self.sources.followed(node).value
            if isinstance(scheme, dict) and scheme.get("in") == "query" and scheme.get("name"):
                yield str(scheme["name"])

    # ---- paths and operations -------------------------------------------------------------

    def _path(
        self, template: str, node: Node, bases: tuple[str, ...], known: tuple[str, ...]
    ) -> Path | None:
        try:
            item = self.sources.mapping(self.sources.followed(node), "a path")
            if not template.startswith("/"):
                raise self.sources.fault(node, f"the path {template!r} does not begin with '/'")
            names = _names(template)
            if len(set(names)) != len(names):
                raise self.sources.fault(node, f"the path {template!r} has a parameter twice")
            common = self._parameters(item)
            bases = self._bases(item) or bases
        except ConfigurationError as error:
            self.errors.append(error)
            return None
        operations = []
        for method, owner in self._operations(item):
            try:
                if self._bases(owner):
                    bases = tuple(dict.fromkeys((*bases, *self._bases(owner))))
                operations.append(self._operation(method, owner, template, common, known))
            except ConfigurationError as error:
                self.errors.append(error)
        return Path(bases, template, tuple(operations))

    def _operations(self, item: Node) -> Iterator[tuple[str, Node]]:
        for method in _METHODS:
            if (owner := item.get(method)) is not None:
                yield method.upper(), owner
        more = item.get("additionalOperations")  # of OpenAPI 3.2
        if more is not None:
            yield from self.sources.mapping(more, "additionalOperations").entries()

    def _operation(
        self,
        method: str,
        owner: Node,
        template: str,
        common: dict[tuple[str, str], Node],
        known: tuple[str, ...],
    ) -> Operation:
        self.sources.mapping(owner, "an operation")
        nodes = {**common, **self._parameters(owner)}
        parameters = []
        names = _names(template)
        for (place, name), node in nodes.items():
            if place == "header" and name in _FRAMING:
                continue
            if place == "path" and name not in names:
                raise self.sources.fault(
                    node,
                    f"the path {template!r} has no parameter {{{name}}}",
                    "Write it into the path, or remove the parameter.",
                )
            parameters.append(self._parameter(node, cast(Place, place)))
        body = owner.get("requestBody")
        return Operation(
            method=method,
            parameters=tuple(parameters),
            body=None if body is None else self._body(self.sources.followed(body)),
            known=known,
        )

    # ---- parameters -----------------------------------------------------------------------

    def _parameters(self, owner: Node) -> dict[tuple[str, str], Node]:
        """The parameters of a path or operation, by place and name."""
        listed = owner.get("parameters")
        found: dict[tuple[str, str], Node] = {}
        if listed is None:
            return found
        for node in self.sources.listed(listed, "parameters"):
            parameter = self.sources.mapping(self.sources.followed(node), "a parameter")
            name, place = self.sources.text(parameter, "name"), self.sources.text(parameter, "in")
            if not name or not place:
                missing = "in" if name else "name"
                raise self.sources.fault(parameter, f"the parameter has no {missing}")
            if place not in _STYLES:
                raise self.sources.fault(
                    parameter.below(["in"]),
                    f"in: {place!r} is not supported",
                    "It is path, query, header or cookie.",
                )
            if place == "header":
                name = name.lower()
            if (place, name) in found:
                raise self.sources.fault(
                    node, f"the {place} parameter {name!r} is there twice", "Remove one of them."
                )
            found[place, name] = parameter
        return found

    def _parameter(self, node: Node, place: Place) -> Parameter:
        name = str(node.value["name"])
        content, owner = node.get("content"), node.get("schema")
        json = False
        if content is not None:
            entries = list(self.sources.mapping(content, "content").entries())
            if len(entries) != 1:
                raise self.sources.fault(content, "the content of a parameter has one media type")
            media, inner = entries[0]
            json = _JSON.fullmatch(_essence(media)) is not None
            owner = inner.get("schema") if json and isinstance(inner.value, dict) else None
        schema = True if owner is None else self._schema(owner)
        styles = _STYLES[place]
        style = self.sources.text(node, "style") or styles[0]
        if style not in styles:
            raise self.sources.fault(
                node.below(["style"]),
                f"a {place} parameter cannot have the style {style!r}",
                f"It is {listed(styles)}.",
            )
        style = "form" if style == "cookie" else style
        explode = self.sources.flag(node, "explode")
        return Parameter(
            name=name,
            place=place,
            schema=schema,
            shape=self.shapes.of(schema),
            style=style,
            explode=style in ("form", "deepObject") if explode is None else explode,
            required=place == "path" or self.sources.flag(node, "required") is True,
            json=json,
            empty=place == "query" and self.sources.flag(node, "allowEmptyValue") is True,
        )

    def _schema(self, node: Node) -> Schema:
        schema = self.schemas.converted(node)
        self.places.append((schema, node))
        return schema

    # ---- bodies ---------------------------------------------------------------------------

    def _body(self, owner: Node) -> Body:
        self.sources.mapping(owner, "requestBody")
        content = owner.get("content")
        if content is None:
            raise self.sources.fault(owner, "requestBody has no content")
        media = [
            self._media(kind, node)
            for kind, node in self.sources.mapping(content, "content").entries()
        ]
        return Body(tuple(media), self.sources.flag(owner, "required") is True)

    def _media(self, text: str, node: Node) -> Media:
        essence, *more = (part.strip() for part in text.split(";"))
        essence = essence.lower()
        if not re.fullmatch(r"[^\s/;,]+/[^\s/;,]+", essence):
            raise self.sources.fault(
                node, f"{text!r} is not a media type", "Write it as in application/json."
            )
        parameters = {}
        for one in more:
            name, _, value = one.partition("=")
            parameters[name.strip().lower()] = value.strip().strip('"').lower()
        self.sources.mapping(node, "a media type")
        owner = node.get("schema")
        form = essence == _FORM
        if owner is None or not (form or _JSON.fullmatch(essence)):
            return Media(essence, parameters)
        schema = self._schema(owner)
        if not form:
            return Media(essence, parameters, "json", schema)
        shape = self.shapes.of(schema)
        fields = tuple(
            self._field(name, node, schema, shape.properties[name]) for name in shape.properties
        )
        return Media(essence, parameters, "form", schema, fields, shape.more)

    def _field(self, name: str, media: Node, schema: Schema, shape: Any) -> Parameter:
        """How a field of a form is written. Its schema is part of the form's."""
        encoding = media.below(["encoding", name])
        given = encoding.at[-2:] == ("encoding", name) and isinstance(encoding.value, dict)
        style = self.sources.text(encoding, "style") if given else None
        explode = self.sources.flag(encoding, "explode") if given else None
        kind = self.sources.text(encoding, "contentType") if given else None
        nested = shape.kinds == ("object",)
        return Parameter(
            name=name,
            place="query",
            schema=True,
            shape=shape,
            style=style or "form",
            explode=style in (None, "form", "deepObject") if explode is None else explode,
            json=style is None and (nested or _JSON.fullmatch(_essence(kind or "")) is not None),
        )


def _names(template: str) -> list[str]:
    return _VARIABLE.findall(template)


def _renamed(path: Path, names: dict[str, str]) -> Iterator[Operation]:
    """The operations of a path with other names of its parameters."""
    for one in path.operations:
        parameters = tuple(
            replace(each, name=names[each.name]) if each.place == "path" else each
            for each in one.parameters
        )
        yield replace(one, parameters=parameters)


def _essence(media: str) -> str:
    return media.partition(";")[0].strip().lower()
