"""What all structs of the document share.

Every field carries its description where it is declared, in `Annotated[..., Meta(...)]`: the
schema, the reference and the errors are made from it. `model/short.py` lists the short forms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,55}$"
TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"
VALUE = r"^[\t\x20-\x7e\u0080-\uffff]{0,4096}$"

Name = Annotated[str, Meta(pattern=NAME)]
"""A resource's name: 1 to 56 letters, digits, dots, dashes, underscores; not a sign first."""
Token = Annotated[str, Meta(pattern=TOKEN)]
"""A method or field name, as HTTP defines tokens."""
FieldValue = Annotated[str, Meta(pattern=VALUE)]
"""A header field's value: no line breaks or other control characters."""

PATTERNS = {
    NAME: "a name: 1 to 56 letters, digits, '.', '-' or '_', beginning with a letter or digit",
    TOKEN: "an HTTP token: letters, digits and !#$%&'*+-.^_`|~, without spaces",
    VALUE: "a header value: up to 4096 characters without line breaks or control characters",
}
"""The patterns in words, for errors."""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The root of all structs of the document: strict, frozen, keyword-only."""


def only_one(what: str, names: Iterable[str]) -> None:
    """Raise unless exactly one of `names`, the fields that are given, is."""
    given = list(names)
    if len(given) > 1:
        raise ValueError(f"{what}, not {' and '.join(given)} together")
    if not given:
        raise ValueError(what)
