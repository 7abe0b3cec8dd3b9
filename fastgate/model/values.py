"""Single values that are text in a document: parsed strictly, printed canonically.

A value class converts text to numbers and back: for every text t that it accepts,
`parse(str(parse(t))) == parse(t)`. Other text raises ValueError with a sentence that says what is
expected. Values are immutable, comparable within their class, and hashable.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from msgspec import UNSET


class Value:
    """A value with a canonical text. Subclasses define `parse`, `__str__` and `_key`."""

    __slots__ = ()

    WHAT: ClassVar[str] = "a value"
    """The kind of value, with article, for errors and documents."""
    EXAMPLES: ClassVar[tuple[str, ...]] = ()
    """Examples of valid text, for the schema and the reference."""
    ALSO: ClassVar[tuple[str, ...]] = ()
    """JSON types that are accepted besides strings ("integer")."""

    _seen: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._seen = {}

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The value of `raw`: text, or a number if that is unambiguous."""
        raise NotImplementedError

    @classmethod
    def read(cls, raw: object) -> Self:
        """Like `parse`, but text that was parsed before returns the same object."""
        if not isinstance(raw, str):
            return cls.parse(raw)
        known = cls._seen.get(raw)
        if known is None:
            known = cls.parse(raw)
            if len(cls._seen) < 4096:
                cls._seen[raw] = known
        return known

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).parse, (str(self),))

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Its JSON Schema."""
        kinds = ["string", *cls.ALSO]
        schema: dict[str, Any] = {"type": kinds if cls.ALSO else "string"}
        if cls.EXAMPLES:
            schema["examples"] = list(cls.EXAMPLES)
        return schema

    @classmethod
    def _text(cls, raw: object) -> str:
        """`raw`, stripped. Raises ValueError, with what is expected, if it is not text."""
        if not isinstance(raw, str):
            raise ValueError(f"expected {cls._expected()}, not {describe(raw)}")
        return raw.strip()

    @classmethod
    def _expected(cls) -> str:
        if not cls.EXAMPLES:
            return cls.WHAT
        return f"{cls.WHAT} such as {', '.join(repr(text) for text in cls.EXAMPLES[:3])}"

    @classmethod
    def _bad(cls, raw: object) -> ValueError:
        return ValueError(f"{raw!r} is not {cls._expected()}")


_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]*(?=@)|([?&](?:ssl)?password=)[^&\s]*")


MASK = "***"
"""The replacement for a password that is not shown."""


def masked(text: str) -> str:
    """A text for display, with the passwords in addresses masked."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)


def describe(raw: object) -> str:
    """A plain value as text, for errors: "the number 5", "a list" …"""
    if raw is None or raw is UNSET:
        return "nothing"
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int | float):
        return f"the number {raw}"
    if isinstance(raw, str):
        return f"the text {raw!r}"
    if isinstance(raw, list):
        return "a list"
    return "a mapping" if isinstance(raw, dict) else type(raw).__name__


class Moment(Value):
    """A point in time, to the second, in UTC: "2026-11-20" (its first second) or RFC 3339."""

    __slots__ = ("unix",)

    WHAT = "a date or an RFC 3339 time"
    EXAMPLES = ("2026-11-20", "2026-11-20T12:00:00Z")

    def __init__(self, unix: int) -> None:
        self.unix = unix
        """Seconds since 1970-01-01T00:00:00Z."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = cls._text(raw)
        if not re.fullmatch(
            r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d))?", text, re.A
        ):
            raise cls._bad(raw)
        try:
            when = datetime.fromisoformat(text.upper().replace(" ", "T"))
        except ValueError as error:
            raise ValueError(f"{raw!r} is not a valid date or time: {error}") from None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        unix = int(when.timestamp())
        if unix < 0:
            raise ValueError(f"{raw!r} is before 1970")
        return cls(unix)

    def _key(self) -> tuple[int]:
        return (self.unix,)

    @property
    def time(self) -> datetime:
        """The same, as an aware datetime."""
        return datetime.fromtimestamp(self.unix, UTC)

    def __str__(self) -> str:
        return self.time.strftime("%Y-%m-%dT%H:%M:%SZ")


KEY_LEAST, KEY_MOST = 8, 512
KEY_PATTERN = rf"[\x21-\x7e]{{{KEY_LEAST},{KEY_MOST}}}"
"""An API key in clear, from the configuration or the control API."""


class KeyDigest(Value):
    """An API key or token, kept only as its SHA-256: "sha256:<64 hex digits>".

    A key in clear is hashed when it is read, so that no document that is later stored, shown or
    compared contains one. Keys are 8 to 512 printable ASCII characters without spaces.
    """

    __slots__ = ("hex",)

    WHAT = f"a key of {KEY_LEAST} to {KEY_MOST} printable characters without spaces, or its digest"
    EXAMPLES = (
        "${DEMO_KEY}",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    )

    def __init__(self, digest: str) -> None:
        self.hex = digest
        """64 lower-case hex digits."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = raw if isinstance(raw, str) else cls._text(raw)
        if text.startswith("sha256:"):
            digest = text[7:]
            if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
                raise ValueError("a key digest is 'sha256:' and 64 hex digits")
            return cls(digest.lower())
        if not re.fullmatch(KEY_PATTERN, text):
            raise ValueError(f"expected {cls.WHAT}")  # never show a key, not even a bad one
        return cls.of(text)

    @classmethod
    def read(cls, raw: object) -> Self:
        """Like `parse`, without caching: keys in clear are not kept."""
        return cls.parse(raw)

    @classmethod
    def of(cls, key: str) -> Self:
        """The digest of a key in clear."""
        return cls(hashlib.sha256(key.encode()).hexdigest())

    def _key(self) -> tuple[str]:
        return (self.hex,)

    @property
    def digest(self) -> bytes:
        """The 32 bytes of the SHA-256."""
        return bytes.fromhex(self.hex)

    def __str__(self) -> str:
        return f"sha256:{self.hex}"
