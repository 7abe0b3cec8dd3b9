"""Problems: every error of the control API as RFC 9457 problem+json.

```json
{"type": "urn:fastgate:control:stale", "title": "Changed in the meantime", "status": 412,
 "detail": "…what happened, and the way out…", "reason": "stale",
 "errors": [{"path": "routes[3].path", "message": "…", "line": 12, "hint": "…"}]}
```

`reason` is stable and for programs; `errors` is there when members of a body or query are wrong.
All exceptions of `fastgate.errors` become responses here; handlers just raise them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from fastgate.api.application import with_head
from fastgate.billing.ledger.ledger import InsufficientFundsError, LedgerError
from fastgate.billing.payments.base import AmountError, PaymentError, ProviderUnavailable
from fastgate.config.revisions import NeedsAdminError
from fastgate.errors import (
    ApplyError,
    ConfigurationError,
    ConflictError,
    FastGateError,
    IdentityError,
    NotFoundError,
    StoreError,
)
from fastgate.identity.identity import InvalidMember
from fastgate.store.pages import BadCursor
from fastgate.store.parties import DanglingError, StaleError

log = logging.getLogger("fastgate.api")

MEDIA_TYPE = "application/problem+json"

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be understood"),
    "invalid_json": (400, "The body is not JSON"),
    "unauthenticated": (401, "A token is needed"),
    "forbidden": (403, "The token's role does not suffice"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "The method is not for this path"),
    "conflict": (409, "It cannot be done as things are"),
    "billing_off": (409, "Nothing costs money here"),
    "insufficient_funds": (409, "The account has less than that"),
    "idempotency_conflict": (409, "The idempotency key was used for another request"),
    "idempotency_open": (409, "The same request is being worked on"),
    "stale": (412, "It was changed in the meantime"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body's type is not understood"),
    "invalid_member": (422, "A member cannot be as it is"),
    "invalid_configuration": (422, "The configuration cannot be used"),
    "precondition_required": (428, "If-Match is needed"),
    "internal_error": (500, "Error in the gateway"),
    "not_ready": (503, "Not every worker serves the newest configuration"),
    "provider_unavailable": (503, "The payment provider does not answer"),
    "store_unavailable": (503, "The store cannot be reached"),
    "apply_failed": (503, "The configuration could not be applied"),
}
"""reason → status, title."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One wrong member."""

    path: str
    message: str
    file: str | None = None
    """The configuration file, where the member is in one."""
    line: int | None = None
    hint: str | None = None


class Problem(FastGateError):
    """An error of the control API, raised to be answered as it is."""

    def __init__(
        self,
        reason: str,
        detail: str,
        *,
        errors: Iterable[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.status, self.title = PROBLEMS[reason]
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.members = members

    def body(self) -> bytes:
        """The problem document."""
        document: dict[str, Any] = {
            "type": f"urn:fastgate:control:{self.reason}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            **self.members,
        }
        if self.errors:
            document["errors"] = self.errors
        return msgspec.json.encode(document)


def invalid(path: str, message: str, hint: str | None = None) -> Problem:
    """A 422 for one member."""
    return Problem(
        "invalid_member",
        f"{path}: {message}" if path else message,
        errors=[Fault(path=path, message=message, hint=hint)],
    )


def unavailable(detail: str) -> Problem:
    return Problem("store_unavailable", detail, headers={"Retry-After": "1"})


def problem_of(error: Exception) -> Problem:
    """The problem for an exception."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ConfigurationError):
        faults = [
            Fault(path=one.path, message=one.message, file=one.file, line=one.line, hint=one.hint)
            for one in error
        ]
        return Problem("invalid_configuration", str(error), errors=faults)
    if isinstance(error, InvalidMember):
        return invalid(error.path, str(error))
    if isinstance(error, BadCursor):
        return invalid("cursor", str(error))
    for kind, reason in _PLAIN:
        if isinstance(error, kind):
            return Problem(reason, str(error))
    if isinstance(error, DanglingError):
        return invalid("account", str(error))
    if isinstance(error, NotFoundError):
        return Problem("not_found", str(error))
    if isinstance(error, StoreError):
        return unavailable(str(error))
    if isinstance(error, HTTPException):
        return _of_framework(error)
    log.error("A request of the control API failed.", exc_info=error)
    return Problem("internal_error", "The gateway's log says more.")


_PLAIN: tuple[tuple[type[Exception], str], ...] = (
    (InsufficientFundsError, "insufficient_funds"),
    (LedgerError, "conflict"),
    (AmountError, "invalid_member"),
    (ProviderUnavailable, "provider_unavailable"),
    (PaymentError, "conflict"),
    (StaleError, "stale"),
    (NeedsAdminError, "forbidden"),
    (ConflictError, "conflict"),
    (IdentityError, "forbidden"),
    (ApplyError, "apply_failed"),
)


def _of_framework(error: HTTPException) -> Problem:
    if isinstance(error, ValidationException):
        extra = error.extra if isinstance(error.extra, list) else []
        faults = [
            Fault(path=str(one.get("key", "")), message=str(one.get("message", "")))
            for one in extra
            if isinstance(one, dict)
        ]
        said = "; ".join(f"{one.path}: {one.message}" for one in faults)
        return Problem("invalid_member", said or error.detail, errors=faults)
    reason = {
        404: "not_found",
        405: "method_not_allowed",
        413: "body_too_large",
        415: "unsupported_media_type",
    }.get(error.status_code, "bad_request" if error.status_code < 500 else "internal_error")
    detail = {
        "not_found": "No such path; GET /openapi.json lists them.",
        "method_not_allowed": "The Allow header lists the methods of this path.",
    }.get(reason, error.detail)
    headers = {
        name: with_head(value)
        for name, value in (error.headers or {}).items()
        if name.lower() == "allow"
    }
    return Problem(reason, detail, headers=headers)


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The exception handler of the whole application."""
    problem = problem_of(error)
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(
        problem.body(), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )
