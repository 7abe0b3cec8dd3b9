"""A router that tries every pattern, in the documented order."""

from __future__ import annotations

from typing import NamedTuple

from fastgate._core.snapshot.router import Found


class Rule(NamedTuple):
    """A route as the router sees it."""

    path: str
    name: str = ""
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str, str], ...] = ()  # (name, kind, value)
    query: tuple[tuple[str, str, str], ...] = ()
    cookies: tuple[tuple[str, str, str], ...] = ()
    priority: int = 0


ANY = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"})


def match_path(pattern: str, path: str) -> tuple[tuple[int, ...], tuple[str, ...]] | None:
    """(what each segment is: 0 literal, 1 parameter, 2 rest; values), or None."""
    kinds: list[int] = []
    values: list[str] = []
    wanted, given_ = pattern.split("/")[1:], path.split("/")[1:]
    for i, segment in enumerate(wanted):
        if segment.endswith("*}"):
            return (*kinds, 2), (*values, "/".join(given_[i:]))
        if i >= len(given_):
            return None
        if segment.startswith("{"):
            if not given_[i]:
                return None
            kinds.append(1)
            values.append(given_[i])
        elif segment == given_[i]:
            kinds.append(0)
        else:
            return None
    return (tuple(kinds), tuple(values)) if len(wanted) == len(given_) else None


def host_rank(hosts: tuple[str, ...], host: str) -> tuple[int, int] | None:
    """Smaller is better; None: another host."""
    host = host.lower().removesuffix(".")
    ranks = []
    for candidate in hosts:
        if candidate.startswith("*."):
            if host.endswith(candidate[1:]) and len(host) > len(candidate) - 1:
                ranks.append((1, -len(candidate)))
        elif candidate == host:
            ranks.append((0, 0))
    if not hosts:
        ranks.append((2, 0))
    return min(ranks, default=None)


def holds(kind: str, wanted: str, value: str) -> bool:
    return {
        "present": True,
        "equals": value == wanted,
        "prefix": value.startswith(wanted),
    }[kind]


def predicates_hold(rule: Rule, headers: list[tuple[str, str]], query: str | None) -> bool:
    pairs = [part.partition("=")[::2] for part in (query or "").split("&")] if query else []
    cookies = [
        part.strip(" \t").partition("=")[::2]
        for key, value in headers
        if key.lower() == "cookie"
        for part in value.split(";")
        if "=" in part
    ]
    return all(
        any(key.lower() == name and holds(kind, wanted, value) for key, value in headers)
        for name, kind, wanted in rule.headers
    ) and all(
        any(key == name and holds(kind, wanted, value) for key, value in found)
        for conditions, found in ((rule.query, pairs), (rule.cookies, cookies))
        for name, kind, wanted in conditions
    )


def find_naively(
    rules: list[Rule],
    host: str,
    path: str,
    method: str,
    headers: list[tuple[str, str]],
    query: str | None,
) -> Found:
    ranked = []
    for i, rule in enumerate(rules):
        matched = match_path(rule.path, path)
        rank = host_rank(rule.hosts, host)
        if matched is not None and rank is not None:
            order = (
                rank,
                matched[0],
                -rule.priority,
                not rule.methods,
                -len(rule.headers) - len(rule.query) - len(rule.cookies),
                rule.name or f"r{i}",
            )
            ranked.append((order, i, matched[1]))
    allowed: set[str] = set()
    for _, i, values in sorted(ranked):
        rule = rules[i]
        if not predicates_hold(rule, headers, query):
            continue
        if method in rule.methods or (not rule.methods and method != "CONNECT"):
            return Found(200, i, rule.name or f"r{i}", values, frozenset())
        numbered = ANY | {"CONNECT"}
        allowed |= (set(rule.methods) & numbered) or (set() if rule.methods else ANY | {""})
        allowed |= {""} if set(rule.methods) - numbered else set()
    return Found(405 if allowed else 404, None, None, (), frozenset(allowed))
