"""Exceptions of handlers → problems: one table. Handlers just raise those of `fastgate.errors`."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from fastgate.api.application import with_head
from fastgate.api.problems import MEDIA_TYPE, Fault, Problem, invalid, unavailable, unexpected
from fastgate.billing.ledger.ledger import InsufficientFundsError, LedgerError
from fastgate.billing.payments.base import AmountError, PaymentError, ProviderUnavailable
from fastgate.config.revisions import NeedsAdminError
from fastgate.errors import (
    ApplyError,
    ConfigurationError,
    ConflictError,
    IdentityError,
    NotFoundError,
    StoreError,
)
from fastgate.identity.identity import InvalidMember
from fastgate.store.pages import BadCursor
from fastgate.store.parties import DanglingError, StaleError

log = logging.getLogger("fastgate.api")


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
    return unexpected()


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
    return Response(
        problem.body(),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.fields,
    )
