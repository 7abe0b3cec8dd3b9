"""What several formats have in common: header rules, CORS, addresses, targets, durations."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastgate.importers.source import Fields
from fastgate.model.base import TOKEN, VALUE
from fastgate.model.policy import OURS, UNTOUCHABLE, check_origin

Rules = dict[str, Any]
"""A part of a route or policy: limits, quotas, concurrency, addresses, cors, headers."""


def merge(into: Rules, more: Rules) -> None:
    """Add rules to others. Lists are joined; of two single values, the first stays."""
    for key, value in more.items():
        if key not in into:
            into[key] = dict(value) if isinstance(value, dict) else value
        elif isinstance(value, list):
            into[key] = [*into[key], *(one for one in value if one not in into[key])]
        elif isinstance(value, dict):
            merge(into[key], value)


def duration(fields: Fields, key: str, unit_ms: int) -> str | None:
    """A duration of the document, from a number of units; None: absent or 0."""
    value = fields.number(key)
    if not value:
        return None
    ms = round(value * unit_ms)
    if not 1 <= ms <= 86_400_000:
        kept = min(max(ms, 1), 86_400_000)
        fields.note("changed", f"{key}: durations are from 1ms to 1d", key)
        ms = kept
    return f"{ms // 1000}s" if ms % 1000 == 0 else f"{ms}ms"


def networks(fields: Fields, key: str) -> list[str]:
    """Networks or addresses in canonical form."""
    found = []
    for text in fields.texts(key):
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            fields.note("lost", f"{key}: an entry is not a network or an address", key)
            continue
        one = network.prefixlen == network.max_prefixlen
        found.append(str(network.network_address) if one else str(network))
    return list(dict.fromkeys(found))


def addresses(fields: Fields, allow: tuple[str, ...], deny: tuple[str, ...]) -> Rules:
    """Rules for addresses, from the keys that may hold those that are allowed or denied."""
    listed: Rules = {}
    for name, keys in (("allow", allow), ("deny", deny)):
        given = [text for key in keys for text in fields.texts(key)]
        valid = [text for key in keys for text in networks(fields, key)]
        if given and not valid and name == "allow":
            valid = ["255.255.255.255"]  # an empty list would allow anyone
        if valid:
            listed[name] = valid
    return {"addresses": listed} if listed else {}


def headers(way: str, rules: dict[str, Any], fields: Fields, key: str) -> Rules:
    """Header rules for `request` or `response`, without what the gateway does not allow."""
    kept: dict[str, Any] = {}
    for change, entries in rules.items():
        if isinstance(entries, dict):
            good = {n: v for n, v in entries.items() if _header(way, n, v, fields, key)}
            if good:
                kept[change] = good
        else:
            names = [n for n in dict.fromkeys(entries) if _header(way, n, "", fields, key)]
            if names:
                kept[change] = names
    return {"headers": {way: kept}} if kept else {}


def _header(way: str, name: str, value: str, fields: Fields, key: str) -> bool:
    if not re.search(TOKEN, name) or not re.search(VALUE, value) or value != value.strip():
        fields.note("lost", f"the header {name[:128]!r}: its name or value is not valid", key)
        return False
    ours = OURS if way == "request" else {"x-request-id"}
    if name.lower() in UNTOUCHABLE or name.lower() in ours:
        fields.note("lost", f"the header {name!r}: the gateway sets it, so it has no rules", key)
        return False
    return True


def cors(fields: Fields, parts: Mapping[str, Any]) -> Rules:
    """Rules for CORS. `parts`: origins, methods, headers, expose, credentials, max_age (seconds).

    Empty: no origin is left, so browsers of other origins are refused.
    """
    origins = []
    for origin in parts["origins"] or ["*"]:
        try:
            if origin not in ("*", "null") and not re.match(
                r"[a-z][a-z0-9+.-]*://[^/\s]+$", origin
            ):
                raise ValueError(f"{origin!r} is not an origin")
            check_origin(origin)
        except ValueError as error:
            fields.note("lost", f"CORS for an origin: {error}")
            continue
        origins.append(origin)
    if "*" in origins:
        origins = ["*"]
    if not origins:
        return {}
    said: Rules = {"origins": origins}
    for key in ("methods", "headers", "expose"):
        listed = [one for one in parts[key] if one not in ("*", "**") and re.search(TOKEN, one)]
        if key == "methods":
            listed = [one.upper() for one in listed if one.upper() != "CONNECT"]
        if key == "expose" and "*" in parts[key]:
            fields.note("lost", "CORS: all response headers exposed; list their names")
        if listed and not (key == "headers" and "*" in parts[key]):
            said[key] = list(dict.fromkeys(listed))
    if parts["credentials"]:
        if origins == ["*"]:
            fields.note("lost", "CORS: credentials for any origin; name the origins")
        else:
            said["credentials"] = True
    if parts["max_age"] is not None and parts["max_age"] <= 86_400 * 3650:
        said["max_age"] = f"{int(parts['max_age'])}s"
    return {"cors": said}


def host_port(host: str, port: int | None) -> str:
    """An authority; an IPv6 address gets its brackets."""
    bare = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return bare if port is None else f"{bare}:{port}"


def weights(targets: Iterable[tuple[str, int]], fields: Fields) -> list[dict[str, Any]]:
    """Targets of an upstream, each once, with weights from 1 to 1000 in the same proportion."""
    summed: dict[str, int] = {}
    for url, weight in targets:
        if weight <= 0:
            fields.note("lost", "a target with weight 0, which gets no requests")
            continue
        summed[url] = summed.get(url, 0) + weight
    if not summed:
        return []
    most = max(summed.values())
    if len(set(summed.values())) == 1:
        summed = dict.fromkeys(summed, 1)
    elif most > 1000:
        summed = {url: max(1, round(one * 1000 / most)) for url, one in summed.items()}
        fields.note("changed", "weights are at most 1000; they are scaled")
    return [{"url": url} if n == 1 else {"url": url, "weight": n} for url, n in summed.items()]


def statuses(fields: Fields, key: str, allowed: Callable[[int], bool]) -> list[str]:
    """Statuses, as texts; whole classes are shortened to `2xx`."""
    numbers = {int(text) for text in fields.texts(key) if re.fullmatch(r"[1-5]\d\d", text, re.A)}
    return [str(number) for number in sorted(numbers) if allowed(number)]


def health(active: Fields, path: str, unit_ms: int = 1000) -> Rules:
    """Active health checks from `healthy` and `unhealthy`, which Kong and APISIX write alike."""
    good, bad = active.some("healthy"), active.some("unhealthy")
    said: Rules = {"path": path}
    intervals = [n for n in (good.number("interval"), bad.number("interval")) if n]
    if intervals:
        ms = round(min(intervals) * unit_ms)
        said["interval"] = f"{min(max(ms, 100), 86_400_000)}ms"
        if len(set(intervals)) > 1:
            active.note("changed", "one interval for healthy and unhealthy targets: the shorter")
    if timeout := duration(active, "timeout", unit_ms):
        said["timeout"] = timeout
    if successes := good.whole("successes"):
        said["healthy_after"] = min(successes, 100)
    failures = [n for k in ("http_failures", "tcp_failures", "timeouts") if (n := bad.whole(k))]
    if failures:
        said["unhealthy_after"] = (
            min(*failures, 100) if len(failures) > 1 else min(failures[0], 100)
        )
    if expect := statuses(good, "http_statuses", lambda number: True):
        said["expect"] = expect
    bad.skip("http_statuses")
    good.rest()
    bad.rest()
    return said


def eject(passive: Fields) -> Rules:
    """Passive ejection from `unhealthy`; empty: none is said."""
    bad = passive.some("unhealthy")
    failures = [n for k in ("http_failures", "tcp_failures", "timeouts") if (n := bad.whole(k))]
    found = statuses(bad, "http_statuses", lambda number: number >= 400)
    passive.skip("healthy", "type")
    bad.rest()
    passive.rest()
    if not failures:
        return {}
    said: Rules = {"after": min(min(failures), 10_000)}
    if found and bad.whole("http_failures"):
        said["statuses"] = found
    return said
