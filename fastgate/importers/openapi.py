"""OpenAPI 3 and Swagger 2: the description of an API as a FastGate document.

The operations of a path become one route, or several if they differ in what a caller must show or
in their server. Only what a gateway does is read: schemas, parameters and examples are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastgate.errors import ConfigurationError
from fastgate.importers import openapi_paths
from fastgate.importers.draft import Draft
from fastgate.importers.report import Kind, Report
from fastgate.importers.source import Fields, Source
from fastgate.model.places import TargetUrl
from fastgate.model.values import masked

WHAT = "a description of OpenAPI 3 or Swagger 2"
NO_SERVER = "http://127.0.0.1:9000"
"""The upstream of a description that names no server."""
_METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace", "query")
_GATEWAYS = re.compile(
    r"x-(amazon-apigateway|google-(backend|quota|management)|kong|apisix|tyk|apigee|wso2|gravitee|"
    r"ms-apim|rate-?limit|throttling|traefik|auth-type)", re.I
)  # fmt: skip
"""Extensions that tell a gateway what to do."""
_MOST_REFERENCES = 8


class _Needs(NamedTuple):
    """What is the same for all operations of a route."""

    auth: tuple[str | None, str | None, bool] | None
    """Header and query parameter of a key, and whether it is optional. None: no key."""
    server: str
    """Of the path or operation; empty: that of the description."""


def convert(
    source: Source, report: Report, upstream: str | None = None, validate: str | None = None
) -> Draft:
    """The draft of a FastGate document. `upstream`: where the API is, instead of its servers.
    `validate`: the path of the description, in the document, if requests are to be validated.

    Raises ConfigurationError if it is not a description of an API.
    """
    return _OpenApi(Fields(source.data, "", report), report, upstream, validate).converted()


class _OpenApi:
    def __init__(
        self, root: Fields, report: Report, upstream: str | None, validate: str | None
    ) -> None:
        self.root = root
        self.validate = validate
        self.report = report
        self.upstream = upstream
        self.draft = Draft(report)
        self.services: dict[str, str] = {}
        version = root.text("openapi") or root.text("swagger") or ""
        self.swagger = not root.has("openapi")
        if not re.fullmatch(r"2\.0" if self.swagger else r"3\.\d+(\.\d+\S*)?", version):
            key = "swagger" if self.swagger else "openapi"
            raise ConfigurationError(
                f"this is not {WHAT}: it has neither `openapi: 3.x` nor `swagger: 2.0`",
                key if root.has(key) else "",
                hint='Write `openapi: "3.1.0"` at the top.',
            )
        info = root.some("info")
        self.title = (info.text("title") or "api").lower()
        self.schemes = self._schemes()
        self.server = ""

    def _schemes(self) -> dict[str, Fields]:
        owner = self.root if self.swagger else self.root.some("components")
        found = owner.some("securityDefinitions" if self.swagger else "securitySchemes")
        schemes = {}
        for name in found.data:
            if name.startswith("x-") or not found.has(name):
                continue
            scheme = found.section(name, f"security scheme {name!r}")
            assert scheme is not None
            schemes[name] = self._referred(scheme)
        return schemes

    def converted(self) -> Draft:
        root = self.root
        root.skip(
            "tags", "externalDocs", "definitions", "parameters", "responses", "consumes",
            "produces", "jsonSchemaDialect", "$self", "$schema", "security", "servers",
            "host", "basePath", "schemes",
        )  # fmt: skip
        root.lost(("webhooks",), "requests that the API sends")
        self._extensions(root)
        paths = root.some("paths")
        for path in paths.data:
            if path.startswith("x-") or not paths.has(path):
                continue
            item = paths.section(path, f"path {path!r}")
            assert item is not None
            self._path(path, self._referred(item))
        self._extensions(paths)
        root.rest()
        return self.draft

    def _extensions(self, fields: Fields) -> None:
        for key in fields.data:
            if _GATEWAYS.match(key):
                fields.note("lost", f"{key}: extensions are not read", key)
            if key.startswith("x-"):
                fields.skip(key)

    def _referred(self, fields: Fields) -> Fields:
        """What a local `$ref` refers to, or the mapping itself."""
        for _ in range(_MOST_REFERENCES):
            reference = fields.raw("$ref")
            if not isinstance(reference, str):
                return fields
            found: Any = self.root.data
            for part in reference.removeprefix("#/").split("/"):
                name = part.replace("~1", "/").replace("~0", "~")
                found = found.get(name) if isinstance(found, dict) else None
            if not reference.startswith("#/") or not isinstance(found, dict):
                break
            fields = Fields(found, fields.path, self.report, fields.name)
        fields.note("lost", "$ref: it leads to another document, or nowhere", "$ref")
        return Fields({}, fields.path, self.report, fields.name)

    # ---- servers ----------------------------------------------------------------------------

    def _server(self, fields: Fields) -> str | None:
        """The first server of the description, a path or an operation. None: it names none."""
        if self.upstream is not None:
            fields.skip("servers", "host", "basePath", "schemes")
            return self.upstream.rstrip("/")
        urls = self._swagger_urls(fields) if self.swagger else self._urls(fields)
        for other in urls[1:]:
            fields.note(
                "lost",
                f"the server {masked(other)!r}: the first is taken; add it to `targets` if both "
                "serve the same",
            )
        if urls and re.match(r"https?://[^/]", urls[0]):
            return urls[0].rstrip("/")
        if fields is not self.root:
            if urls:
                fields.note("changed", "a server without a host: that of the description is taken")
            return None
        base = urls[0].rstrip("/") if urls and urls[0].startswith("/") else ""
        fields.note(
            "changed", f"no server with a host: the upstream is {NO_SERVER}; write another, or use "
            "--upstream",
        )  # fmt: skip
        return NO_SERVER + base

    def _urls(self, fields: Fields) -> list[str]:
        urls = []
        for server in fields.sections("servers"):
            url = server.text("url") or "/"
            variables = server.some("variables")
            for name in variables.data:
                variable = variables.some(name)
                url = url.replace(f"{{{name}}}", variable.text("default") or "")
                if len(variable.texts("enum")) > 1:
                    server.note("changed", f"the variable {name!r} has its default", "variables")
            urls.append(url)
        return urls

    def _swagger_urls(self, fields: Fields) -> list[str]:
        if fields is not self.root:
            fields.skip("schemes")
            return []
        schemes = [one for one in fields.texts("schemes") if one in ("http", "https")]
        scheme = "https" if "https" in schemes or not schemes else "http"
        host, base = fields.text("host"), fields.text("basePath") or ""
        return [f"{scheme}://{host}{base}" if host else base or "/"]

    def _own_server(self) -> str:
        """The server of the description."""
        if not self.server:
            self.server = self._server(self.root) or NO_SERVER
        return self.server

    def _service(self, server: str, fields: Fields) -> str:
        if server not in self.services:
            name = self.draft.name("services", self.title)
            pool = self.draft.name("upstreams", self.title)
            self.draft.add(
                "upstreams", {"name": pool, "targets": [{"url": server}]}, fields.path, fields.name
            )
            service: dict[str, Any] = {"name": name, "upstream": pool}
            if self.validate is not None:
                # The base paths of servers are the upstream's; requests do not have them.
                service["validate"] = {"openapi": self.validate, "prefix": "/"}
            self.draft.add("services", service, fields.path, fields.name)
            self.services[server] = name
        return self.services[server]

    # ---- paths and operations ---------------------------------------------------------------

    def _path(self, path: str, item: Fields) -> None:
        pattern = openapi_paths.pattern(path, item)
        item.skip("summary", "description", "parameters")
        self._extensions(item)
        server = self._server(item) or ""
        groups: dict[_Needs, list[tuple[str, str | None]]] = {}
        operations = [(method.upper(), item.section(method)) for method in _METHODS]
        more = item.some("additionalOperations")
        operations += [(method, more.section(method)) for method in more.data]
        for method, operation in operations:
            if operation is None:
                continue
            operation.name = f"{method} {path}"
            self._extensions(operation)
            if operation.flag("deprecated"):
                operation.note("lost", "deprecated: since when? Write `deprecated: DATE`")
            needs = _Needs(self._auth(operation), self._server(operation) or server)
            groups.setdefault(needs, []).append((method, operation.text("operationId")))
        for needs, members in groups.items():
            self._route(pattern, item, needs, members)
        item.rest()

    def _route(
        self, pattern: str, item: Fields, needs: _Needs, members: list[tuple[str, str | None]]
    ) -> None:
        named = [name for _, name in members if name]
        wanted = named[0] if len(members) == 1 and named else openapi_paths.slug(pattern)
        route: dict[str, Any] = {
            "name": self.draft.name("routes", wanted),
            "methods": [method for method, _ in members],
            "path": pattern,
            "service": self._service(needs.server or self._own_server(), item),
        }
        if needs.auth is not None:
            header, query, optional = needs.auth
            key: dict[str, Any] = {"header": header, "bearer": False}
            if query is not None:
                key["query"] = query
            if optional:
                key["optional"] = True
            route["auth"] = {"api_key": key}
        self.draft.add("routes", route, item.path, item.name)

    def _auth(self, operation: Fields) -> tuple[str | None, str | None, bool] | None:
        """The key that an operation needs. What else it needs is reported."""
        owner = operation if operation.data.get("security") is not None else self.root
        alternatives = owner.sections("security")
        found = [self._places(one) for one in alternatives]
        keys = next((place for places in found for place in places.values() if place), None)
        chosen = next((places for places in found if keys in places.values()), {})
        for places in found:
            if places is chosen or keys is None:
                rest = [name for name, place in places.items() if place is None or place != keys]
                self._unchecked(rest, "open", "FastGate checks API keys alone")
            else:
                self._unchecked(places, "lost", "an alternative; the first API key is asked for")
        if keys is None:
            return None
        return (*keys, any(not one.data for one in alternatives))

    def _unchecked(self, names: Iterable[str], kind: Kind, message: str) -> None:
        for name in names:
            scheme = self.schemes.get(name)
            if scheme is not None:
                scheme.note(kind, f"{scheme.text('type')}: {message}")

    def _places(self, alternative: Fields) -> dict[str, tuple[str | None, str | None] | None]:
        return {name: self._key_place(alternative, name) for name in alternative.data}

    def _key_place(self, alternative: Fields, name: str) -> tuple[str | None, str | None] | None:
        """Header or query parameter that holds the key of a scheme. None: it is no such key."""
        scheme = self.schemes.get(name)
        if scheme is None:
            alternative.note("open", f"there is no security scheme {name!r}")
            return None
        where, key = scheme.text("in"), scheme.text("name")
        if scheme.text("type") != "apiKey" or not key:
            return None
        if where == "header":
            return (key, None)
        return (None, key) if where == "query" else None


def check_upstream(url: str) -> str:
    """`url`, if it can be an upstream. Raises ValueError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url!r} does not begin with 'http://' or 'https://'")
    TargetUrl.parse(url)
    return url
