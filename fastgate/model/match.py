# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Conditions on a request besides host, path and method: its headers, its query, its cookies."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from fastgate.model.base import Model, Token, only_one

_QUERY = re.compile(r"[!$%'-;=?-~]*")
"""The allowed characters of a query parameter, as sent."""
_COOKIE = re.compile(r"[!#-+\--:<-\[\]-~]*")
"""The allowed characters of a cookie's value (RFC 6265)."""


class Predicate(Model, frozen=True, kw_only=True):
    """The condition for a header, a query parameter or a cookie. One of the three."""

    equals: Annotated[str | None, Meta(description="Exactly this value.")] = None
    prefix: Annotated[str | None, Meta(description="A value that begins like this.")] = None
    present: Annotated[bool | None, Meta(description="`true`: there, with any value.")] = None

    def __post_init__(self) -> None:
        given = [
            name for name in ("equals", "prefix", "present") if getattr(self, name) is not None
        ]
        only_one("give exactly one of equals, prefix, present", given)
        for name in ("equals", "prefix"):
            value = getattr(self, name) or ""
            if value != value.lstrip(" \t") or (name == "equals" and value != value.rstrip(" \t")):
                raise ValueError(f"{name}: {value!r}: values have no white space around them")
            if any(c < " " and c != "\t" for c in value):
                raise ValueError(f"{name}: {value!r}: values have no control characters")
        if self.present is False:
            raise ValueError("present: only true; a route cannot ask for the absence of something")


class Match(Model, frozen=True, kw_only=True):
    """Further conditions on a request; all must hold."""

    headers: Annotated[
        dict[Token, Predicate], Meta(description="By header name, in any case.")
    ] = {}
    query: Annotated[
        dict[str, Predicate],
        Meta(description="By query parameter name, as written in the query."),
    ] = {}
    cookies: Annotated[
        dict[Token, Predicate], Meta(description="By the name of a cookie of the request.")
    ] = {}

    def __post_init__(self) -> None:
        if len({name.lower() for name in self.headers}) != len(self.headers):
            raise ValueError("headers: a name is there twice, in different cases")
        for name, predicate in self.query.items():
            if not _QUERY.fullmatch(name) or "=" in name:
                raise ValueError(
                    f"query: {name!r} cannot be the name of a parameter; names are compared as "
                    "they are sent, percent-encoded"
                )
            value = predicate.equals or predicate.prefix or ""
            if not _QUERY.fullmatch(value):
                raise ValueError(
                    f"query: {value!r} cannot be the value of {name!r}; values are compared as "
                    "they are sent, percent-encoded"
                )
        for name, predicate in self.cookies.items():
            value = predicate.equals or predicate.prefix or ""
            if not _COOKIE.fullmatch(value):
                raise ValueError(
                    f"cookies: {value!r} cannot be the value of {name!r}: cookies have no spaces, "
                    "commas, semicolons, quotes, backslashes or characters beyond ASCII"
                )

    @property
    def empty(self) -> bool:
        """Whether it has no condition."""
        return not (self.headers or self.query or self.cookies)
