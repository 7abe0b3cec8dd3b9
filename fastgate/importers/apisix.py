"""APISIX: `apisix.yaml` or an export of the Admin API, as a FastGate document.

An upstream of APISIX becomes an upstream and a service, which has its retries and the host that
proxy-rewrite sets. A service or plugin config of APISIX is merged into its routes.
"""

from __future__ import annotations

import re
from typing import Any

from fastgate.importers import apisix_plugins, apisix_traffic, rules
from fastgate.importers.apisix_plugins import LIMITS, Plugin, Plugins
from fastgate.importers.apisix_source import WHAT, objects
from fastgate.importers.draft import Draft
from fastgate.importers.report import Kind, Report
from fastgate.importers.source import Fields, Source

__all__ = ["WHAT", "convert"]

_META = ("id", "name", "desc", "labels", "create_time", "update_time")
_BALANCE = {
    "roundrobin": "round_robin",
    "least_conn": "least_connections",
    "ewma": "p2c_ewma",
    "chash": "hash",
}
_UNTRANSLATED = ("script", "script_id", "filter_func")


def convert(source: Source, report: Report) -> Draft:
    """The draft of a FastGate document. Raises ConfigurationError if it is not one of APISIX."""
    return _Apisix(Fields(source.data, "", report), report).converted()


class _Apisix:
    def __init__(self, root: Fields, report: Report) -> None:
        self.root = root
        self.report = report
        self.draft = Draft(report)
        self.plugins = Plugins(self.draft)
        self.objects = objects(root)
        self.known = {
            kind: self._by_id(kind) for kind in ("services", "upstreams", "plugin_configs")
        }
        self.made: dict[tuple[str, str | None], str | None] = {}
        self.pools: dict[str, dict[str, Any] | None] = {}
        self.used: set[str] = set()
        self.read: dict[str, dict[str, Plugin]] = {}

    def _by_id(self, kind: str) -> dict[str, Fields]:
        found = {}
        for fields in self.objects[kind]:
            ident = fields.text("id") or fields.text("name") or ""
            fields.name = f"{kind[:-1].replace('_', ' ')} {ident!r}"
            found[ident] = fields
        return found

    def converted(self) -> Draft:
        shared: list[Plugin] = []
        for rule in self.objects["global_rules"]:
            rule.name = "the global rules"
            shared += apisix_plugins.read(rule, shared=True).values()
            rule.skip(*_META)
            rule.rest()
        for number, fields in enumerate(self.objects["routes"]):
            self._route(fields, shared, number)
        self._consumers()
        for kind, known in self.known.items():
            for ident, fields in known.items():
                if f"{kind}/{ident}" not in self.used:
                    fields.note("lost", "no route uses it")
        self.root.rest()
        return self.draft

    def _named(self, section: str, wanted: str) -> str:
        """A name; objects of APISIX often have a number alone."""
        return self.draft.name(section, f"{section[:-1]}-{wanted}" if wanted.isdigit() else wanted)

    # ---- upstreams and services -----------------------------------------------------------

    def _linked(self, fields: Fields, key: str, kind: str) -> Fields | None:
        """The object that an id leads to. None: there is no id."""
        ident = fields.text(key)
        if ident is None:
            return None
        found = self.known[kind].get(ident)
        if found is None:
            fields.note("lost", f"the route: {key} {ident!r} is not in the document", key)
            return Fields({"missing": True}, fields.path, self.report, fields.name)
        self.used.add(f"{kind}/{ident}")
        return found

    def _upstream(self, fields: Fields) -> Fields | None:
        """The upstream that a route or service has, inline or by its id."""
        inline = fields.section("upstream")
        by_id = self._linked(fields, "upstream_id", "upstreams")
        return inline if inline is not None else by_id

    def _service(self, upstream: Fields, wanted: str, host: str | None) -> str | None:
        """The service for an upstream, with the host that it is sent. None: it has no targets."""
        key = (upstream.path, host)
        if key in self.made:
            return self.made[key]
        pool = self.pools.get(upstream.path)
        if upstream.path not in self.pools:
            pool = self.pools[upstream.path] = self._pool(upstream, wanted)
        name = None
        if pool is not None:
            name = self.draft.name("services", pool["name"])
            service: dict[str, Any] = {"name": name, "upstream": pool["name"]}
            if host is not None:
                service["host"] = host
            retries = upstream.whole("retries")
            if retries is not None:
                service["retries"] = {"attempts": min(retries + 1, 10)}
            self.draft.add("services", service, upstream.path, upstream.name)
        self.made[key] = name
        return name

    def _pool(self, fields: Fields, wanted: str) -> dict[str, Any] | None:
        fields.skip(*_META, "retries", "retry_timeout", "service_name", "discovery_type")
        fields.skip("discovery_args")
        scheme = fields.text("scheme") or "http"
        tls = scheme in ("https", "grpcs", "tls")
        if scheme not in ("http", "https"):
            fields.note("changed", f"the scheme {scheme!r} becomes HTTP/1.1", "scheme")
        if fields.raw("discovery_type"):
            fields.note("lost", "discovery: FastGate resolves names by DNS", "discovery_type")
        targets = rules.weights(self._targets(fields, "https" if tls else "http"), fields)
        if not targets:
            if not fields.raw("discovery_type"):
                fields.note("lost", "it has no nodes", "nodes")
            fields.skip(*fields.data)
            return None
        pool: dict[str, Any] = {
            "name": self._named("upstreams", fields.text("name") or fields.text("id") or wanted),
            "targets": targets,
        }
        self._balance(fields, pool)
        host = fields.text("pass_host") or "pass"
        rewritten = fields.text("upstream_host")
        if host == "rewrite" and rewritten:
            pool["host"] = rewritten
        elif host != "node":
            pool["host"] = "client"
        times = fields.some("timeout")
        pool["timeouts"] = {
            "connect": rules.duration(times, "connect", 1000) or "60s",
            "write": rules.duration(times, "send", 1000) or "60s",
            "first_byte": rules.duration(times, "read", 1000) or "60s",
        }
        pool["timeouts"]["idle"] = pool["timeouts"]["first_byte"]
        times.rest()
        self._checks(fields, pool)
        keep = fields.some("keepalive_pool")
        kept = {"max": keep.whole("size"), "idle": rules.duration(keep, "idle_timeout", 1000)}
        keep.skip("requests")
        if any(kept.values()):
            pool["keepalive"] = {key: value for key, value in kept.items() if value}
        if tls:
            fields.note("changed", "the certificate of the upstream is verified")
        fields.lost(("tls",), "give the upstream a `tls.certificate`")
        fields.rest()
        self.draft.add("upstreams", pool, fields.path, fields.name)
        return pool

    def _targets(self, fields: Fields, scheme: str) -> list[tuple[str, int]]:
        found = []
        if isinstance(fields.data.get("nodes"), dict):
            nodes = fields.some("nodes")
            for where in nodes.data:
                weight = nodes.whole(where)
                found.append((f"{scheme}://{where}", 1 if weight is None else weight))
            return found
        for node in fields.sections("nodes"):
            where = rules.host_port(node.text("host") or "", node.whole("port"))
            weight = node.whole("weight")
            if node.number("priority"):
                node.note("changed", "priority: all nodes get requests", "priority")
            node.skip("metadata")
            node.rest()
            found.append((f"{scheme}://{where}", 1 if weight is None else weight))
        return found

    def _balance(self, fields: Fields, pool: dict[str, Any]) -> None:
        kind = fields.text("type") or "roundrobin"
        pool["balance"] = _BALANCE.get(kind, "round_robin")
        if kind not in _BALANCE:
            fields.note("changed", f"the type {kind!r} becomes round_robin", "type")
        hash_on, key = fields.text("hash_on") or "vars", fields.text("key") or "remote_addr"
        if kind != "chash":
            return
        by = {"remote_addr": "address", "uri": "path", "request_uri": "path"}.get(key)
        if hash_on == "consumer":
            by = "consumer"
        elif key.startswith("http_"):
            by = f"header:{key[5:].replace('_', '-')}"
        elif hash_on == "header":
            by = f"header:{key}"
        if by is None or hash_on in ("cookie", "vars_combinations"):
            fields.note("changed", f"key: {key!r} becomes the address", "key")
            by = "address"
        pool["hash_by"] = by

    def _checks(self, fields: Fields, pool: dict[str, Any]) -> None:
        checks = fields.some("checks")
        active = checks.section("active")
        if active is not None:
            kind, path = active.text("type") or "http", active.text("http_path") or "/"
            health = {"interval": "1s", **rules.health(active, path)}
            if kind == "tcp":
                active.note("changed", f"a check of TCP becomes a request for {path!r}", "type")
            if host := active.text("host"):
                health["host"] = host
            if port := active.whole("port"):
                health["port"] = port
            pairs = (line.partition(":") for line in active.texts("req_headers"))
            if headers := {name.strip(): value.strip() for name, _, value in pairs}:
                health["headers"] = headers
            active.skip("concurrency", "https_verify_certificate")
            active.rest()
            pool["health"] = health
        if eject := rules.eject(checks.some("passive")):
            pool["eject"] = eject
        checks.rest()

    # ---- routes -----------------------------------------------------------------------------

    def _plugins(self, owner: Fields | None) -> dict[str, Plugin]:
        """The plugins of an object, which are read once."""
        if owner is None:
            return {}
        if owner.path not in self.read:
            self.read[owner.path] = apisix_plugins.read(owner)
        return self.read[owner.path]

    def _route(self, fields: Fields, shared: list[Plugin], number: int) -> None:
        wanted = fields.text("name") or fields.text("id") or f"route-{number + 1}"
        fields.name = f"route {wanted!r}"
        fields.skip(*_META)
        service = self._linked(fields, "service_id", "services")
        bundle = self._linked(fields, "plugin_config_id", "plugin_configs")
        upstream = self._upstream(fields)
        if upstream is None and service is not None:
            upstream = self._upstream(service)
        links = (service, bundle, upstream)
        route = self._conditions(fields, service)
        if route is None or any(one is not None and "missing" in one.data for one in links):
            fields.skip(*fields.data)
            return
        own = {**self._plugins(service), **self._plugins(bundle), **self._plugins(fields)}
        host = own["proxy-rewrite"].config.text("host") if "proxy-rewrite" in own else None
        if upstream is not None:
            upstream.name = upstream.name or fields.name
            name = self._service(upstream, wanted, host)
            if name is not None:
                route["service"] = name
                self._forwarding(fields, service, route)
                self._elsewhere(own, route, wanted, host)
        self.plugins.apply(route, self._together(shared, own))
        fields.skip("enable_websocket", "timeout")
        if "service" not in route and "redirect" not in route:
            fields.note("lost", "the route: it has no upstream that could be imported")
            return
        if "redirect" in route:
            route.get("headers", {}).pop("request", None)
        self.draft.add(
            "routes", {"name": self._named("routes", wanted), **route}, fields.path, fields.name
        )
        fields.rest()

    def _elsewhere(
        self, own: dict[str, Plugin], route: dict[str, Any], wanted: str, host: str | None
    ) -> None:
        """The plugins that send requests, or copies of them, to other services."""

        def service_of(one: Fields) -> str | None:
            upstream = self._upstream(one)
            if upstream is None or "missing" in upstream.data:
                return None
            upstream.name = upstream.name or one.name
            return self._service(upstream, f"{wanted}-split", host)

        if (plugin := own.pop("traffic-split", None)) is not None:
            apisix_traffic.split(plugin.config, route, _match_of_rule, service_of)
        if (plugin := own.pop("proxy-mirror", None)) is not None:
            apisix_traffic.mirror(plugin.config, route, self.draft, wanted)

    @staticmethod
    def _together(shared: list[Plugin], own: dict[str, Plugin]) -> list[Plugin]:
        """The plugins of a route and the global ones, which APISIX runs as well."""
        both = []
        for plugin in shared:
            if plugin.name in own and plugin.name not in LIMITS:
                kind: Kind = "open" if plugin.name == "ip-restriction" else "changed"
                own[plugin.name].config.note(
                    kind, "the global rule has the plugin, too; here, that of the route holds alone"
                )
            else:
                both.append(plugin)
        return [*own.values(), *both]

    def _forwarding(self, fields: Fields, service: Fields | None, route: dict[str, Any]) -> None:
        """What a route says about its way to the upstream."""
        inherited = service is not None and service.flag("enable_websocket")
        if fields.flag("enable_websocket", inherited):
            route["websocket"] = True
        times = fields.some("timeout")
        if read := rules.duration(times, "read", 1000):
            route["timeout"] = route["idle_timeout"] = read
        times.lost(("connect", "send"), "it belongs to the upstream", "changed")

    def _conditions(self, fields: Fields, service: Fields | None) -> dict[str, Any] | None:
        """Which requests match. None: it cannot be expressed."""
        if fields.raw("status") == 0:
            fields.note("lost", "the route: it is disabled", "status")
            return None
        for key in _UNTRANSLATED:
            if fields.raw(key):
                fields.note("lost", f"the route: {key} cannot be expressed", key)
                return None
        given = fields.texts("uri") + fields.texts("uris")
        found = [one for one in (_path(fields, uri) for uri in given) if one is not None]
        paths = list(dict.fromkeys(found))
        match = _match(fields)
        if not paths or match is None:
            return None
        route: dict[str, Any] = {"path": paths[0]} if len(paths) == 1 else {"paths": paths}
        hosts = fields.texts("host") + fields.texts("hosts")
        if service is not None:
            hosts = hosts or service.texts("hosts")
            service.skip(*_META, "plugins", "upstream", "upstream_id", "enable_websocket", "hosts")
            service.lost(("script",), "scripts are not run")
            service.rest()
        if hosts:
            route["hosts"] = list(dict.fromkeys(host.lower() for host in hosts))
        if methods := [one.upper() for one in fields.texts("methods")]:
            route["methods"] = methods
        if match:
            route["match"] = match
        if priority := fields.raw("priority"):
            route["priority"] = priority
        if fields.has("remote_addr") or fields.has("remote_addrs"):
            route |= rules.addresses(fields, ("remote_addr", "remote_addrs"), ())
            fields.note("changed", "other addresses get 403 instead of the next route")
        return route

    # ---- consumers --------------------------------------------------------------------------

    def _consumers(self) -> None:
        credentials: dict[str, list[Fields]] = {}
        for fields in self.objects["credentials"]:
            consumer = fields.text("consumer") or ""
            fields.name = f"consumer {consumer!r}"
            credentials.setdefault(consumer, []).append(fields)
        for fields in self.objects["consumers"]:
            wanted = fields.text("username") or fields.text("id") or "consumer"
            fields.name = f"consumer {wanted!r}"
            fields.skip(*_META)
            held = [fields, *credentials.pop(wanted, [])]
            keys = [key for one in held for key in self._keys(one)]
            fields.lost(("group_id",), "FastGate has no groups of consumers")
            fields.rest()
            party = {"name": self.draft.name("consumers", wanted), "keys": keys}
            self.draft.add("consumers", party, fields.path, fields.name)
        for left in credentials.values():
            for fields in left:
                fields.note("lost", "a credential: its consumer is not in the document")

    def _keys(self, fields: Fields) -> list[str]:
        """The API keys among the plugins of a consumer or credential."""
        found = []
        for name, plugin in apisix_plugins.read(fields).items():
            config = plugin.config
            if name == "key-auth":
                digest = self.draft.key(config.text("key") or "", config.path, fields.name)
                found += [] if digest is None else [digest]
                config.rest()
            elif name.endswith("-auth"):
                config.note("lost", "FastGate has API keys alone")
            else:
                config.note("open", "FastGate has no plugins of one consumer")
        return found


def _path(fields: Fields, uri: str) -> str | None:
    """The path of a route for a `uri`."""
    bare = uri.rstrip("*")
    if uri in ("*", "/*"):
        return "/{rest*}"
    if "*" in bare or "{" in uri or "}" in uri or not uri.startswith("/"):
        fields.note("lost", f"the uri {uri!r}: a '*' that is not at its end, or no path")
        return None
    path = re.sub(r"(?<=/):([A-Za-z_]\w*)(?=/|$)", r"{\1}", bare, flags=re.A)
    if path != bare:
        fields.note("changed", f"the uri {uri!r}: ':' is a parameter, whatever the router is")
    if bare == uri:
        return path
    if bare.endswith("/"):
        fields.note("changed", f"the uri {uri!r} also matches {bare[:-1]!r}")
        return path + "{rest*}"
    fields.note("changed", f"the uri {uri!r} is a prefix of whole segments: not of {bare + 'x'!r}")
    return path + "/{rest*}"


def _match(fields: Fields, what: str = "the route") -> dict[str, Any] | None:
    """The `match` for `vars`. None: it cannot be expressed (reported)."""
    conditions = fields.raw("vars")
    match: dict[str, dict[str, Any]] = {}
    for one in conditions if isinstance(conditions, list) else [conditions] if conditions else []:
        where, name, value = _condition(one)
        if where is None or name in match.get(where, {}):
            fields.note("lost", f"{what}: `vars` other than headers and parameters with '=='")
            return None
        match.setdefault(where, {})[name] = {"equals": value}
    return match


def _match_of_rule(fields: Fields) -> dict[str, Any] | None:
    return _match(fields, "the rule")


def _condition(one: Any) -> tuple[str | None, str, str]:
    """Where a condition looks, the name and the value."""
    if not isinstance(one, list) or len(one) != 3 or one[1] != "==":
        return None, "", ""
    variable, _, value = one
    if not isinstance(variable, str) or not isinstance(value, str | int) or isinstance(value, bool):
        return None, "", ""
    if variable.startswith("http_"):
        return "headers", variable[5:].replace("_", "-"), str(value)
    if variable.startswith("arg_"):
        return "query", variable[4:], str(value)
    return None, "", ""
