"""Kong: a declarative document of decK or of Kong's DB-less mode, as a FastGate document.

A service of Kong becomes a service with an upstream of its own, since timeouts, scheme and base
path belong to the upstream here. A route becomes one route, or several if it has several paths and
strips them, or several values for a header.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from fastgate.errors import ConfigurationError
from fastgate.importers import kong_plugins, kong_routes, rules
from fastgate.importers.draft import Draft
from fastgate.importers.kong_plugins import Plugin, Plugins
from fastgate.importers.report import Report
from fastgate.importers.source import Fields, Source

WHAT = "a declarative document of Kong"
_VERSIONS = ("1.1", "2.1", "3.0")
_META = ("id", "tags", "created_at", "updated_at")
_BALANCE = {
    "round-robin": "round_robin",
    "least-connections": "least_connections",
    "latency": "p2c_ewma",
    "consistent-hashing": "hash",
}
_CREDENTIALS = (
    "acls", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "mtls_auth_credentials",
    "oauth2_credentials",
)  # fmt: skip


def convert(source: Source, report: Report) -> Draft:
    """The draft of a FastGate document. Raises ConfigurationError if it is not one of Kong."""
    return _Kong(Fields(source.data, "", report), report).converted()


class _Kong:
    def __init__(self, root: Fields, report: Report) -> None:
        self.root = root
        self.report = report
        self.draft = Draft(report)
        self.plugins = Plugins(self.draft, report)
        version = root.text("_format_version")
        if version is None:
            raise ConfigurationError(
                f"this is not {WHAT}: it has no `_format_version`",
                hint=f'Write `_format_version: "{_VERSIONS[-1]}"`, or export it with decK.',
            )
        if not re.fullmatch(r"[123]\.\d", version):
            raise ConfigurationError(
                f"the format {version!r} is not known",
                "_format_version",
                hint=f"Known: {', '.join(_VERSIONS)}.",
            )
        self.new_format = version.startswith("3")
        self.global_plugins: dict[str, Plugin] = {}
        self.of_service: dict[str, dict[str, Plugin]] = {}
        self.of_route: dict[str, dict[str, Plugin]] = {}
        self.of_consumer: dict[str, list[Plugin]] = {}
        self.upstreams: dict[str, Fields] = {}
        self.pools: set[str] = set()
        """The upstreams that services use."""
        self.owners: set[str] = set()
        """The names of all services, routes and consumers."""
        self.services: dict[str, tuple[str, dict[str, Plugin]]] = {}
        self.made: list[tuple[dict[str, Any], Fields]] = []

    def converted(self) -> Draft:
        root = self.root
        root.skip("_info", "_transform", "_comment", "_workspace", "_konnect")
        for fields in root.sections("upstreams"):
            name = fields.text("name") or ""
            fields.name = f"upstream {name!r}"
            self.upstreams[name] = fields
        self._shared_plugins()
        routes = []
        for fields in root.sections("services"):
            routes += self._service(fields)
        routes += [(fields, self._service_of(fields)) for fields in root.sections("routes")]
        for number, (fields, service) in enumerate(routes):
            self._route(fields, service, number)
        for fields, first, second in kong_routes.reordered(self.made):
            fields.note(
                "changed",
                f"Kong tries {first!r} before {second!r}, which has a longer path; FastGate tries "
                "the longer path first",
            )
        for fields in root.sections("consumers"):
            self._consumer(fields)
        for host in self.upstreams.keys() - self.pools:
            self.upstreams[host].note("lost", "no service uses it")
        self._unapplied()
        root.rest()
        return self.draft

    # ---- plugins ------------------------------------------------------------------------

    def _shared_plugins(self) -> None:
        for fields in self.root.sections("plugins"):
            links = {
                kind: found
                for kind in ("service", "route", "consumer")
                if (found := _link(fields, kind)) is not None
            }
            if "consumer_group" in fields.data or len(links) > 1:
                fields.name = f"plugin {fields.text('name')!r}"
                fields.note("open", "a plugin for a consumer group, or for several things at once")
                continue
            kind, name = next(iter(links.items()), ("", ""))
            whose = f"{kind} {name!r}" if kind else "all routes"
            plugin = kong_plugins.read(fields, f"{kind} {name}" if kind else "global", whose)
            if plugin is None:
                continue
            if kind == "consumer":
                self.of_consumer.setdefault(name, []).append(plugin)
            else:
                into = {"service": self.of_service, "route": self.of_route}.get(kind)
                held = self.global_plugins if into is None else into.setdefault(name, {})
                held[plugin.name] = plugin

    def _unapplied(self) -> None:
        """Report plugins of what is not in the document."""
        linked = {
            name: list(held.values())
            for known in (self.of_service, self.of_route)
            for name, held in known.items()
        }
        for name, plugins in [*linked.items(), *self.of_consumer.items()]:
            for plugin in plugins if name not in self.owners else []:
                plugin.fields.note("open", "what it belongs to is not in the document")

    def _plugins_of(
        self, fields: Fields, kind: str, names: list[str], known: dict[str, dict[str, Plugin]]
    ) -> dict[str, Plugin]:
        held: dict[str, Plugin] = {}
        self.owners.update(names)
        for name in names:
            held.update(known.get(name, {}))
        for inner in fields.sections("plugins"):
            plugin = kong_plugins.read(inner, f"{kind} {names[0]}", f"{kind} {names[0]!r}")
            if plugin is not None:
                held[plugin.name] = plugin
        return held

    # ---- services and upstreams -----------------------------------------------------------

    def _service(self, fields: Fields) -> list[tuple[Fields, str | None]]:
        """Add a service. Returns its routes, with its name in Kong."""
        names = [name for key in ("name", "id") if (name := fields.text(key))] or ["service"]
        fields.name = f"service {names[0]!r}"
        routes = fields.sections("routes")
        plugins = self._plugins_of(fields, "service", names, self.of_service)
        fields.skip(*_META)
        if not fields.flag("enabled", True):
            fields.note("lost", "it is disabled, and so are its routes")
            fields.skip(*fields.data)
            return []
        name = self.draft.name("services", names[0])
        service: dict[str, Any] = {"name": name, "upstream": self._upstream(fields, names[0])}
        tries = fields.whole("retries")
        service["retries"] = {"attempts": min((5 if tries is None else tries) + 1, 10)}
        if tries is not None and tries > 9:
            fields.note("changed", "retries: a request is sent at most 10 times", "retries")
        fields.rest()
        self.draft.add("services", service, fields.path, fields.name)
        for one in names:
            self.services[one] = (name, plugins)
        return [(route, names[0]) for route in routes]

    def _upstream(self, fields: Fields, wanted: str) -> str:
        url = fields.text("url")
        if url is not None:
            try:
                parts = urlsplit(url)
                scheme, host, port, path = parts.scheme, parts.hostname, parts.port, parts.path
            except ValueError:
                raise ConfigurationError("not a URL", fields.at("url")) from None
            fields.skip("protocol", "host", "port", "path")
            if parts.username or parts.query:
                fields.note("lost", "a user or a query: the URL of a target has none", "url")
        else:
            scheme, host = fields.text("protocol") or "http", fields.text("host")
            port, path = fields.whole("port"), fields.text("path") or ""
        if not host:
            raise ConfigurationError(
                "the service has no host", fields.path, hint="Give it `host` or `url`."
            )
        tls = scheme in ("https", "tls", "grpcs", "wss")
        if scheme not in ("http", "https"):
            fields.note("changed", f"the protocol {scheme!r} becomes HTTP/1.1", "protocol")
        name = self.draft.name("upstreams", wanted)
        upstream: dict[str, Any] = {"name": name}
        pool = self.upstreams.get(host)
        base = f"{'https' if tls else 'http'}://{{}}{path.rstrip('/')}"
        if pool is None:
            where = rules.host_port(host, port or (443 if tls else 80))
            upstream["targets"] = [{"url": base.format(where)}]
        else:
            self.pools.add(host)
            upstream |= self._pool(pool, base)
        upstream["timeouts"] = self._timeouts(fields)
        self._tls(fields, upstream, tls)
        place = fields if pool is None else pool
        self.draft.add("upstreams", upstream, place.path, place.name)
        return name

    def _timeouts(self, fields: Fields) -> dict[str, str]:
        read = rules.duration(fields, "read_timeout", 1) or "60s"
        return {
            "connect": rules.duration(fields, "connect_timeout", 1) or "60s",
            "write": rules.duration(fields, "write_timeout", 1) or "60s",
            "first_byte": read,
            "idle": read,
        }

    def _tls(self, fields: Fields, upstream: dict[str, Any], tls: bool) -> None:
        verify = fields.raw("tls_verify")
        fields.skip("tls_verify_depth")
        fields.lost(("client_certificate",), "give the upstream a `tls.certificate`")
        fields.lost(("ca_certificates",), "give the upstream a `tls.authority`")
        if tls and verify is False:
            upstream["tls"] = {"verify": False}
        elif tls and verify is None:
            fields.note("changed", "the certificate of the upstream is verified")

    def _pool(self, fields: Fields, base: str) -> dict[str, Any]:
        """The parts of an upstream that come from one of Kong."""
        targets = []
        for target in fields.sections("targets"):
            where = target.text("target") or ""
            target.skip(*_META, "upstream")
            weight = target.whole("weight")
            port = "" if re.search(r":\d+$", where) else ":8000"
            targets.append((base.format(where + port), 100 if weight is None else weight))
            target.rest()
        found: dict[str, Any] = {"targets": rules.weights(targets, fields)}
        algorithm = fields.text("algorithm") or "round-robin"
        hash_on = fields.text("hash_on") or "none"
        header = fields.text("hash_on_header")
        if hash_on != "none" and not fields.has("algorithm"):
            algorithm = "consistent-hashing"
        if algorithm == "consistent-hashing" and hash_on == "cookie":
            algorithm = self._sticky(fields, found, "hash_on_cookie")
        elif algorithm == "sticky-sessions":
            algorithm = self._sticky(fields, found, "sticky_sessions_cookie")
        balance = _BALANCE.get(algorithm, "round_robin")
        if algorithm not in _BALANCE:
            fields.note("changed", f"the algorithm {algorithm!r} becomes round_robin", "algorithm")
        if balance == "hash":
            keys = {"consumer": "consumer", "ip": "address", "path": "path", "none": "address"}
            if header:
                keys["header"] = f"header:{header}"
            found["hash_by"] = keys.get(hash_on, "address")
            if hash_on not in keys:
                fields.note("changed", f"hash_on: {hash_on!r} becomes the address", "hash_on")
        found["balance"] = balance
        if host := fields.text("host_header"):
            found["host"] = host
        self._checks(fields, found)
        fields.skip(
            *_META, "slots", "name", "hash_fallback", "hash_fallback_header", "use_srv_name"
        )
        fields.skip("hash_on_cookie_path", "sticky_sessions_cookie_path")
        fields.rest()
        return found

    def _sticky(self, fields: Fields, found: dict[str, Any], key: str) -> str:
        """A cookie that Kong makes and balances by. Returns how new clients are balanced."""
        name = fields.text(key)
        if not name:
            fields.note("changed", "it names no cookie, so clients are not sticky", key)
        else:
            found["sticky"] = {"cookie": name, "path": fields.text(f"{key}_path") or "/"}
        return "round-robin"

    def _checks(self, fields: Fields, found: dict[str, Any]) -> None:
        checks = fields.some("healthchecks")
        active, passive = checks.some("active"), checks.some("passive")
        checks.skip("threshold")
        path = active.text("http_path") or "/"
        health = rules.health(active, path)
        kind = active.text("type") or "http"
        active.skip("concurrency", "https_sni")
        headers = active.some("headers")
        said = {name: listed[0] for name in headers.data if (listed := headers.texts(name))}
        if "interval" not in health:
            active.skip(*active.data)
        elif active.flag("https_verify_certificate", True) is False:
            active.note("changed", "checks verify as requests do", "https_verify_certificate")
        active.rest()
        if said:
            health["headers"] = said
        if "interval" in health:
            if kind == "tcp":
                active.note("changed", f"a check of TCP becomes a request for {path!r}", "type")
            found["health"] = health
        if eject := rules.eject(passive):
            found["eject"] = eject
        checks.rest()

    # ---- routes -----------------------------------------------------------------------------

    def _service_of(self, fields: Fields) -> str | None:
        return _link(fields, "service")

    def _route(self, fields: Fields, service: str | None, number: int) -> None:
        names = [name for key in ("name", "id") if (name := fields.text(key))]
        names = names or [f"{service or 'route'}-{number + 1}"]
        fields.name = f"route {names[0]!r}"
        fields.skip(*_META, "service", "path_handling", "regex_priority", "request_buffering")
        fields.skip("response_buffering")
        of_route = self._plugins_of(fields, "route", names, self.of_route)
        wanted = self._conditions(fields)
        if wanted is None:
            fields.skip(*fields.data)
            return
        name, of_service = self.services.get(service or "", ("", {}))
        plugins = {**self.global_plugins, **of_service, **of_route}
        if not name and "request-termination" not in plugins:
            fields.note("lost", "the route: its service is missing or was not imported")
            fields.skip(*fields.data)
            return
        action: dict[str, Any] = {"service": name} if name else {}
        if fields.flag("preserve_host") and name:
            action["preserve_host"] = True
        if name:
            action["websocket"] = True  # Kong lets all requests upgrade
        self._add_routes(fields, names[0], wanted, (action, plugins))
        fields.rest()

    def _conditions(self, fields: Fields) -> list[dict[str, Any]] | None:
        """The conditions of each route that is made of one. None: they cannot be expressed."""
        protocols = set(fields.texts("protocols"))
        if protocols and not protocols & {"http", "https", "ws", "wss"}:
            fields.note("lost", f"the route: its protocols are {', '.join(sorted(protocols))}")
            return None
        if protocols and not protocols & {"http", "ws"}:
            fields.note(
                "open", "protocols: it is also served without TLS; write `redirect: https` at "
                "the listener", "protocols",
            )  # fmt: skip
        fields.skip("https_redirect_status_code")
        for key in ("expression", "snis", "sources", "destinations"):
            if fields.raw(key):
                fields.note("lost", f"the route: {key} cannot be expressed", key)
                return None
        fields.skip("priority")
        hosts, matches = kong_routes.hosts(fields), kong_routes.matches(fields)
        found = kong_routes.paths(fields, self.new_format)
        if hosts is None or matches is None or not found:
            return None
        base: dict[str, Any] = {"hosts": hosts} if hosts else {}
        if methods := [one.upper() for one in fields.texts("methods")]:
            base["methods"] = methods
        strip = fields.flag("strip_path", True)
        apart = strip and len(found) > 1
        made = []
        for match in matches:
            for group in [[one] for one in found] if apart else [found]:
                one = dict(base)
                if len(group) == 1:
                    one["path"] = group[0].pattern
                else:
                    one["paths"] = [path.pattern for path in group]
                if match:
                    one["match"] = match
                if strip and group[0].prefix:
                    one["rewrite"] = {"strip_prefix": group[0].prefix}
                elif strip and group[0].pattern != "/{rest*}":
                    self._strip_all(fields, one)
                made.append(one)
        return made

    @staticmethod
    def _strip_all(fields: Fields, route: dict[str, Any]) -> None:
        """What a regular expression matched is taken off: all of it, or all but the rest."""
        rest = re.search(r"\{(\w+)\*\}$", route["path"])
        route["rewrite"] = {"path": f"/{{{rest[1]}}}" if rest and rest[1] == "rest" else "/"}

    def _add_routes(
        self,
        fields: Fields,
        name: str,
        wanted: list[dict[str, Any]],
        rest: tuple[dict[str, Any], dict[str, Plugin]],
    ) -> None:
        action, plugins = rest
        for one in wanted:
            route = {"name": self.draft.name("routes", name), **one, **action}
            if "service" not in action:
                route.pop("rewrite", None)
            self.plugins.apply(route, plugins, own=len(wanted) == 1)
            if "respond" in route:
                for key in ("websocket", "rewrite"):
                    route.pop(key, None)
                if "request" in route.get("headers", {}):
                    del route["headers"]["request"]
            self.draft.add("routes", route, fields.path, fields.name)
            self.made.append((route, fields))

    # ---- consumers --------------------------------------------------------------------------

    def _consumer(self, fields: Fields) -> None:
        names = [name for key in ("username", "custom_id", "id") if (name := fields.text(key))]
        wanted = names[0] if names else "consumer"
        fields.name = f"consumer {wanted!r}"
        fields.skip(*_META, "username_lower")
        name = self.draft.name("consumers", wanted)
        keys = []
        for credential in fields.sections("keyauth_credentials"):
            credential.name = fields.name
            key = credential.text("key") or ""
            digest = self.draft.key(key, credential.path, fields.name)
            if digest is not None:
                keys.append(digest)
            credential.skip(*_META, "consumer")
            credential.lost(("ttl",), "the key does not expire", "open")
            credential.rest()
        self.owners.update(names)
        consumer: dict[str, Any] = {"name": name, "keys": list(dict.fromkeys(keys))}
        fields.lost(_CREDENTIALS, "FastGate has API keys alone")
        fields.lost(("groups",), "FastGate has no groups of consumers")
        plugins = [one for known in names for one in self.of_consumer.get(known, [])]
        for inner in fields.sections("plugins"):
            plugin = kong_plugins.read(inner, f"consumer {wanted}", fields.name)
            if plugin is not None:
                plugins.append(plugin)
        for plugin in plugins:
            self.plugins.override(plugin, consumer)
        fields.rest()
        self.draft.add("consumers", consumer, fields.path, fields.name)


def _link(fields: Fields, key: str) -> str | None:
    """The name or id of another entity: `service: orders`, `service: {name: orders}`."""
    value = fields.raw(key)
    if isinstance(value, dict):
        named = value.get("name") or value.get("username") or value.get("id")
        return None if named is None else str(named)
    return None if value is None else str(value)
