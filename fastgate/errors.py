"""Errors: exceptions for operators of the gateway, reasons for callers of the API.

**Exceptions** are one tree under `FastGateError`; the control plane and the CLI raise and catch
them. Their `str()` can be shown to people: it has the place, the error and, if there is one, the
fix.

**Reasons** are stable codes for exchanges that ended without the upstream's answer. They appear in
problem bodies, logs and metrics, and their numbers (`_core/reason.pxd`) in shared memory: append,
never renumber. Each has a text for the caller of the API: what happened, and what to do next.
`docs/reasons.md` and the refusals in the snapshot are generated from them.

The status of a reason says what would fix it: 401 send a valid credential; 402 pay; 403 neither
paying nor waiting helps; 429 wait; 5xx the problem is on our side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

# ---- exceptions -------------------------------------------------------------------------


class FastGateError(Exception):
    """The root of every error that FastGate raises on purpose."""


class ConfigurationError(FastGateError):
    """The configuration document is not valid. Has the place, the reason, and a suggestion.

    `path` is the place in the document ("routes[3].path", empty: the document itself), `line`
    counts from 1. `others` are more errors from the same pass.
    """

    def __init__(
        self,
        message: str,
        path: str = "",
        line: int | None = None,
        hint: str | None = None,
        file: str | None = None,
        others: Iterable[ConfigurationError] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.hint = hint
        self.file = file
        self.others: tuple[ConfigurationError, ...] = tuple(others)

    def __iter__(self) -> Iterator[ConfigurationError]:
        """This error and the others found with it."""
        yield self
        for other in self.others:
            yield from other

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self.message, self.path, self.line, self.hint, self.file, self.others)
        return (type(self), parts)

    @property
    def place(self) -> str:
        """The place, in the form of editors and terminals: "file:line: path"; empty if unknown."""
        spot = self.file or ""
        if self.line is not None:
            spot = f"{spot}:{self.line}" if spot else f"line {self.line}"
        return ": ".join(part for part in (spot, self.path) if part)

    def _line(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        if self.hint:
            text = f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} {self.hint}"
        return text

    def __str__(self) -> str:
        return "\n".join(error._line() for error in self)


class StoreError(FastGateError):
    """The store cannot be reached, or refused the operation."""


class NotFoundError(StoreError):
    """There is no record with that name or id."""


class ConflictError(StoreError):
    """The record already exists, or was changed by someone else in the meantime."""


class ControlError(FastGateError):
    """The control API refused a request; carries its status and its problem document."""

    def __init__(
        self, message: str, status: int = 0, problem: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem: dict[str, object] = problem if problem is not None else {}


class UnreachableError(ControlError):
    """The control API did not answer: nothing listens there, or the connection was lost."""


class IdentityError(FastGateError):
    """A token or key is not valid, or does not allow the request."""


class ApplyError(FastGateError):
    """A valid configuration could not be applied; the old one stays active."""


class ProcessError(FastGateError):
    """A process of the gateway could not be started, reached or stopped."""


class OwnedError(ProcessError):
    """The store belongs to another gateway. The text says which one, since when, and what to do."""


class SnapshotError(FastGateError):
    """A compiled image is damaged, of another version, or larger than an image can be."""


class KeyringError(FastGateError):
    """A keyring cannot be read, or something in it cannot be used."""


class SegmentError(FastGateError):
    """The shared segment cannot be created or mapped, or is of another version."""


# ---- reasons ----------------------------------------------------------------------------

Side = Literal["client", "gateway", "upstream"]


class Reason(NamedTuple):
    """Why an exchange ended. One row of `REASONS`."""

    code: str
    """Stable name, as in problem bodies, logs and metrics."""
    number: int
    """Stable number: `Reason` in `_core/reason.pxd`."""
    status: int
    """HTTP status of the refusal; 0: no answer is sent (too late, or the client has left)."""
    title: str
    """One short line, the same for every occurrence."""
    text: str
    """For the caller: what happened, and what to do next."""
    side: Side
    """Who has to fix it."""
    retryable: bool
    """The same request may succeed later without anyone changing anything."""
    close: bool
    """The connection is closed after the answer."""


def _r(
    number: int,
    code: str,
    status: int,
    side: Side,
    title: str,
    text: str,
    *,
    retryable: bool = False,
    close: bool = False,
) -> Reason:
    return Reason(code, number, status, title, text, side, retryable, close)


REASONS: tuple[Reason, ...] = (
    # 400. Those about the head close: if it is ambiguous, so is the start of the next message.
    _r(
        1, "malformed_request", 400, "client", "Malformed request",
        "The request is not valid HTTP/1.1. Correct the message, or the client that sends it. The "
        "same request will fail again.",
        close=True,
    ),
    _r(
        2, "ambiguous_framing", 400, "client", "Ambiguous message framing",
        "The length of the request's body is stated twice, or in a way that two servers could "
        "read differently. Send either exactly one Content-Length or Transfer-Encoding: chunked.",
        close=True,
    ),
    _r(
        3, "bad_target", 400, "client", "Bad request target",
        "The path or query contains something that is not allowed there: a control character, a "
        "non-ASCII character, a fragment, %00, or an encoded slash on a route that does not allow "
        "it. Percent-encode the target as described in RFC 3986.",
        close=True,
    ),
    _r(
        4, "bad_host", 400, "client", "Bad Host",
        "The Host field is missing, repeated, not a host name, or differs from the authority in "
        "the request target. Send exactly one Host with the name you are calling.",
        close=True,
    ),
    _r(
        5, "https_required", 400, "client", "HTTPS required",
        "The request came unencrypted to an address that is served over HTTPS only. Send it to the "
        "same address with https:// instead.",
        close=True,
    ),
    _r(
        6, "request_invalid", 400, "client", "Request not valid",
        "The request does not match the description of this API. Correct what `errors` lists; the "
        "same request will fail again.",
    ),
    # 401
    _r(
        10, "credential_missing", 401, "client", "Credential required",
        "This route needs an API key, and the request has none. Send your key in one of the ways "
        "that the WWW-Authenticate field names.",
    ),
    _r(
        11, "credential_unknown", 401, "client", "Unknown credential",
        "The API key is unknown. Check that it is complete and belongs to this environment.",
    ),
    _r(
        12, "credential_expired", 401, "client", "Credential expired",
        "The API key has expired. Ask for a new one.",
    ),
    _r(
        13, "credential_revoked", 401, "client", "Credential revoked",
        "The API key was revoked. Use the key that replaced it, or ask for a new one.",
    ),
    _r(
        14, "token_invalid", 401, "client", "Invalid token",
        "The token is not valid here; `fault` says which check failed. Get a new token and try "
        "again.",
    ),
    # 402
    _r(
        20, "insufficient_balance", 402, "client", "Insufficient balance",
        "The balance does not cover the price of this request. Top up the wallet and send the "
        "request again.",
    ),
    _r(
        21, "subscription_expired", 402, "client", "Subscription expired",
        "The subscription for this service has ended. Renew it to continue.",
    ),
    _r(
        22, "subscription_past_due", 402, "client", "Subscription past due",
        "The last payment for the subscription failed, and the grace period is over. Pay the open "
        "invoice to continue.",
    ),
    _r(
        23, "spending_limit_reached", 402, "client", "Spending limit reached",
        "A spending limit of this key, consumer or account does not allow this request. Wait for "
        "the limit to reset, or ask the API's operator to raise it.",
    ),
    _r(
        24, "quota_exhausted_upgrade", 402, "client", "The plan's quota is used up",
        "The plan's quota for this period is used up. Choose a larger plan to continue at once, "
        "or wait for the quota to reset.",
    ),
    _r(
        25, "payment_failed", 402, "client", "Payment failed",
        "The payment was declined. Check the payment method, or use another one.",
    ),
    _r(
        26, "payment_action_required", 402, "client", "A payment needs your action",
        "The account's owner has to make or confirm a payment. Complete it to continue.",
    ),
    _r(
        27, "payment_required", 402, "client", "Payment required",
        "This request costs money, and no account pays for it. Use a key whose account can be "
        "charged, or pay in one of the ways that this answer offers.",
    ),
    _r(
        28, "payment_invalid", 402, "client", "Invalid payment",
        "The payment that came with the request is not valid for it: its amount, recipient or "
        "network is wrong, or it was used before. Make a new payment from the current offer.",
    ),
    _r(
        29, "payment_method_missing", 402, "client", "No payment method",
        "The account has no payment method on file. Add one to continue.",
    ),
    # 403
    _r(
        40, "not_subscribed", 403, "client", "Not subscribed",
        "Your plan does not include this service. Subscribe to a plan that does.",
    ),
    _r(
        41, "forbidden", 403, "client", "Forbidden",
        "Your key is valid, but it does not allow this. Paying or waiting does not help; ask the "
        "API's operator.",
    ),
    _r(
        42, "consumer_suspended", 403, "client", "Consumer suspended",
        "This consumer has been suspended. Ask the API's operator.",
    ),
    _r(
        44, "subscription_paused", 403, "client", "Subscription paused",
        "The API's operator has paused the subscription for this service. Ask them to resume it.",
    ),
    _r(
        43, "address_denied", 403, "client", "Address denied",
        "Requests from your network address are not allowed here.",
    ),
    _r(
        45, "certificate_required", 403, "client", "Client certificate required",
        "This route needs a valid client certificate, and the connection was made without one. "
        "Connect again over HTTPS, and present a certificate that this API accepts.",
        close=True,
    ),
    _r(
        46, "insufficient_scope", 403, "client", "Insufficient scope",
        "The token is valid, and was issued without a scope that this request needs. Ask its "
        "issuer for a token with the scopes in `scope`.",
    ),
    _r(
        47, "subject_unknown", 403, "client", "Unknown subject",
        "The credential is valid, and does not belong to a consumer of this API. Ask the API's "
        "operator to register you.",
    ),
    # 404 .. 431
    _r(
        50, "no_route", 404, "client", "No such route",
        "There is nothing at this host and path. Check the address, its spelling and its version.",
    ),
    _r(
        51, "method_not_allowed", 405, "client", "Method not allowed",
        "This path does not support the request's method. The Allow field lists the methods that "
        "it supports.",
    ),
    _r(
        52, "not_acceptable", 406, "client", "Not acceptable",
        "The resource is not available in a form that the request's Accept fields allow.",
    ),
    _r(
        53, "request_timeout", 408, "client", "Request too slow",
        "The request did not arrive completely in time. Send it again without pauses.",
        retryable=True,
        close=True,
    ),
    _r(
        54, "route_retired", 410, "client", "Route retired",
        "This part of the API has been removed. The API's documentation says what replaces it.",
    ),
    _r(
        55, "body_too_large", 413, "client", "Request body too large",
        "The request's body is larger than this route allows. Send less, or send it in parts.",
        close=True,
    ),
    _r(
        56, "target_too_long", 414, "client", "Request target too long",
        "The request line, or the address that the route makes of it, is longer than the gateway "
        "allows. Move data from the query into the body.",
        close=True,
    ),
    _r(
        58, "expectation_failed", 417, "client", "Expectation not supported",
        "The gateway supports only Expect: 100-continue. Remove the field.",
        close=True,
    ),
    _r(
        59, "misdirected_request", 421, "client", "Misdirected request",
        "The connection was made for another name, whose client certificates are not those of this "
        "route. Send the request again on a new connection, made for the name that it calls.",
        retryable=True,
        close=True,
    ),
    _r(
        57, "headers_too_large", 431, "client", "Header fields too large",
        "The request's header fields are too large or too many. Send fewer or smaller ones; "
        "cookies are the usual cause.",
        close=True,
    ),
    # 429
    _r(
        60, "rate_limited", 429, "client", "Too many requests",
        "Requests came faster than the limit allows. Wait, then send them more slowly.",
        retryable=True,
    ),
    _r(
        61, "quota_exhausted", 429, "client", "Quota used up",
        "The quota for this period is used up. Wait for it to reset.",
        retryable=True,
    ),
    _r(
        62, "concurrency_limited", 429, "client", "Too many requests at once",
        "The maximum number of requests is already in progress. Wait until one of them finishes.",
        retryable=True,
    ),
    _r(
        63, "hold_in_flight", 429, "client", "Balance reserved by requests in progress",
        "Part of the balance is reserved for requests in progress, and the rest does not cover "
        "this request. Wait for them to finish, then send it again.",
        retryable=True,
    ),
    _r(
        64, "fault_injected", 503, "gateway", "Fault injected on purpose",
        "The API's operator injects faults into this route on purpose, to test how its callers "
        "cope with them. This answer is such a fault: the request was not served, counts against "
        "no limit and costs nothing. Handle it as you would handle a real failure.",
        retryable=True,
    ),
    # 500 .. 505: ours, and 502
    _r(
        70, "internal_error", 500, "gateway", "Internal error",
        "Something went wrong in the gateway. If you report it, include the id in `instance`.",
        retryable=True,
    ),
    _r(
        71, "not_implemented", 501, "client", "Not implemented",
        "The request uses a transfer coding or feature that the gateway does not implement. Send "
        "the body with Content-Length or chunked.",
        close=True,
    ),
    _r(
        72, "version_not_supported", 505, "client", "HTTP version not supported",
        "This listener supports only HTTP/1.1 and HTTP/1.0.",
        close=True,
    ),
    _r(
        73, "account_not_loaded", 503, "gateway", "Account not loaded yet",
        "The gateway has just started and has not loaded this account yet, because its store has "
        "not answered. Nothing was charged. Try again shortly.",
        retryable=True,
    ),
    _r(
        74, "maintenance", 503, "gateway", "Closed for maintenance",
        "This part of the API is closed for maintenance. Nothing was counted or charged.",
        retryable=True,
    ),
    _r(
        75, "upstream_tls_failed", 502, "upstream", "No trusted connection to the upstream",
        "The gateway could not make a TLS connection to the server behind it that it trusts: its "
        "certificate is not valid for it, or they have no version or cipher in common. The server "
        "received nothing of the request. The API's operator has to correct this.",
    ),
    _r(
        76, "authorization_unavailable", 503, "gateway", "No decision about the request",
        "A service that decides about the caller did not answer in time. Try again in a few "
        "seconds.",
        retryable=True,
    ),
    _r(
        77, "deadline_exceeded", 504, "gateway", "Not answered in time",
        "The answer was not complete within the time that the gateway allows for requests of this "
        "kind. The server may still process the request; check before you repeat one that is not "
        "idempotent.",
        retryable=True,
    ),
    # 502, 503, 504, 508
    _r(
        80, "upstream_invalid_response", 502, "upstream", "Invalid answer from the upstream",
        "The server behind the gateway sent an answer that is not valid HTTP. Try again later. If "
        "it happens again, report the id in `instance`.",
        retryable=True,
    ),
    _r(
        81, "upstream_connect_failed", 502, "upstream", "Upstream not reachable",
        "The gateway could not connect to the server behind it. The server received nothing of the "
        "request, so it is safe to try again.",
        retryable=True,
    ),
    _r(
        82, "upstream_reset", 502, "upstream", "Upstream closed the connection",
        "The server behind the gateway closed the connection before it answered. It may have "
        "processed the request; check before you repeat one that is not idempotent.",
        retryable=True,
    ),
    _r(
        83, "no_healthy_target", 503, "upstream", "No healthy upstream",
        "No server behind this route is healthy at the moment. Try again shortly.",
        retryable=True,
    ),
    _r(
        84, "overloaded", 503, "gateway", "Overloaded",
        "The gateway is at its capacity. Try again shortly.",
        retryable=True,
    ),
    _r(
        85, "draining", 503, "gateway", "Shutting down",
        "This instance of the gateway is shutting down and accepts no new requests. Connect again.",
        retryable=True,
        close=True,
    ),
    _r(
        86, "payment_provider_unavailable", 503, "gateway", "Payment provider not reachable",
        "The payment could not be checked, because the payment provider does not answer. You were "
        "not charged. Try again shortly.",
        retryable=True,
    ),
    _r(
        87, "settlement_unknown", 503, "gateway", "Settlement not known yet",
        "A payment was submitted, and its outcome is not known yet. Do not pay again. Send the "
        "same request again shortly, with the same payment.",
        retryable=True,
    ),
    _r(
        88, "upstream_timeout", 504, "upstream", "Upstream too slow",
        "The server behind the gateway did not answer in time. It may still process the request; "
        "check before you repeat one that is not idempotent.",
        retryable=True,
    ),
    _r(
        89, "loop_detected", 508, "gateway", "Loop detected",
        "The request passed through this gateway too often, because a route leads back to it. The "
        "API's operator has to correct the configuration.",
    ),
    # No answer of ours.
    _r(
        100, "client_closed", 0, "client", "Client went away",
        "The client closed the connection before the answer was complete.",
        close=True,
    ),
    _r(
        101, "response_truncated", 0, "upstream", "Incomplete answer",
        "The upstream's answer ended before it was complete. The client's connection was closed, "
        "so that the client notices.",
        close=True,
    ),
    _r(
        102, "tunnel_closed", 0, "client", "Tunnel closed",
        "The upgraded connection (WebSocket) ended.",
        close=True,
    ),
    _r(
        103, "client_timeout", 0, "client", "Client too slow",
        "The client stopped reading the answer, or read it more slowly than the minimum rate, and "
        "the connection was reset.",
        close=True,
    ),
)  # fmt: skip

REASON_BY_NUMBER: dict[int, Reason] = {reason.number: reason for reason in REASONS}
REASON_BY_CODE: dict[str, Reason] = {reason.code: reason for reason in REASONS}
OWN_STATUS = frozenset({"fault_injected"})
"""Reasons whose refusals have a status that the configuration sets. The table has an example."""


def reason_code(number: int) -> str:
    """The stable name of a reason's number; "" for 0, "reason_<n>" for an unknown one."""
    if number == 0:
        return ""
    known = REASON_BY_NUMBER.get(number)
    return known.code if known is not None else f"reason_{number}"
