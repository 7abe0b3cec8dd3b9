"""Secrets that the gateway needs in clear: a payment provider's key, a mail password.

The document never contains a secret, since its revisions are stored, compared and shown. It has a
reference to the secret: `env:NAME`, a variable of the gateway's environment, or
`path:/run/secrets/x`, a file. The secret is read at each use, so replacing the file rotates it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from fastgate.errors import ConfigurationError
from fastgate.model.values import Value

MOST = 16_384
"""Maximum bytes of a secret's file; much larger than a key in PEM form."""


class Secret(Value):
    """A reference to a secret: "env:STRIPE_KEY" or "path:/run/secrets/stripe"."""

    __slots__ = ("kind", "place")

    WHAT = "the place of a secret"
    EXAMPLES = ("env:STRIPE_KEY", "path:/run/secrets/stripe")
    NEVER: ClassVar[str] = "a secret itself"

    def __init__(self, kind: str, place: str) -> None:
        self.kind = kind
        """"env" or "path"."""
        self.place = place
        """The variable's name, or the file's absolute path."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        text = raw if isinstance(raw, str) else cls._text(raw)
        if re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]{0,127}", text, re.A) or re.fullmatch(
            r"path:/[^\x00-\x1f\x7f]{1,4000}", text
        ):
            kind, _, place = text.partition(":")
            return cls(kind, place)
        # The text may be the secret itself, so errors never repeat it.
        if re.match(r"(path:)?\.{0,2}/", text):
            raise ValueError(f"expected {cls._expected()}: a file's absolute path after 'path:'")
        raise ValueError(
            f"expected {cls._expected()}; never write {cls.NEVER} into the document, because "
            "its revisions are stored and shown"
        )

    @classmethod
    def read(cls, raw: object) -> Self:
        """Like `parse`, without caching: the text may be a secret."""
        return cls.parse(raw)

    def _key(self) -> tuple[str, str]:
        return (self.kind, self.place)

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret, without surrounding white space. Raises ConfigurationError if missing."""
        if self.kind == "env":
            found = (os.environ if environ is None else environ).get(self.place, "")
        else:
            try:
                with Path(self.place).open("rb") as file:
                    found = file.read(MOST).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"the secret {self} cannot be read: {error}") from error
        found = found.strip()
        if not found:
            raise ConfigurationError(f"the secret {self} is empty or not set")
        return found


class PemPlace(Secret):
    """Where certificates or a key are, in PEM form: "path:/etc/fastgate/api.pem", "env:API_PEM"."""

    __slots__ = ()

    WHAT = "the place of a PEM file"
    EXAMPLES = ("path:/etc/fastgate/api.pem", "env:API_PEM")
    NEVER = "certificates or keys themselves"
