"""The base of all structs of the document.

Every field has its description in its declaration, in `Annotated[..., Meta(...)]`: the schema, the
reference and the errors are generated from it. `model/short.py` lists the short forms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

PATTERNS: dict[str, str] = {}
"""The patterns in words, for errors."""


def exact_pattern(pattern: str) -> str:
    """A pattern whose `$`, which it ends with, is the end of the text. Python's alone also matches
    before a line feed at the end."""
    return f"{pattern}(?!\\n)"


def worded(pattern: str, words: str) -> str:
    """A field's pattern, in the common syntax of Python and ECMAScript, and a description of the
    matching text: errors say "... is not `words`"."""
    if pattern.endswith("$"):
        pattern = exact_pattern(pattern)
    PATTERNS[pattern] = words
    return pattern


NAME = worded(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,55}$",
    "a name: 1 to 56 letters, digits, '.', '-' or '_', beginning with a letter or digit",
)
TOKEN = worded(
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$",
    "an HTTP token: letters, digits and !#$%&'*+-.^_`|~, without spaces",
)
VALUE = worded(
    r"^[\t\x20-\x7e\u0080-\uffff]{0,4096}$",
    "a header value: up to 4096 characters without line breaks or control characters",
)

Name = Annotated[str, Meta(pattern=NAME)]
"""A resource's name: 1 to 56 letters, digits, dots, dashes, underscores; not a sign first."""
Token = Annotated[str, Meta(pattern=TOKEN)]
"""A method or field name: a token of HTTP."""
FieldValue = Annotated[str, Meta(pattern=VALUE)]
"""A header field's value: no line breaks or other control characters."""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all structs of the document: strict, frozen, keyword-only."""


def only_one(what: str, names: Iterable[str]) -> None:
    """Raise unless exactly one of the fields `names` is set."""
    given = list(names)
    if len(given) > 1:
        raise ValueError(f"{what}, not {' and '.join(given)} together")
    if not given:
        raise ValueError(what)


LINK = worded(
    r"^https?://[\x21\x23-\x3b\x3d\x3f-\x7e]+$",
    "an address that begins with 'http://' or 'https://', without spaces, quotes, '<' or '>'",
)
