"""Bodies of refusals from the configuration: templates with the same placeholders as the gateway's
own.

    problems:
      bodies:
        rate_limited: {json: {code: "{{reason}}", wait: "{{retry_after}}"}, html: {file: 429.html}}
        no_route: Nothing here. Request {{request_id}}

`{{name}}` is a member of the reason's problem document. If a request has no value for it, it is
left out, together with the object member that consists only of it. So a body can show what the
gateway's own body shows and no more: a balance, for example, only after a valid credential.

**Escaping.** A worker escapes a value for the form in which it appears. In `body`, which may have
any media type, values are escaped as in JSON. This changes hardly any of them: they are numbers,
times, fixed words and names, and names have only letters, digits, dots, dashes and underscores. The
message of a maintenance has no characters that JSON escapes. Only what is wrong with a request that
was validated is other text; `errors` is a list in the form that the client accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, NamedTuple

from fastgate.errors import REASONS, ConfigurationError, Reason
from fastgate.model.gateway import ProblemBody
from fastgate.refusal.members import Hole, Remedies, When, json_of
from fastgate.refusal.pages import HTML_FIELDS, MARKDOWN_FIELDS

PLAIN, JSON = "text/plain; charset=utf-8", "application/json"
MOST_BYTES, MOST_HOLES = 32 * 1024, 64
LONG_HOLE = b"\x010"
"""The message of a maintenance, with the room of `LONG` holes (`MESSAGE_MAX` in refusal.pyx)."""
LONG = 3
LIST_HOLES = 16
"""The list of errors has room for as much as so many other values."""
_LIST = "="
"""The letter of the list of errors, which is JSON in JSON, and a list of the form elsewhere."""
_MARK = re.compile(rb"\x01[A-Z0-9:;=?@]")
_HOLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")

Members = dict[str, Any]
"""The members of a reason's problem document: plain data, `Hole`, `When`, `Remedies`."""


class Form(NamedTuple):
    """One form of a refusal."""

    fields: list[str]
    body: bytes
    """A template."""


class Forms(NamedTuple):
    """The replaced forms; None: the gateway's own form."""

    json: Form | None = None
    html: Form | None = None
    markdown: Form | None = None


def chosen(reason: Reason, bodies: Mapping[str, ProblemBody]) -> str | None:
    """The key that applies to a reason: its code, its status, or its class."""
    keys = [reason.code, str(reason.status)]
    if reason.status != 402:  # removing how to pay must be deliberate
        keys.append(f"{str(reason.status)[0]}xx")
    return next((key for key in keys if key in bodies), None)


def check_names(bodies: Mapping[str, ProblemBody], members: Callable[[Reason], Members]) -> None:
    """Raise ConfigurationError for a `{{name}}` that no refusal with this body has."""
    for key, body in bodies.items():
        covered = [reason for reason in REASONS if reason.status and chosen(reason, bodies) == key]
        known = {name for reason in covered for name in members(reason)}
        for part in ("json", "html", "markdown", "body"):
            for name in _names(getattr(body, part)):
                if covered and name not in known:
                    raise ConfigurationError(
                        f"{{{{{name}}}}} is not a member of this refusal",
                        f"problems.bodies.{key}.{part}",
                        hint=f"Its members are {', '.join(sorted(known))}.",
                    )


def forms(body: ProblemBody, members: Members, path: str) -> Forms:
    """The body's templates for one reason. Raises ConfigurationError; `path`: where it is
    configured."""
    if body.body is not None:
        content_type = body.content_type or PLAIN
        quote = escape if re.search(r"html|xml", content_type) else str
        text = _text(body.body, members, f"{path}.body", quote)
        one = Form([f"Content-Type: {content_type}", "X-Content-Type-Options: nosniff"], text)
        return Forms(one, one, one)
    found = Forms()
    if body.json is not None:
        data = json_of(_element(body.json, members, f"{path}.json"))
        _check_size(data, f"{path}.json")
        fields = [f"Content-Type: {body.content_type or JSON}"]
        found = found._replace(json=Form(fields, data))
    if body.html is not None:
        page = _text(body.html, members, f"{path}.html", escape)
        found = found._replace(html=Form(HTML_FIELDS, page))
    if body.markdown is not None:
        text = _text(body.markdown, members, f"{path}.markdown", str)
        found = found._replace(markdown=Form(MARKDOWN_FIELDS, text))
    return found


def _names(value: Any) -> set[str]:
    """The holes in texts, anywhere in the data."""
    if isinstance(value, str):
        return set(_HOLE.findall(value))
    if isinstance(value, dict):
        return {name for inner in value.values() for name in _names(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in _names(inner)}
    return set()


def _text(text: str, members: Members, path: str, quote: Callable[[str], str]) -> bytes:
    out = _filled(text, members, path, quote).encode()
    _check_size(out, path)
    return out


def _check_size(template: bytes, path: str) -> None:
    """The maximum that a worker has room for: `BODY_MAX` in `_core/exchange/refusal.pyx`."""
    if len(template) > MOST_BYTES:
        raise ConfigurationError(f"more than {MOST_BYTES // 1024} KiB", path)
    marks = _MARK.findall(template)
    long = (LONG - 1) * marks.count(LONG_HOLE) + (LIST_HOLES - 1) * marks.count(b"\x01=")
    if len(marks) + long > MOST_HOLES:
        raise ConfigurationError(f"more than {MOST_HOLES} values to fill in", path)


def _filled(text: str, members: Members, path: str, quote: Callable[[str], str] = str) -> str:
    """A text with marks for its holes."""
    if "\1" in text:
        raise ConfigurationError("a control character, U+0001", path)

    def value(match: re.Match[str]) -> str:
        return _inline(members.get(match[1], ""), match[1], path, quote)

    return _HOLE.sub(value, text)


def _inline(value: Any, name: str, path: str, quote: Callable[[str], str]) -> str:
    """A member within a text."""
    if isinstance(value, Hole) and not (value.letter == _LIST and ".json" in path):
        return f"\1{value.letter}"
    if isinstance(value, When):
        return f"\1{value.section}{_inline(value.value, name, path, quote)}\1."
    if isinstance(value, (Hole, dict, Remedies)):
        raise ConfigurationError(
            f"{{{{{name}}}}} is a list",
            path,
            hint=f'Use it as a member: `json: {{{name}: "{{{{{name}}}}}"}}`.',
        )
    return quote(str(value))


_MISSING = object()


def _data(value: Any, members: Members, path: str) -> Any:
    """Data with its holes filled. A text that consists only of a hole becomes the member itself;
    _MISSING if the reason has none."""
    if isinstance(value, str):
        whole = _HOLE.fullmatch(value)
        if whole is None:
            return _filled(value, members, path)
        return members.get(whole[1], _MISSING)
    if isinstance(value, list):
        return [_element(inner, members, path) for inner in value]
    if isinstance(value, dict):
        found = {key: _data(inner, members, path) for key, inner in value.items()}
        return _ordered({key: inner for key, inner in found.items() if inner is not _MISSING}, path)
    return value


def _element(value: Any, members: Members, path: str) -> Any:
    """An element of a list. It cannot be left out, so a missing one is an empty text."""
    found = _data(value, members, path)
    if isinstance(found, When):
        return _inline(found, str(value).strip("{} "), path, str)
    return "" if found is _MISSING else found


def _ordered(members: Members, path: str) -> Members:
    """Members that always have a value come first: a worker can leave out only a member after
    another."""
    always = {key: value for key, value in members.items() if not isinstance(value, When)}
    sections = {value.section for value in members.values() if isinstance(value, When)}
    if not always and len(sections) > 1:
        raise ConfigurationError(
            f"all members of an object ({', '.join(members)}) may be missing",
            path,
            hint='Add one that is always there, such as `reason: "{{reason}}"`.',
        )
    return {**always, **members}
