"""Sticky cookies: clients that stay where they were first."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from fastgate.model.base import Model, Token, worded
from fastgate.model.secret import Secret
from fastgate.model.units import Duration

MAX_AGE_MOST_S = 400 * 86_400
"""Browsers keep no cookie for longer (RFC 6265bis)."""


class StickyCookie(Model, frozen=True, kw_only=True):
    """A cookie that leads the requests of a client to the same place."""

    cookie: Annotated[Token, Meta(description="The name of the cookie.")]
    path: Annotated[
        str,
        Meta(
            pattern=worded(
                r"^/[\x21-\x3a\x3c-\x7e]{0,1023}$", "a path, without spaces and semicolons"
            ),
            description="Its `Path`: clients send it with requests below this path.",
        ),
    ] = "/"
    max_age: Annotated[
        Duration | None,
        Meta(
            description="Its `Max-Age`, in whole seconds, counted from the answer that sets it; at "
            "most 400 days. Default: none, so browsers drop it when they are closed."
        ),
    ] = None
    same_site: Annotated[
        Literal["lax", "strict", "none"],
        Meta(
            description="Its `SameSite`: whether browsers send it with requests from other sites. "
            "`none` needs https."
        ),
    ] = "lax"
    secure: Annotated[
        bool | Literal["auto"],
        Meta(
            description="Its `Secure`: browsers send it over https only. `auto`: if it is set over "
            "https, also behind a trusted proxy."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        if self.max_age is not None:
            if self.max_age.ns % 1_000_000_000 or not self.max_age.ns:
                raise ValueError(f"max_age: {self.max_age} is not a whole number of seconds")
            if self.max_age.seconds > MAX_AGE_MOST_S:
                raise ValueError(f"max_age: {self.max_age} is more than 400 days")
        if self.same_site == "none" and self.secure is False:
            raise ValueError("same_site: browsers ignore `none` without `secure`")
        for prefix in ("__Host-", "__Secure-"):
            if self.cookie.startswith(prefix) and self.secure is not True:
                raise ValueError(
                    f"cookie: browsers accept names that begin with {prefix!r} only with "
                    "`secure: true`"
                )
        if self.cookie.startswith("__Host-") and self.path != "/":
            raise ValueError("cookie: browsers accept '__Host-' only with the path '/'")


class Sticky(StickyCookie, frozen=True, kw_only=True):
    """A cookie that names the target which answered: the client's next requests go there."""

    secret: Annotated[
        Secret | None,
        Meta(
            description="What the values of the cookie are made with. Gateways that serve the same "
            "clients need the same secret, or each replaces the others' cookies. Default: a key of "
            "this gateway, which is kept in its state directory."
        ),
    ] = None
