"""Claims: where something is in a token.

A path of names, from the outside in: `sub` is a claim, `realm_access.roles` a member of one. A name
that has dots is written with a backslash before each of them, or in a list of the names. A claim
that is an address, as many providers name their own claims, is taken as it is.
"""

from __future__ import annotations

import re
from typing import Any, Self

from fastgate.model.values import Value, describe

MOST_NAMES = 8
"""Maximum names of a path: tokens are not nested deeper."""
MOST_CHARACTERS = 128
"""Maximum characters of a name."""

_ADDRESS = re.compile(r"(https?://|urn:)", re.A)
_PART = re.compile(r"(?:[^.\\]|\\[.\\:])+")


class ClaimPath(Value):
    """The path of a claim: "sub", "realm_access.roles", "https://example.com/tier"."""

    __slots__ = ("names",)

    WHAT = "a claim"
    EXAMPLES = ("sub", "realm_access.roles", "https://example.com/tier")
    ALSO = ("array",)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        """From the outside in; at least one."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if isinstance(raw, list):
            return cls(tuple(cls._name(each, raw) for each in raw)).checked(raw)
        if not isinstance(raw, str):
            raise ValueError(f"expected {cls._expected()}, or a list of names, not {describe(raw)}")
        text = raw.strip()
        if _ADDRESS.match(text) and "\\" not in text:
            return cls((cls._name(text, raw),))
        parts = _PART.findall(text)
        if ".".join(parts) != text:
            raise cls._bad(raw)
        names = (re.sub(r"\\([.\\:])", r"\1", part) for part in parts)
        return cls(tuple(cls._name(name, raw) for name in names)).checked(raw)

    @classmethod
    def read(cls, raw: object) -> Self:
        """Like `parse`; a list is not kept."""
        return cls.parse(raw) if isinstance(raw, list) else super().read(raw)

    @classmethod
    def _name(cls, name: Any, raw: object) -> str:
        if not isinstance(name, str) or name.strip() != name or not name.isprintable():
            raise ValueError(f"{raw!r} is not {cls._expected()}, or a list of names")
        if not name:
            raise ValueError(f"{raw!r} names no claim")
        if len(name) > MOST_CHARACTERS:
            raise ValueError(f"the name of a claim has at most {MOST_CHARACTERS} characters")
        return name

    def checked(self, raw: object) -> Self:
        """Itself. Raises ValueError if it has no name or too many."""
        if not self.names:
            raise ValueError(f"{raw!r} names no claim")
        if len(self.names) > MOST_NAMES:
            raise ValueError(f"{raw!r}: a claim is at most {MOST_NAMES} names deep")
        return self

    def _key(self) -> tuple[str, ...]:
        return self.names

    def __str__(self) -> str:
        first = self.names[0]
        if len(self.names) == 1 and _ADDRESS.match(first) and "\\" not in first:
            return first
        text = ".".join(re.sub(r"([.\\])", r"\\\1", name) for name in self.names)
        # Otherwise it would be read as an address, that is, as one name.
        return text.replace(":", "\\:", 1) if _ADDRESS.match(text) else text
