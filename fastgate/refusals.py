"""Refusals, rendered ahead of time: for each reason the head and the problem body, with holes.

A refusal must cost less than what it refuses, so everything that is known beforehand is rendered
here, once for a configuration, and put into the snapshot; a worker copies it and fills the
holes (`Hole` in `_core/snapshot.pxd`: byte 0x01 and a letter).

    HTTP/1.1 429 Too Many Requests          ┐ head: ends right before the length, which
    Content-Type: application/problem+json  │ depends on what goes into the body's holes.
    Cache-Control: no-store                 │ The worker appends it, then Date, X-Request-ID,
    Retry-After: <A>                        │ RateLimit fields, CORS, Connection and the
    Content-Length:                         ┘ empty line.
    {"type":"urn:fastgate:reason:rate_limited","title":"Too many requests","status":429,
     "detail":"…","instance":"urn:fastgate:request:<I>","reason":"rate_limited",
     "policy":"<P>","limit":<L>,"used":<U>,"remaining":<R>,"retry_after":<A>,"resets_at":"<T>"}

Bodies are RFC 9457. `instance` is the id that `fastgate explain` takes. All refusals are
`no-store`: 404, 405, 410, 414 and 501 would else be cached by rule of thumb.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from fastgate.errors import REASONS, Reason

DEFAULT_BASE = "urn:fastgate:reason:"
"""What a problem's `type` begins with, where the configuration says nothing."""

PHRASES = {
    200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information",
    204: "No Content", 205: "Reset Content", 206: "Partial Content",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other",
    304: "Not Modified", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed",
    413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type",
    416: "Range Not Satisfiable", 417: "Expectation Failed", 418: "I'm a Teapot",
    421: "Misdirected Request", 422: "Unprocessable Content", 425: "Too Early",
    426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
    508: "Loop Detected", 511: "Network Authentication Required",
}  # fmt: skip
"""Reason phrases by status (RFC 9110 and the IANA registry)."""


class Refusal(NamedTuple):
    """The templates of one reason."""

    number: int
    status: int
    head: bytes
    body: bytes
    close: bool


class _Hole(NamedTuple):
    """A member's value that the worker fills in."""

    letter: str
    text: bool
    """In quotes."""


_LIMIT = _Hole("L", False)
_USED = _Hole("U", False)
_REMAINING = _Hole("R", False)
_RETRY_AFTER = _Hole("A", False)
_RESETS_AT = _Hole("T", True)
_POLICY = _Hole("P", True)
_FAULT = _Hole("D", True)
_ALLOW = _Hole("M", True)

_COUNTED = {"policy": _POLICY, "limit": _LIMIT, "used": _USED, "remaining": _REMAINING}
_WAIT = {"retry_after": _RETRY_AFTER}

MEMBERS: dict[str, dict[str, Any]] = {
    "malformed_request": {"fault": _FAULT},
    "ambiguous_framing": {"fault": _FAULT},
    "bad_target": {"fault": _FAULT},
    "bad_host": {"fault": _FAULT},
    "target_too_long": {"fault": _FAULT},
    "headers_too_large": {"fault": _FAULT},
    "not_implemented": {"fault": _FAULT},
    "version_not_supported": {"fault": _FAULT},
    "method_not_allowed": {"allow": _ALLOW},
    "quota_exhausted_upgrade": {
        **_COUNTED,
        "resets_at": _RESETS_AT,
        "remedies": [{"action": "upgrade_plan"}, {"action": "wait", "until": _RESETS_AT}],
    },
    "rate_limited": {**_COUNTED, **_WAIT, "resets_at": _RESETS_AT},
    "quota_exhausted": {**_COUNTED, **_WAIT, "resets_at": _RESETS_AT},
    "concurrency_limited": {"policy": _POLICY, "limit": _LIMIT, "used": _USED, **_WAIT},
    "hold_in_flight": _WAIT,
    "no_healthy_target": _WAIT,
    "overloaded": _WAIT,
    "draining": _WAIT,
    "payment_provider_unavailable": _WAIT,
    "settlement_unknown": _WAIT,
}
"""Members that a reason's body has besides those that all have."""


def refusals(base: str = DEFAULT_BASE, server: str | None = None) -> list[Refusal]:
    """The refusal of every reason that has a status.

    `base`: what `type` begins with, the reason's code follows. `server`: value of Server.
    """
    return [_refusal(reason, base, server) for reason in REASONS if reason.status]


def _refusal(reason: Reason, base: str, server: str | None) -> Refusal:
    members = MEMBERS.get(reason.code, {})
    fields = [
        f"HTTP/1.1 {reason.status} {PHRASES[reason.status]}",
        "Content-Type: application/problem+json",
        "Cache-Control: no-store",
    ]
    if server:
        fields.append(f"Server: {server}")
    if reason.status == 401:
        fields.append("WWW-Authenticate: \1W")
    if reason.status == 405:
        fields.append("Allow: \1M")
    if "retry_after" in members:
        fields.append("Retry-After: \1A")
    fields.append("Content-Length: ")
    body = {
        "type": f"{base}{reason.code}",
        "title": reason.title,
        "status": reason.status,
        "detail": reason.text,
        "instance": "urn:fastgate:request:\1I",
        "reason": reason.code,
        **members,
    }
    return Refusal(
        reason.number,
        reason.status,
        "\r\n".join(fields).encode("ascii"),
        _json(body),
        reason.close,
    )


def _json(value: Any) -> bytes:
    """JSON with holes left open."""
    if isinstance(value, _Hole):
        hole = f"\1{value.letter}".encode()
        return b'"' + hole + b'"' if value.text else hole
    if isinstance(value, dict):
        members = (msgspec.json.encode(key) + b":" + _json(inner) for key, inner in value.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(_json(inner) for inner in value) + b"]"
    return msgspec.json.encode(value).replace(b"\\u0001", b"\1")
