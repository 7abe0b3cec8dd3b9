"""What every handler gets: the parts of the gateway that the API exposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from fastgate.api.auth import Principal, Tokens
from fastgate.api.ports import ControlPort
from fastgate.config.revisions import Revisions
from fastgate.identity.identity import Identity
from fastgate.store.engine import Store

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True)
class Context:
    """The composition of the API. One per application."""

    control: ControlPort
    store: Store
    identity: Identity
    revisions: Revisions
    tokens: Tokens


Ctx = NamedDependency[SkipValidation[Context]]
"""The annotation with which a handler requests it."""


def principal(request: AnyRequest) -> Principal:
    """The caller; for handlers that are not open."""
    return cast(Principal, request.scope["user"])
