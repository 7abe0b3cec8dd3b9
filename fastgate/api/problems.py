"""Problems: every error of the control API as RFC 9457 problem+json.

```json
{"type": "urn:fastgate:control:stale", "title": "Changed in the meantime", "status": 412,
 "detail": "…what happened, and how to fix it…", "reason": "stale",
 "errors": [{"path": "routes[3].path", "message": "…", "line": 12, "hint": "…"}]}
```

`reason` is stable and for programs; `errors` is there when members of a body or query are wrong.
What other exceptions become is in `fastgate.api.exceptions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fastgate.errors import FastGateError

MEDIA_TYPE = "application/problem+json"

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be understood"),
    "invalid_json": (400, "The body is not JSON"),
    "unauthenticated": (401, "A token is needed"),
    "forbidden": (403, "The token's role is not sufficient"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "The method is not for this path"),
    "conflict": (409, "Not possible in the current state"),
    "billing_off": (409, "Nothing costs money here"),
    "insufficient_funds": (409, "The account does not have that much"),
    "idempotency_conflict": (409, "The idempotency key was used for another request"),
    "idempotency_open": (409, "The same request is in progress"),
    "stale": (412, "It was changed in the meantime"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The body's type is not supported"),
    "invalid_member": (422, "A member is not valid"),
    "invalid_configuration": (422, "The configuration is not valid"),
    "precondition_required": (428, "If-Match is needed"),
    "internal_error": (500, "Error in the gateway"),
    "not_ready": (503, "Not every worker serves the newest configuration"),
    "not_issued": (503, "The certificate was not issued"),
    "not_fetched": (503, "The keys could not be fetched"),
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
    """The configuration file, if the member is in one."""
    line: int | None = None
    hint: str | None = None


class Problem(FastGateError):
    """An error of the control API; it is raised and becomes the answer."""

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

    @property
    def fields(self) -> dict[str, str]:
        """Header fields of the answer, besides those of its body."""
        return {"Cache-Control": "no-store", **self.headers}

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


def unexpected() -> Problem:
    """For an error that is a fault of ours, and logged."""
    return Problem("internal_error", "The gateway's log has the details.")
