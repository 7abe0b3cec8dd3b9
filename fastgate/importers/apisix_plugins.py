"""APISIX's plugins as rules of routes.

The plugins of a service, a plugin config and a route are merged for each route, and counts belong
to the route. Only limits with a `group`, and global rules, are shared: they become policies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from fastgate.importers import rules
from fastgate.importers.draft import Draft
from fastgate.importers.rules import Rules
from fastgate.importers.source import Fields

LIMITS = ("limit-count", "limit-req", "limit-conn")
_PROTECTING = frozenset(
    {
        "acl", "attach-consumer-label", "authz-casbin", "authz-casdoor", "authz-keycloak",
        "basic-auth", "cas-auth", "chaitin-waf", "client-control", "consumer-restriction", "csrf",
        "forward-auth", "hmac-auth", "jwe-decrypt", "jwt-auth", "ldap-auth", "multi-auth", "opa",
        "openid-connect", "referer-restriction", "request-validation", "saml-auth",
        "ua-restriction", "uri-blocker", "wolf-rbac",
    }
)  # fmt: skip
"""Plugins without which a route serves requests that APISIX refuses."""
_PREFIX = re.compile(r"\^(/[A-Za-z0-9._~/-]*?)/?\(\.\*\)\$?")
_REPLACED = re.compile(r"(/[A-Za-z0-9._~/-]*?)?/?\$1")


class Plugin(NamedTuple):
    """A plugin's configuration somewhere in the document."""

    name: str
    config: Fields
    shared: bool
    """Whether it is of a global rule."""


def read(owner: Fields, shared: bool = False) -> dict[str, Plugin]:
    """The plugins of an object that are not disabled."""
    plugins = owner.some("plugins")
    found = {}
    for name in plugins.data:
        config = plugins.section(name, f"plugin {name!r} of {owner.name}")
        if config is None:
            continue
        meta = config.some("_meta")
        off = meta.flag("disable") or config.data.get("disable") is True
        meta.lost(("filter",), "the plugin runs for all requests", "changed")
        config.skip("disable")
        if not off:
            found[name] = Plugin(name, config, shared)
    return found


class Plugins:
    """Applies plugins to routes. Each shared limit becomes a policy when it is first needed."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._policies: dict[tuple[str, bool], str | None] = {}

    def apply(self, route: dict[str, Any], plugins: list[Plugin]) -> None:
        """Apply plugins to a route, which has its paths and its service."""
        key_auth = next((one for one in plugins if one.name == "key-auth"), None)
        if key_auth is not None:
            route["auth"] = {"api_key": _key_auth(key_auth.config)}
        for plugin in plugins:
            if plugin.name == "key-auth":
                continue
            act = _ACTIONS.get(plugin.name)
            translate = _TRANSLATE.get(plugin.name)
            if act is not None:
                act(plugin.config, route)
                plugin.config.rest()
            elif translate is None:
                plugin.config.nothing_like(plugin.name in _PROTECTING)
            else:
                self._add(route, plugin, key_auth is not None)

    def _add(self, route: dict[str, Any], plugin: Plugin, identified: bool) -> None:
        group = plugin.config.text("group") if plugin.name == "limit-count" else None
        if not plugin.shared and group is None:
            found = _translated(plugin, identified)
            if "allow" in route.get("addresses", {}) and "allow" in found.get("addresses", {}):
                plugin.config.note("open", "whitelist: those of the route's remote_addrs may call")
                del found["addresses"]["allow"]
            rules.merge(route, found)
            return
        key = (f"group {group}" if group else plugin.config.path, identified)
        if key not in self._policies:
            found = _translated(plugin, identified)
            name = None
            if found:
                name = self._draft.name("policies", group or f"global-{plugin.name}")
                config = plugin.config
                self._draft.add("policies", {"name": name, **found}, config.path, config.name)
            self._policies[key] = name
        policy = self._policies[key]
        if policy is not None and policy not in route.setdefault("policies", []):
            route["policies"].append(policy)


def _translated(plugin: Plugin, identified: bool) -> Rules:
    found = _TRANSLATE[plugin.name](plugin.config, identified)
    plugin.config.rest()
    return found


def _key_auth(config: Fields) -> dict[str, Any]:
    auth: dict[str, Any] = {"header": config.text("header") or "apikey", "bearer": False}
    query = config.text("query") or "apikey"
    if re.fullmatch(r"[A-Za-z0-9._~-]{1,64}", query):
        auth["query"] = query
    else:
        config.note("lost", "keys in the query: the parameter's name is not valid", "query")
    if not config.flag("hide_credentials"):
        auth["forward"] = True
    if config.raw("anonymous_consumer"):
        auth["optional"] = True
        config.note("changed", "requests without a key pass as nobody", "anonymous_consumer")
    config.skip("realm")
    config.rest()
    return auth


# ---- limits -----------------------------------------------------------------------------


def _amount(config: Fields, key: str) -> float:
    """A number of a limit; 0, which is reported: none, or a variable."""
    value = config.raw(key)
    if isinstance(value, str) and "$" in value:
        value = None
    number = config.number(key) if value is not None else None
    if not number:
        config.note("open", f"there is no limit: its {key} is missing, 0 or a variable")
    return number or 0


def _scopes(config: Fields, identified: bool) -> list[str]:
    kind = config.text("key_type") or "var"
    key = config.text("key") or "remote_addr"
    if kind == "constant":
        return ["route"]
    found = []
    for name in re.findall(r"\w+", key) if kind == "var_combination" else [key]:
        if name == "consumer_name" and identified:
            scope = "consumer"
        elif name.startswith("http_"):
            scope = f"header:{name[5:].replace('_', '-')}"
        else:
            scope = "address"
            if name not in ("remote_addr", "consumer_name"):
                config.note("changed", f"key: {name!r}; it counts by address", "key")
        if scope not in found:
            found.append(scope)
    return found or ["address"]


def _refusal(config: Fields) -> None:
    """Report what the refusal of a limit has of its own."""
    if config.raw("rejected_code") not in (None, 429):
        config.note("changed", "rejected_code: a refusal has status 429", "rejected_code")
    if config.raw("rejected_msg"):
        config.note("changed", "rejected_msg: a refusal has its own text", "rejected_msg")
    policy = config.text("policy")
    if policy not in (None, "local"):
        config.note("changed", f"policy: {policy!r}; requests are counted on each host", "policy")
    config.skip("allow_degradation", "show_limit_quota_header", "sync_interval")
    config.skip(*(key for key in config.data if key.startswith("redis_")))


def _limit_count(config: Fields, identified: bool) -> Rules:
    count, window = int(_amount(config, "count")), int(_amount(config, "time_window"))
    by = _scopes(config, identified)
    config.skip("group")
    _refusal(config)
    if not count or not window:
        return {}
    return {"limits": [{"rate": f"{count}/{_period(window)}", "by": by}]}


def _period(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds % length == 0:
            number = seconds // length
            return unit if number == 1 else f"{number}{unit}"
    return "s" if seconds == 1 else f"{seconds}s"


def _limit_req(config: Fields, identified: bool) -> Rules:
    rate = Fraction(_amount(config, "rate")).limit_denominator(1000)
    burst = config.whole("burst") or 0
    by = _scopes(config, identified)
    if burst and not config.flag("nodelay"):
        config.note("changed", "requests beyond the rate are served at once, not delayed", "burst")
    config.skip("nodelay")
    _refusal(config)
    if not rate:
        return {}
    period = _period(rate.denominator)
    limit = {"rate": f"{rate.numerator}/{period}", "burst": burst + 1, "by": by}
    return {"limits": [limit]}


def _limit_conn(config: Fields, identified: bool) -> Rules:
    most = int(_amount(config, "conn")) + (config.whole("burst") or 0)
    by = _scopes(config, identified)
    config.skip("default_conn_delay", "only_use_default_delay", "key_ttl")
    if config.whole("burst"):
        config.note("changed", "requests beyond `conn` are served at once, not delayed", "burst")
    _refusal(config)
    return {"concurrency": [{"max": most, "by": by}]} if most else {}


# ---- others -----------------------------------------------------------------------------


def _listed(config: Fields, key: str, default: str = "") -> list[str]:
    """A text with commas as a list."""
    text = config.text(key)
    parts = (default if text is None else text).split(",")
    return [part.strip() for part in parts if part.strip()]


def _cors(config: Fields, identified: bool) -> Rules:
    regexes = config.raw("allow_origins_by_regex")
    origins = ["*" if one == "**" else one for one in _listed(config, "allow_origins", "*")]
    if regexes:
        config.note("lost", "origins by regular expression", "allow_origins_by_regex")
        if config.data.get("allow_origins") is None:
            return {}
    age = config.raw("max_age")
    config.skip("allow_origins_by_metadata", "timing_allow_origins")
    return rules.cors(
        config,
        {
            "origins": origins,
            "methods": _listed(config, "allow_methods", "*"),
            "headers": _listed(config, "allow_headers", "*"),
            "expose": _listed(config, "expose_headers"),
            "credentials": config.flag("allow_credential"),
            "max_age": age if isinstance(age, int) and age >= 0 else 5,
        },
    )


def _ip_restriction(config: Fields, identified: bool) -> Rules:
    for key in ("message", "response_code"):
        if config.raw(key):
            config.note("changed", f"{key}: a refusal has status 403 and its own text", key)
    return rules.addresses(config, ("whitelist",), ("blacklist",))


def _header_rules(config: Fields, way: str) -> Rules:
    headers = config.some("headers")
    changes = headers.data.keys() <= {"set", "add", "remove"}
    said: dict[str, Any] = {"remove": headers.texts("remove") if changes else []}
    for change in ("set", "add") if changes else ("set",):
        listed = headers.data.get(change) if changes else headers.data
        headers.skip(*(headers.data if not changes else (change,)))
        pairs = listed.items() if isinstance(listed, dict) else _lines(listed)
        entries = {}
        for name, value in pairs:
            if isinstance(value, list | dict) or value is None or "$" in str(value):
                headers.note("lost", f"the header {name!r}: its value has variables or is no text")
            elif value == "" and not changes:
                said["remove"].append(name)
            else:
                entries[name] = str(value)
        said[change] = entries
    return rules.headers(way, said, headers, "")


def _lines(listed: Any) -> list[tuple[str, str]]:
    """Headers as APISIX also writes them: `["Name: value"]`."""
    texts = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    pairs = (one.partition(":") for one in texts)
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _response_rewrite(config: Fields, identified: bool) -> Rules:
    for key in ("status_code", "body", "body_base64", "filters", "vars"):
        config.lost((key,), "answers of upstreams keep their status and body")
    return _header_rules(config, "response")


def _proxy_rewrite(config: Fields, route: dict[str, Any]) -> None:
    for key in ("method", "scheme", "use_real_request_uri_unsafe"):
        config.lost((key,), "FastGate does not change it")
    config.skip("host")  # by the caller: it belongs to the service
    rules.merge(route, _header_rules(config, "request"))
    uri, regexes = config.text("uri"), config.texts("regex_uri")
    if uri is not None:
        if "$" in uri or "{" in uri or not uri.startswith("/"):
            config.note("lost", "uri: it has variables, or is no path", "uri")
        else:
            route["rewrite"] = {"path": uri}
    elif regexes:
        rewrite = _prefix_rewrite(regexes, route.get("paths") or [route["path"]])
        if rewrite is None:
            config.note("lost", "regex_uri: only '^/prefix/(.*)' to '/other/$1'", "regex_uri")
        else:
            route["rewrite"] = rewrite


def _prefix_rewrite(regexes: list[str], paths: list[str]) -> dict[str, str] | None:
    """Another prefix of the path, which is the most common regular expression."""
    if len(regexes) != 2:
        return None
    before, after = _PREFIX.fullmatch(regexes[0]), _REPLACED.fullmatch(regexes[1])
    if before is None or after is None:
        return None
    strip, put = before[1].rstrip("/"), (after[1] or "").rstrip("/")
    if not all(path.startswith(f"{strip}/") for path in paths):
        return None
    said = {"strip_prefix": strip} if strip else {}
    return {**said, "replace_prefix": put} if put else said or None


def _redirect(config: Fields, route: dict[str, Any]) -> None:
    if config.flag("http_to_https"):
        config.note(
            "open", "http_to_https: it is served without TLS; write `redirect: https` at the "
            "listener", "http_to_https",
        )  # fmt: skip
    uri, status = config.text("uri"), config.whole("ret_code") or 302
    config.skip("encode_uri")
    config.lost(("regex_uri",), "redirects by regular expressions")
    keep = config.flag("append_query_string")
    if uri is None:
        return
    to = re.sub(r"\$\{?uri\b\}?", "{path}", uri)
    to = re.sub(r"\$\{?host\b\}?", "{host}", to)
    if "$" in to:
        config.note("lost", "uri: a variable other than $uri and $host", "uri")
        return
    if status not in (301, 302, 303, 307, 308):
        config.note("changed", "ret_code: it becomes 302", "ret_code")
        status = 302
    for key in ("service", "rewrite", "websocket", "timeout", "idle_timeout"):
        route.pop(key, None)
    route["redirect"] = {"to": to, "status": status, "keep_query": keep}


_TRANSLATE: dict[str, Callable[[Fields, bool], Rules]] = {
    "limit-count": _limit_count,
    "limit-req": _limit_req,
    "limit-conn": _limit_conn,
    "cors": _cors,
    "ip-restriction": _ip_restriction,
    "response-rewrite": _response_rewrite,
}
"""(configuration, whether the caller is identified) -> rules."""
_ACTIONS: dict[str, Callable[[Fields, dict[str, Any]], None]] = {
    "proxy-rewrite": _proxy_rewrite,
    "redirect": _redirect,
}
"""Plugins that change where a route leads."""
