"""Paths, hosts and methods of routes: finds those that can never match a request.

A route with a path or host that no request has is a mistake that would stay unnoticed: the route
would be accepted but never used. So it is an error here, with a suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastgate._core.snapshot.router_build import METHOD_NUMBERS
from fastgate.model.places import host_name
from fastgate.model.segment_pattern import compile_pattern

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\*?)\}")
_PATTERNED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*):(.*)\}")
"""A segment that is a parameter with a pattern."""
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+(/\{[A-Za-z_][A-Za-z0-9_]*(\}/?|\*\})|/)?")
"""Most paths: literal segments, then at most one parameter."""
_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]*")
MAX_PARAMETERS = 16
_ENCODED_SLASH = re.compile(r"%2f|%5c", re.I)
_DOTS = re.compile(r"(\.|%2e){1,2}(;.*)?", re.I)
"""A dot segment in any spelling, with or without parameters."""
_COLON = re.compile(r":([A-Za-z_]\w*)", re.A)
_ANGLES = re.compile(r"<(?:\w+:)?([A-Za-z_]\w*)>", re.A)


def shape_of(path: str) -> str:
    """The path without the patterns of its parameters: `/orders/{id}` for `/orders/{id:[0-9]+}`."""
    if "{" not in path or ":" not in path:
        return path
    return "/".join(_PATTERNED.sub(r"{\1}", segment) for segment in path.split("/"))


def segment_patterns(path: str) -> tuple[tuple[int, str], ...]:
    """The numbers, from 0, of the segments whose parameters have patterns, and the patterns."""
    if "{" not in path or ":" not in path:
        return ()
    matches = ((i, _PATTERNED.fullmatch(each)) for i, each in enumerate(path.split("/")[1:]))
    return tuple((number, match[2]) for number, match in matches if match is not None)


def patterned_bits(path: str, segments: Iterable[tuple[int, str]]) -> int:
    """Which parameters of the path have patterns: the first one is the highest of 16 bits."""
    texts = path.split("/")[1:]
    numbers = {number for number, _ in segments}
    parameters = [i for i, text in enumerate(texts) if text.startswith("{")]
    return sum(1 << (15 - k) for k, number in enumerate(parameters) if number in numbers)


def literal_prefix(path: str) -> str:
    """The part of a route's path before its first parameter."""
    return path.partition("{")[0]


def path_parameters(path: str) -> dict[str, bool]:
    """The parameters of a route's path, in order, and whether each matches the whole rest."""
    return {name: bool(rest) for name, rest in _PARAMETER.findall(path)}


def check_path(path: str, *, encoded_slash: bool = False) -> None:
    """Raise ValueError unless `path` can match a request."""
    if _PLAIN_PATH.fullmatch(path) and "/." not in path:
        return
    if "?" in shape_of(path):
        raise ValueError(f"path: {path!r} has a query; ask for parameters with match.query")
    names: list[str] = []
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if _DOTS.fullmatch(segment) or (not segment and not last):
            raise ValueError(f"path: {path!r} has an empty or dot segment; paths are canonical")
        _check_spelling(path, segment, last)
        if "{" not in segment and "}" not in segment:
            _check_literal(segment, encoded_slash)
            continue
        patterned = _PATTERNED.fullmatch(segment)
        if patterned is not None:
            try:
                compile_pattern(patterned[2])
            except ValueError as error:
                raise ValueError(f"path: the pattern of {patterned[1]!r}: {error}") from None
            names.append(patterned[1])
            continue
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            raise ValueError(
                f"path: {segment!r} is not a parameter; a parameter is a whole segment, "
                "'{name}', '{name:pattern}' or '{name*}'; a pattern has no '/'"
            )
        if match[2] and not last:
            raise ValueError(
                f"path: {segment!r} matches the rest of the path, so it must come last"
            )
        names.append(match[1])
    if len(set(names)) != len(names):
        raise ValueError(f"path: {path!r} uses a parameter's name twice")
    if len(names) > MAX_PARAMETERS:
        raise ValueError(f"path: more than {MAX_PARAMETERS} parameters")


def _check_spelling(path: str, segment: str, last: bool) -> None:
    """Raise ValueError for other programs' syntax of parameters, which is literal text here."""
    if segment.strip("*") == "" and segment:
        meant = path[: len(path) - len(segment)] + "{rest*}" if last else None
        hint = f"write {meant!r}" if meant else "write '{name}' for one segment"
        raise ValueError(f"path: {segment!r} is literal text, not a wildcard; {hint}")
    if last and segment.endswith("*") and "{" not in segment:
        raise ValueError(
            f"path: the '*' in {segment!r} is literal text, not a wildcard; a prefix consists of "
            f"whole segments: write {path[: len(path) - len(segment)] + segment.rstrip('*')!r} and "
            "'/{rest*}' behind it"
        )
    other = _COLON.fullmatch(segment) or _ANGLES.fullmatch(segment)
    if other:
        raise ValueError(
            f"path: {segment!r} is literal text, not a parameter; write '{{{other[1]}}}'"
        )


def _check_literal(segment: str, encoded_slash: bool) -> None:
    if not _LITERAL.fullmatch(segment):
        raise ValueError(f"path: {segment!r} has characters that must be percent-encoded")
    if not encoded_slash and _ENCODED_SLASH.search(segment):
        raise ValueError(
            f"path: no request can match {segment!r}: encoded slashes are refused. Write "
            "`encoded_slash: true`, or '/' where a segment ends"
        )


def check_rewritten(prefix: str) -> None:
    """Raise ValueError unless `prefix` can be put in front of a path."""
    if "{" in prefix or "}" in prefix:
        raise ValueError(
            f"rewrite.replace_prefix: {prefix!r} is taken literally; a template with parameters is "
            "written as rewrite.path"
        )
    for index, segment in enumerate(prefix.split("/")[1:]):
        last = index == prefix.count("/") - 1
        if _DOTS.fullmatch(segment) or (not segment and not last):
            raise ValueError(f"rewrite.replace_prefix: {prefix!r} has an empty or dot segment")
        if not _LITERAL.fullmatch(segment):
            raise ValueError(
                f"rewrite.replace_prefix: {segment!r} has characters that must be percent-encoded"
            )


def check_methods(methods: Iterable[str]) -> None:
    """Raise ValueError for a known method that is not written in capitals."""
    for method in methods:
        if method != method.upper() and method.upper() in METHOD_NUMBERS:
            raise ValueError(
                f"methods: {method!r}: methods are case-sensitive; write {method.upper()!r}"
            )


def check_host(host: str) -> None:
    """Raise ValueError unless `host` is valid for a route."""
    bare = host.removeprefix("*.")
    if "/" in bare:
        raise ValueError(
            f"hosts: {host!r}: write the host alone, without scheme and path, as in "
            "'api.example.com'"
        )
    if ":" in bare and not re.fullmatch(r"\[[^\]]*\]", bare):
        raise ValueError(f"hosts: {host!r}: write the host without a port; listeners have ports")
    if "*" in bare:
        raise ValueError(f"hosts: {host!r}: '*.' may only be at the front, once")
    if bare != bare.lower():
        raise ValueError(f"hosts: {host!r}: write host names in lower case")
    if bare.endswith("."):
        raise ValueError(f"hosts: {host!r}: leave out the dot at the end; requests match without")
    if not bare.isascii():
        raise ValueError(f"hosts: {host!r}: write it as clients send it, in Punycode ('xn--…')")
    address = re.fullmatch(r"\[[0-9a-f:.]+\]|\d{1,3}(\.\d{1,3}){3}", bare)
    if not host_name(bare) and not (address and bare == host):
        raise ValueError(f"hosts: {host!r} is not a host name")
