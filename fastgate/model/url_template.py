"""Templates of URLs: `rewrite.path` and `redirect.to`, parsed into pieces.

    https://{host}/v2/{rest}?user={id}#part
    └─┬─┘   └─┬──┘└────┬───┘ └───┬───┘ └─┬┘
    scheme authority  path     query  fragment (literal)

A brace always begins or ends a name; a literal one is `%7B` or `%7D`, as in every URL. No value
from a request may change the meaning of the text around it:

- The authority contains no parameter of the path, only the host that was called.
- A value that may be empty or have slashes (`{rest*}`, the whole path) comes last in the path, so
  that it does not create an empty segment.
- No segment is "." or "..". A parameter never is, since paths are canonical; so neither is a
  segment with parameters, unless a part of its text is dots alone. Such text is an error beside a
  parameter. (Parts end at an encoded slash or at ";", encoded or not, too: some servers see a
  segment end there.)

How a worker writes the pieces: `_core/exchange/url_pieces.pyx`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from fastgate.model.faults import listing
from fastgate.model.paths import path_parameters
from fastgate.model.places import host_value

BUILT_IN = ("host", "scheme", "path")
"""The names for redirects, besides the parameters of the path, which take precedence."""

_BRACED = re.compile(r"(\{[^{}]*\})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ABSOLUTE = re.compile(r"(https?|\{scheme\})://([^/?{]*(?:\{host\})?[^/?{]*)")
_ESCAPE = r"%(?!00)[0-9A-Fa-f]{2}"
_PATH_TEXT = re.compile(rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|{_ESCAPE})*")
_QUERY_TEXT = re.compile(rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|{_ESCAPE})*")
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.I)
_PART_END = re.compile(r"%2f|%5c|;|%3b", re.I)


class Piece(NamedTuple):
    """A piece of a URL, the same as `UrlPiece` of the core."""

    kind: Literal["text", "param", "path", "host", "scheme", "query", "query_more"]
    value: str = ""
    """The text, or the parameter's name."""
    encode: bool = False
    """Percent-encoded, for a query."""


def rewrite_pieces(template: str, paths: Sequence[str]) -> list[Piece]:
    """The pieces of a target for an upstream. `paths`: of the route.

    Raises ValueError if it is not a template of a path, or has parameters that a path lacks.
    """
    names = _Names(template, paths, ())
    if "#" in template:
        raise ValueError(f"{template!r}: an upstream gets no fragment; leave out '#' and the rest")
    if not template.startswith("/"):
        raise ValueError(f"{template!r} does not begin with '/'")
    return _joined(_path_and_query(template, names, keep_query=True))


def redirect_pieces(template: str, paths: Sequence[str], keep_query: bool) -> list[Piece]:
    """The pieces of a Location. Like `rewrite_pieces`."""
    names = _Names(template, paths, BUILT_IN)
    url, mark, fragment = template.partition("#")
    if "{" in fragment or not _QUERY_TEXT.fullmatch(fragment):
        raise ValueError(f"'#{fragment}': a fragment is literal text, percent-encoded")
    pieces: list[Piece] = []
    absolute = _ABSOLUTE.match(url)
    if absolute is not None:
        url = url[absolute.end() :]
        whole_path = names.kind("path") == "path" and url.startswith("{path}")
        if url and not whole_path and url[0] not in "/?":
            raise ValueError(
                f"{template!r}: a parameter cannot be part of the host; write the host, or "
                "'{host}' for the one that was called"
            )
        pieces = list(_origin(absolute, names))
    elif url.startswith("//"):
        raise ValueError(f"{template!r} begins with '//'; write 'https://' in front of a host")
    elif not url.startswith("/"):
        raise ValueError(
            f"{template!r} begins neither with '/' nor with 'https://', 'http://' or '{{scheme}}://'"
        )
    pieces += _path_and_query(url, names, keep_query=keep_query)
    return _joined([*pieces, Piece("text", mark + fragment)])


class _Names:
    """The values of the names in one template."""

    def __init__(self, template: str, paths: Sequence[str], built_in: Sequence[str]) -> None:
        parameters = [path_parameters(path) for path in paths]
        self._rest = {name: rest for each in parameters for name, rest in each.items() if rest}
        self._built_in = [each for each in built_in if not any(each in own for own in parameters)]
        for token in _BRACED.split(template):
            name = token[1:-1]
            if "{" not in token and "}" not in token:
                continue
            if name.endswith("*") and _NAME.fullmatch(name[:-1]):
                raise ValueError(
                    f"{token!r}: the '*' stands in the route's path; here write '{{{name[:-1]}}}'"
                )
            if not _BRACED.fullmatch(token) or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{template!r}: braces enclose the name of a parameter; a literal brace is "
                    "written '%7B' or '%7D'"
                )
            if name not in self._built_in:
                self._check(name, paths, parameters)

    def _check(self, name: str, paths: Sequence[str], parameters: list[dict[str, bool]]) -> None:
        for path, own in zip(paths, parameters, strict=True):
            if name not in own:
                there = listing(f"{{{each}}}" for each in [*own, *self._built_in]) or "none"
                raise ValueError(
                    f"the path {path!r} has no parameter '{{{name}}}'; known are: {there}"
                )

    def kind(self, name: str) -> Literal["param", "path", "host", "scheme"]:
        if name not in self._built_in:
            return "param"
        return "path" if name == "path" else "host" if name == "host" else "scheme"

    def has_slashes(self, name: str) -> bool:
        """Whether it may be several segments, or none."""
        return name in self._rest or self.kind(name) == "path"


def _origin(absolute: re.Match[str], names: _Names) -> Iterator[Piece]:
    scheme, authority = absolute.groups()
    if "{host}" in authority and names.kind("host") == "param":
        raise ValueError(
            f"{authority!r}: {{host}} is a parameter of the path, not the host; rename it"
        )
    if scheme == "{scheme}" and names.kind("scheme") == "param":
        raise ValueError("'{scheme}' is a parameter of the path, not the scheme; rename it")
    if not host_value(authority.replace("{host}", "host.example")):
        raise ValueError(
            f"{authority!r} is not a host such as 'api.example.com' or '{{host}}:8443'"
        )
    yield Piece("scheme") if scheme == "{scheme}" else Piece("text", scheme)
    yield Piece("text", "://")
    for token in _BRACED.split(authority):
        yield Piece("host") if token == "{host}" else Piece("text", token)


def _path_and_query(text: str, names: _Names, *, keep_query: bool) -> Iterator[Piece]:
    path, mark, query = text.partition("?")
    if mark and not query:
        raise ValueError(f"{text!r}: nothing stands behind the '?'; leave it out")
    _check_path(path, names)
    for token in _BRACED.split(query):
        if not token.startswith("{") and not _QUERY_TEXT.fullmatch(token):
            raise ValueError(f"{token!r} has characters that must be percent-encoded in a query")
    yield from _pieces(path, names, encode=False)
    yield Piece("text", mark)
    yield from _pieces(query, names, encode=True)
    if keep_query:
        yield Piece("query_more" if mark else "query")


def _check_path(path: str, names: _Names) -> None:
    segments = path.split("/")
    for index, segment in enumerate(segments):
        if index and not segment and index < len(segments) - 1:
            raise ValueError(f"{path!r} has an empty segment")
        tokens = _BRACED.split(segment)
        for token in tokens[::2]:
            if not _PATH_TEXT.fullmatch(token):
                raise ValueError(f"{token!r} has characters that must be percent-encoded in a path")
            if any(_DOTS.fullmatch(part) for part in _PART_END.split(token)):
                if len(tokens) == 1:
                    raise ValueError(f"{path!r} has a dot segment")
                raise ValueError(
                    f"{segment!r}: dots alone beside a parameter could make a dot segment"
                )
    tokens = [token for token in _BRACED.split(path) if token]
    for before, token in zip(["", *tokens], tokens, strict=False):
        if not token.startswith("{") or not names.has_slashes(token[1:-1]):
            continue
        if token is not tokens[-1]:
            raise ValueError(
                f"{path!r}: '{token}' may have slashes, so it must come last in the path"
            )
        if names.kind(token[1:-1]) == "path" and before.endswith("/"):
            raise ValueError(f"{path!r}: '{{path}}' begins with a '/'; leave out the one before it")


def _pieces(text: str, names: _Names, *, encode: bool) -> Iterator[Piece]:
    for token in _BRACED.split(text):
        if not token.startswith("{"):
            yield Piece("text", token)
            continue
        kind = names.kind(token[1:-1])
        yield Piece(kind, token[1:-1] if kind == "param" else "", encode)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Remove empty text, and join adjacent text."""
    found: list[Piece] = []
    for piece in pieces:
        if piece.kind == "text" and found and found[-1].kind == "text":
            found[-1] = Piece("text", found[-1].value + piece.value)
        elif piece != Piece("text"):
            found.append(piece)
    return found
