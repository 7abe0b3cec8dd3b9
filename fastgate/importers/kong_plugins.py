"""Kong's plugins as rules of routes.

Kong runs each plugin once for a request, with its most specific configuration: of the route, else
of the service, else the global one. Counts of a rate limit belong to that configuration, so it
becomes a policy that all its routes name, or rules of the route if it is the route's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from fastgate.importers import rules
from fastgate.importers.draft import Draft
from fastgate.importers.report import Report
from fastgate.importers.rules import Rules
from fastgate.importers.source import Fields

_PROTECTING = frozenset(
    {
        "acl", "basic-auth", "bot-detection", "hmac-auth", "jwt", "jwt-signer", "ldap-auth",
        "ldap-auth-advanced", "mtls-auth", "oauth2", "oauth2-introspection", "opa",
        "openid-connect", "rate-limiting-advanced", "request-size-limiting", "request-validator",
        "response-ratelimiting", "session", "vault-auth",
    }
)  # fmt: skip
"""Plugins without which a route serves requests that Kong refuses."""
_WINDOWS = {"second": "s", "minute": "min", "hour": "h"}
_CALLERS = ("consumer", "credential")
_PERIODS = ("day", "month", "year")


class Plugin(NamedTuple):
    """A plugin's configuration somewhere in the document."""

    name: str
    fields: Fields
    config: Fields
    owner: str
    """Whose it is: `global`, the service's or the route's name."""


def read(fields: Fields, owner: str, whose: str) -> Plugin | None:
    """A plugin; None: it is off."""
    name = fields.text("name") or "a plugin without a name"
    fields.name = f"plugin {name!r} of {whose}"
    fields.skip("id", "tags", "instance_name", "protocols", "created_at", "updated_at")
    fields.skip("service", "route", "consumer", "_config", "run_on")
    if fields.has("_config"):
        fields.note("lost", "_config: shared configurations of decK; write it out", "_config")
    fields.lost(("ordering", "condition"), "plugins have a fixed order and no condition", "changed")
    config = fields.some("config")
    enabled = fields.flag("enabled", True)
    fields.rest()
    return Plugin(name, fields, config, owner) if enabled else None


class Plugins:
    """Applies plugins to routes. Each shared one becomes a policy when it is first needed."""

    def __init__(self, draft: Draft, report: Report) -> None:
        self._draft = draft
        self._report = report
        self._policies: dict[tuple[str, bool], str | None] = {}
        self.limit_names: set[str] = set()
        """The names of rate limits and quotas, which consumers may override."""

    def apply(self, route: dict[str, Any], plugins: dict[str, Plugin], own: bool) -> None:
        """Apply the plugins of a route. own: whether it is the only route of its Kong route."""
        key_auth = plugins.get("key-auth")
        if key_auth is not None:
            route["auth"] = {"api_key": _key_auth(key_auth.config)}
        for plugin in plugins.values():
            if plugin.name == "key-auth":
                continue
            if plugin.name == "request-termination":
                self._terminate(route, plugin)
                continue
            translate = _TRANSLATE.get(plugin.name)
            if translate is None:
                plugin.fields.nothing_like(plugin.name in _PROTECTING)
                continue
            if own and plugin.owner.startswith("route "):
                rules.merge(route, self._translated(plugin, key_auth is not None))
                continue
            policy = self._policy(plugin, key_auth is not None)
            if policy is not None:
                route.setdefault("policies", []).append(policy)

    def _translated(self, plugin: Plugin, identified: bool) -> Rules:
        found = _TRANSLATE[plugin.name](plugin.config, identified)
        plugin.config.rest()
        for kind in ("limits", "quotas"):
            named = (one["name"] for one in found.get(kind, []) if one["by"][0] in _CALLERS)
            self.limit_names.update(named)
        return found

    def _policy(self, plugin: Plugin, identified: bool) -> str | None:
        key = (plugin.fields.path, identified and plugin.name == "rate-limiting")
        if key not in self._policies:
            found = self._translated(plugin, identified)
            name = None
            if found:
                owner = plugin.owner.partition(" ")[2] or plugin.owner
                name = self._draft.name("policies", f"{owner}-{plugin.name}")
                self._draft.add(
                    "policies", {"name": name, **found}, plugin.fields.path, plugin.fields.name
                )
            self._policies[key] = name
        return self._policies[key]

    def _terminate(self, route: dict[str, Any], plugin: Plugin) -> None:
        config = plugin.config
        if config.raw("trigger"):
            plugin.fields.note("lost", "it answers only if a header or parameter triggers it")
            return
        config.lost(("echo",), "the answer does not show the request")
        status = config.whole("status_code") or 503
        if not 200 <= status <= 599:
            plugin.fields.note("changed", f"its status {status} becomes 503")
            status = 503
        body, message = config.text("body"), config.text("message")
        respond: dict[str, Any] = {"status": status}
        if body is not None and status not in (204, 304):
            respond["body"] = body
        elif status not in (204, 304):
            respond["json"] = {"message": message or "Service unavailable"}
        if kind := config.text("content_type"):
            respond["headers"] = {"Content-Type": kind}
        config.rest()
        for key in ("service", "rewrite", "preserve_host"):
            route.pop(key, None)
        route["respond"] = respond

    def override(self, plugin: Plugin, consumer: dict[str, Any]) -> None:
        """A consumer's own plugin: only rate limits, as other numbers for those that there are."""
        if plugin.name != "rate-limiting":
            kind = "FastGate has no such plugin for one consumer"
            protects = plugin.name in _PROTECTING | {"ip-restriction", "request-termination"}
            plugin.fields.note("open" if protects else "lost", kind)
            return
        found = _rate_limiting(plugin.config, True)
        plugin.config.rest()
        own = {}
        for one in found.get("limits", []):
            own[one["name"]] = {"rate": one["rate"]}
        for one in found.get("quotas", []):
            own[one["name"]] = {"requests": one["requests"]}
        for name in [name for name in own if name not in self.limit_names]:
            plugin.fields.note("open", f"no route has a limit {name!r} that it could replace")
            del own[name]
        if own:
            consumer["limits"] = own


def _key_auth(config: Fields) -> dict[str, Any]:
    names = config.texts("key_names") or ["apikey"]
    if len(names) > 1:
        config.note("lost", f"keys in {', '.join(map(repr, names[1:]))}: one name is taken")
    auth: dict[str, Any] = {"header": names[0], "bearer": False}
    if not config.flag("key_in_header", True):
        auth["header"] = None
    if config.flag("key_in_query", True):
        if re.fullmatch(r"[A-Za-z0-9._~-]{1,64}", names[0]):
            auth["query"] = names[0]
        else:
            config.note("lost", "keys in the query: the parameter's name is not valid")
    config.lost(("key_in_body",), "keys in bodies are not looked for")
    if not config.flag("hide_credentials"):
        auth["forward"] = True
    if config.raw("anonymous"):
        auth["optional"] = True
        config.note("changed", "anonymous: requests without a key pass as nobody", "anonymous")
    config.skip("run_on_preflight", "realm")
    config.rest()
    if auth["header"] is None and "query" not in auth:
        config.note("changed", "keys in bodies alone: the header is taken instead")
        auth["header"] = names[0]
    return auth


def _rate_limiting(config: Fields, identified: bool) -> Rules:
    by = _counted_by(config, identified)
    found: Rules = {}
    for window, unit in _WINDOWS.items():
        if amount := config.whole(window):
            limit = {"name": window, "rate": f"{amount}/{unit}", "by": [by]}
            found.setdefault("limits", []).append(limit)
    for period in _PERIODS:
        if amount := config.whole(period):
            quota = {"name": period, "requests": amount, "period": period, "by": [by]}
            found.setdefault("quotas", []).append(quota)
    policy = config.text("policy")
    if policy in ("cluster", "redis"):
        config.note("changed", f"policy {policy!r}: requests are counted on each host", "policy")
    config.skip(
        "fault_tolerant", "hide_client_headers", "redis", "sync_rate", "error_code",
        "error_message", "redis_host", "redis_port", "redis_password", "redis_username",
        "redis_ssl", "redis_ssl_verify", "redis_server_name", "redis_timeout", "redis_database",
    )  # fmt: skip
    for key in ("error_code", "error_message"):
        if config.raw(key) not in (None, 429, "API rate limit exceeded"):
            config.note("changed", f"{key}: a refusal has status 429 and its own text", key)
    return found


def _counted_by(config: Fields, identified: bool) -> str:
    by = config.text("limit_by") or "consumer"
    header, path = config.text("header_name"), config.text("path")
    if by in ("consumer", "credential"):
        return by if identified else "address"
    if by == "service":
        return "service"
    if by == "header" and header:
        return f"header:{header}"
    if by == "path":
        config.note("changed", f"limit_by: the path {path!r}; it counts by route", "limit_by")
        return "route"
    if by not in ("ip", "header"):
        config.note("changed", f"limit_by: {by!r}; it counts by address", "limit_by")
    return "address"


def _cors(config: Fields, identified: bool) -> Rules:
    config.lost(("preflight_continue",), "preflights are answered by the gateway", "changed")
    config.lost(("private_network",), "no answer allows private networks")
    config.skip("allow_origin_absent")
    return rules.cors(
        config,
        {
            "origins": config.texts("origins"),
            "methods": config.texts("methods"),
            "headers": config.texts("headers"),
            "expose": config.texts("exposed_headers"),
            "credentials": config.flag("credentials"),
            "max_age": config.number("max_age"),
        },
    )


def _ip_restriction(config: Fields, identified: bool) -> Rules:
    for key in ("status", "message"):
        if config.raw(key):
            config.note("changed", f"{key}: a refusal has status 403 and its own text", key)
    return rules.addresses(config, ("allow", "whitelist"), ("deny", "blacklist"))


def _pairs(config: Fields, section: str) -> dict[str, str]:
    """The headers `name:value` of a part of a transformer."""
    part = config.some(section)
    found = {}
    for text in part.texts("headers"):
        name, colon, value = text.partition(":")
        if not colon or "$(" in value:
            part.note("lost", f"the header {name!r}: its value is a template or missing", "headers")
        else:
            found[name.strip()] = value.strip()
    part.rest()
    return found


def _transformer(way: str) -> Callable[[Fields, bool], Rules]:
    def translate(config: Fields, identified: bool) -> Rules:
        remove = config.some("remove")
        removed = remove.texts("headers")
        remove.rest()
        added, appended = _pairs(config, "add"), _pairs(config, "append")
        for section in ("replace", "rename"):
            part = config.some(section)
            for text in part.texts("headers"):
                name = text.partition(":")[0]
                part.note("lost", f"the header {name!r}: only if it is there", "headers")
            part.rest()
        config.lost(("http_method",), "methods are not changed")
        config.skip("dots_in_keys")
        said = {"remove": removed, "add": appended, "default": added}
        return rules.headers(way, said, config, "")

    return translate


_TRANSLATE: dict[str, Callable[[Fields, bool], Rules]] = {
    "rate-limiting": _rate_limiting,
    "cors": _cors,
    "ip-restriction": _ip_restriction,
    "request-transformer": _transformer("request"),
    "response-transformer": _transformer("response"),
}
"""(configuration, whether the caller is identified) -> rules."""
