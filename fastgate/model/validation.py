"""Validation of requests: the setting, and where the description of an API is.

The document names a file; its content is read by control when a configuration is applied
(`fastgate.validation`). A path may be relative to the configuration file, and only there: what is
sent to the control API has no folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from fastgate.model.base import Model, worded
from fastgate.model.values import Value

_folder: ContextVar[str | None] = ContextVar("folder of the document", default=None)
_PATH_MOST = 4000


@contextmanager
def relative_to(folder: str) -> Iterator[None]:
    """Paths in documents that are decoded inside are relative to this folder."""
    token = _folder.set(os.path.abspath(folder))
    try:
        yield
    finally:
        _folder.reset(token)


class DescriptionPlace(Value):
    """The file of an API's description: "/etc/fastgate/orders.yaml"."""

    __slots__ = ("path",)

    WHAT = "the path of an OpenAPI file"
    EXAMPLES = ("openapi.yaml", "/etc/fastgate/orders.json")

    def __init__(self, path: str) -> None:
        self.path = path
        """Absolute."""

    @classmethod
    def parse(cls, raw: object) -> Self:
        if not isinstance(raw, str):
            raise ValueError("expected the path of an OpenAPI file")
        if "\n" in raw.strip():
            raise ValueError(
                "expected the path of an OpenAPI file, not its content: write the path without "
                "'file:'"
            )
        if not raw.strip() or len(raw) > _PATH_MOST or re.search(r"[\x00-\x1f\x7f]", raw):
            raise ValueError(f"{raw[:100]!r} is not the path of an OpenAPI file")
        if re.match(r"[a-z][a-z0-9+.-]*://", raw):
            raise ValueError(f"{raw!r}: only a file can be read; download it first")
        if os.path.isabs(raw):
            return cls(os.path.normpath(raw))
        folder = _folder.get()
        if folder is None:
            raise ValueError(
                f"{raw!r}: write an absolute path; only in a configuration file can it be relative"
            )
        return cls(os.path.normpath(os.path.join(folder, raw)))

    @classmethod
    def read(cls, raw: object) -> Self:
        """Like `parse`, without caching: the same text means another file in another folder."""
        return cls.parse(raw)

    def _key(self) -> tuple[str]:
        return (self.path,)

    def __str__(self) -> str:
        return self.path


class Validate(Model, frozen=True, kw_only=True):
    """Validation of requests against the description of an API; needs the extra `validation`."""

    openapi: Annotated[
        DescriptionPlace | None,
        Meta(
            description="The description: a file of OpenAPI 3.0 or 3.1, YAML or JSON; relative to "
            "the configuration file. It is read again with each reload. Default: no validation, "
            "even if a policy or the service has one."
        ),
    ] = None
    prefix: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^/[^?#{}\s]*$",
                    "a path that begins with '/', without spaces, parameters, '?' or '#'",
                )
            ),
        ]
        | None,
        Meta(
            description="What comes before the paths of the description in requests: `/shop/v1`; "
            "`/`: nothing. Default: the paths of its `servers`."
        ),
    ] = None
    unknown: Annotated[
        Literal["refuse", "pass"],
        Meta(
            description="What becomes of requests for which the description has no operation; "
            "`pass`: they are served without validation."
        ),
    ] = "refuse"
    unknown_query: Annotated[
        Literal["pass", "refuse"],
        Meta(description="What becomes of query parameters that the operation does not have."),
    ] = "pass"
    read_only: Annotated[
        Literal["pass", "refuse"],
        Meta(
            description="What becomes of properties that are `readOnly`. They are never required."
        ),
    ] = "pass"

    def __post_init__(self) -> None:
        given = (self.prefix, self.unknown, self.unknown_query, self.read_only)
        if self.openapi is None and given != (None, "refuse", "pass", "pass"):
            raise ValueError("give openapi, the file with the description")


VALIDATOR = "fastgate.validation.validator:Validator"
"""What validates requests in workers, in the form of a handler."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a validation that its validator needs."""

    prefix: str | None = None
    unknown: Literal["refuse", "pass"] = "refuse"
    unknown_query: Literal["pass", "refuse"] = "pass"
    read_only: Literal["pass", "refuse"] = "pass"


def validator_name(validate: Validate, program: str) -> str:
    """The validator's name in a snapshot, with its settings and the compiled description, which has
    no line break: equal ones are in the snapshot once."""
    options = Options(
        prefix=validate.prefix,
        unknown=validate.unknown,
        unknown_query=validate.unknown_query,
        read_only=validate.read_only,
    )
    return f"{VALIDATOR} {msgspec.json.encode(options).decode()}\n{program}"
