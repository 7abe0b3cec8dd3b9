"""Refusals, rendered in advance: for each reason its answer in three forms, with holes.

A refusal must cost less than the request it refuses. So everything that is known in advance is
rendered here, once per configuration, and put into the snapshot. A worker copies it, fills the
holes and leaves out the sections that do not apply (see `_core/exchange/refusal.pyx`: marks are
byte 0x01 and a letter).

    Content-Type: application/problem+json  ┐ fields: the worker appends PAYMENT-REQUIRED, Date,
    Cache-Control: no-store                 │ X-Request-ID, RateLimit fields and CORS; the
    Vary: Accept, Authorization             ┘ codec the status and the length.
    {"type":"/_fastgate/problems/insufficient_balance","title":"Insufficient balance",
     "status":402,"detail":"…","instance":"urn:fastgate:request:<I>",
     "reason":"insufficient_balance",
     <if the caller is known>"balance":"<B>","shortfall":"<S>",<end>
     <if it is known>"required":"<Q>","currency":"<C>",<end>
     "retry":"after_payment",
     "remedies":[{"action":"top_up","title":"Top up the wallet","href":"<H>/_fastgate/account/…"}],
     "diagnose":"<H>/_fastgate/requests/<I>?cap=<G>"}

Programs get RFC 9457, agents Markdown, people a page without scripts (`pages`). `instance` contains
the id that `fastgate explain` takes. All refusals are `no-store`: caches could otherwise store 404,
405, 410, 414 and 501 heuristically.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fastgate._core.http.phrases import PHRASES
from fastgate.errors import OWN_STATUS, REASONS, Reason
from fastgate.model.gateway import ProblemBody
from fastgate.refusal import bodies as chosen_bodies
from fastgate.refusal import pages as refusal_pages
from fastgate.refusal.members import Hole, Remedies, When, json_of
from fastgate.refusal.remedies import DIAGNOSED, PREFIX, PROBLEMS, REMEDIES, WAIT, Remedy, retry_of

DEFAULT_BASE = "urn:fastgate:reason:"
"""The beginning of a problem's `type` if there are no pages and the configuration sets none."""


class Refusal(NamedTuple):
    """The templates of one reason."""

    number: int
    status: int
    fields: bytes
    """Lines, each with its line ending."""
    body: bytes
    close: bool
    html: tuple[bytes, bytes]
    """Fields and body."""
    markdown: tuple[bytes, bytes]


_LIMIT = Hole("L", False)
_USED = Hole("U", False)
_REMAINING = Hole("R", False)
_RETRY_AFTER = Hole("A", False)
_RESETS_AT = Hole("T", True)
_POLICY = Hole("P", True)
_FAULT = Hole("D", True)
_ALLOW = Hole("M", True)

_PLAN = {"plan": When("p", Hole("O", True))}
_ENDED = {"ended_at": When("s", Hole("Z", True))}
_OWED = {
    "amount_due": When("d", Hole("J", True)),
    "currency": When("d", Hole("Y", True)),
    "invoice": When("d", Hole("K", True)),
    "due_at": When("d", Hole("X", True)),
}
_UNITS = {
    "meter": When("u", Hole("1", True)),
    "units": When("u", Hole("2", False)),
    "units_available": When("u", Hole("3", False)),
}

_COUNTED = {
    "policy": When("l", _POLICY),
    "limit": When("l", _LIMIT),
    "used": When("l", _USED),
    "remaining": When("l", _REMAINING),
}
_WAIT = {"retry_after": _RETRY_AFTER}
_PRICE = {
    "required": When("q", Hole("Q", True)),
    "currency": When("q", Hole("C", True)),
}
_BALANCE = {
    "balance": When("b", Hole("B", True)),
    "required": When("q", Hole("Q", True)),
    "shortfall": When("b", Hole("S", True)),
    "currency": When("q", Hole("C", True)),
}

MEMBERS: dict[str, dict[str, Any]] = {
    "malformed_request": {"fault": _FAULT},
    "ambiguous_framing": {"fault": _FAULT},
    "bad_target": {"fault": _FAULT},
    "bad_host": {"fault": _FAULT},
    "request_invalid": {"errors": Hole("=", False), "error_count": Hole("@", False)},
    "target_too_long": {"fault": _FAULT},
    "headers_too_large": {"fault": _FAULT},
    "not_implemented": {"fault": _FAULT},
    "version_not_supported": {"fault": _FAULT},
    "method_not_allowed": {"allow": _ALLOW},
    "token_invalid": {
        "fault": _FAULT,
        "token_time": When("i", Hole(";", True)),
        "gateway_time": When("i", Hole(":", True)),
    },
    "insufficient_scope": {"scope": Hole("?", True)},
    "insufficient_balance": {**_BALANCE, **_UNITS},
    "subscription_expired": {**_PLAN, **_ENDED, **_OWED},
    "subscription_past_due": {**_PLAN, **_ENDED, **_OWED},
    "subscription_paused": {**_PLAN, **_ENDED},
    "payment_failed": {**_PLAN, **_ENDED, **_OWED},
    "payment_action_required": {**_PLAN, **_OWED},
    "payment_method_missing": {**_PLAN, **_ENDED, **_OWED},
    "not_subscribed": _PLAN,
    "spending_limit_reached": {
        "limit_of": When("e", Hole("V", True)),
        "limit": When("e", Hole("E", True)),
        "remaining": When("b", Hole("B", True)),
        **_PRICE,
        **_UNITS,
        "resets_at": When("t", _RESETS_AT),
    },
    "payment_required": _PRICE,
    "payment_invalid": _PRICE,
    "quota_exhausted_upgrade": {**_PLAN, **_COUNTED, "resets_at": When("t", _RESETS_AT)},
    "rate_limited": {**_COUNTED, **_WAIT, "resets_at": When("t", _RESETS_AT)},
    "quota_exhausted": {**_COUNTED, **_WAIT, "resets_at": When("t", _RESETS_AT)},
    "concurrency_limited": {
        "policy": When("l", _POLICY),
        "limit": When("l", _LIMIT),
        "used": When("l", _USED),
        **_WAIT,
    },
    "hold_in_flight": {
        **_BALANCE,
        "held": When("h", Hole("F", True)),
        **_UNITS,
        **_WAIT,
    },
    "authorization_unavailable": _WAIT,
    "maintenance": {"message": When("m", Hole("0", True)), **_WAIT},
    "no_healthy_target": _WAIT,
    "overloaded": _WAIT,
    "draining": _WAIT,
    "payment_provider_unavailable": _WAIT,
    "settlement_unknown": _WAIT,
}
"""Members of a reason's body in addition to those that all bodies have."""

_DUE_DETAIL = "\1d Invoice \1K for \1J \1Y was due on \x015.\1."
DETAILS: dict[str, str] = {
    "request_invalid": " \1D",
    "insufficient_balance": "\1f The request needs \x012 units of \x011; the balance covers "
    "\x013.\1.",
    "spending_limit_reached": "\1e The limit is set for the \1V.\1.\1w\1t It resets on \x014.\1.\1."
    "\1f The request needs \x012 units of \x011; what is left covers \x013.\1.",
    "quota_exhausted": "\1t It resets on \x014.\1.",
    "quota_exhausted_upgrade": "\1t It resets on \x014.\1.",
    "rate_limited": " Try again in \x017.",
    "hold_in_flight": "\1f The request needs \x012 units of \x011; the rest covers \x013.\1.",
    "maintenance": "\1m \x010\1. Try again in \x017.",
    "subscription_expired": "\1s It ended on \x016.\1.",
    "subscription_past_due": _DUE_DETAIL,
    "payment_failed": _DUE_DETAIL,
    "payment_action_required": "\1d The payment is for invoice \1K of \1J \1Y.\1.",
    "payment_method_missing": _DUE_DETAIL,
}
"""Added to a reason's text if the values are known, with holes: this case in words."""

_OPENAI_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}


class Links(NamedTuple):
    """The addresses of the gateway's own pages."""

    base: str
    """`https://api.example.com`, or empty: the host that was called."""
    pages: bool
    """Whether there are any."""

    def type_of(self, base: str, code: str) -> str:
        """A problem's `type`: its page, unless the configuration sets another base."""
        if self.pages and base == DEFAULT_BASE:
            return f"{self.base}{PROBLEMS}{code}"
        return f"{base}{code}"

    def remedy(self, remedy: Remedy, code: str) -> str:
        """The path and query of a remedy's page, with holes; empty: it has none."""
        if not remedy.page:
            return ""
        more = ""
        if remedy.action == "top_up" and "shortfall" in MEMBERS.get(code, {}):
            more = "\1b&amount=\1S&currency=\1C\1."  # the form is filled in with it
        return f"{PREFIX}/account/{remedy.page}?request=\1I&cap=\1G{more}"

    @property
    def absolute(self) -> str:
        """The beginning of links for readers who may not know the host."""
        return self.base or "\1H"


def refusals(
    base: str = DEFAULT_BASE,
    server: str | None = None,
    links: Links = Links("", False),  # noqa: B008 - immutable
    bodies: Mapping[str, ProblemBody] = MappingProxyType({}),
) -> list[Refusal]:
    """The refusal of every reason that has a status.

    `base`: the beginning of `type`, followed by the reason's code. `server`: value of Server.
    `links`: the addresses of the pages. `bodies`: the configured bodies. Raises ConfigurationError
    for errors in them.
    """

    def members(reason: Reason) -> dict[str, Any]:
        problem = _problem(reason, base, links)
        del problem["error"]  # of OpenAI's API
        return {**problem, "request_id": Hole("I", True), "route": Hole("N", True)}

    chosen_bodies.check_names(bodies, members)
    found = []
    for reason in REASONS:
        if reason.status:
            refusal = _refusal(reason, base, server, links)
            key = chosen_bodies.chosen(reason, bodies)
            if key is not None:
                path = f"problems.bodies.{key}"
                forms = chosen_bodies.forms(bodies[key], members(reason), path)
                refusal = _replaced(refusal, forms, _fields(reason, server))
            found.append(refusal)
    return found


def _replaced(refusal: Refusal, forms: chosen_bodies.Forms, fields: list[str]) -> Refusal:
    """The refusal with the configured forms."""

    def pair(form: chosen_bodies.Form | None, own: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        return own if form is None else (_lines([*form.fields, *fields]), form.body)

    lines, body = pair(forms.json, (refusal.fields, refusal.body))
    return refusal._replace(
        fields=lines,
        body=body,
        html=pair(forms.html, refusal.html),
        markdown=pair(forms.markdown, refusal.markdown),
    )


def _refusal(reason: Reason, base: str, server: str | None, links: Links) -> Refusal:
    fields = _fields(reason, server)
    page = refusal_pages.Page(
        reason=reason,
        status="\x019" if reason.code in OWN_STATUS else str(reason.status),
        phrase="" if reason.code in OWN_STATUS else PHRASES[reason.status],
        detail=_detail(reason),
        facts=_facts(reason),
        retry=retry_of(reason.code, reason.status, reason.retryable),
        remedies=[
            refusal_pages.Action(_title(remedy), links.remedy(remedy, reason.code), remedy.when)
            for remedy in REMEDIES.get(reason.code, ())
        ],
        diagnosis=_diagnosis(reason),
        about=f"{PROBLEMS}{reason.code}" if links.pages else "",
        base=links.absolute,
    )
    return Refusal(
        reason.number,
        reason.status,
        _lines(["Content-Type: application/problem+json", *fields]),
        json_of(_problem(reason, base, links)),
        reason.close,
        (_lines([*refusal_pages.OWN_HTML_FIELDS, *fields]), refusal_pages.html(page)),
        (_lines([*refusal_pages.MARKDOWN_FIELDS, *fields]), refusal_pages.markdown(page)),
    )


def _detail(reason: Reason) -> str:
    return reason.text + DETAILS.get(reason.code, "")


def _title(remedy: Remedy) -> str:
    """The title on a page: until when to wait, if that is known."""
    if remedy.title == WAIT.title:
        return f"{remedy.title}\1t on \x014\1."
    return remedy.title


def _fields(reason: Reason, server: str | None) -> list[str]:
    """Fields that are the same in all forms."""
    fields = ["Cache-Control: no-store"]
    fields.append("Vary: Accept, Authorization" if reason.status == 402 else "Vary: Accept")
    if server:
        fields.append(f"Server: {server}")
    if reason.status == 401 or reason.code == "insufficient_scope":
        fields.append("WWW-Authenticate: \1W")
    if reason.status == 405:
        fields.append("Allow: \1M")
    if "retry_after" in MEMBERS.get(reason.code, {}):
        fields.append("Retry-After: \1A")
    return fields


def _lines(fields: list[str]) -> bytes:
    return "".join(f"{field}\r\n" for field in fields).encode("ascii")


def _problem(reason: Reason, base: str, links: Links) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": links.type_of(base, reason.code),
        "title": reason.title,
        "status": Hole("9", False) if reason.code in OWN_STATUS else reason.status,
        "detail": _detail(reason),
        "instance": "urn:fastgate:request:\1I",
        "reason": reason.code,
        **MEMBERS.get(reason.code, {}),
        "retry": retry_of(reason.code, reason.status, reason.retryable),
    }
    remedies = REMEDIES.get(reason.code, ())
    if remedies:
        body["remedies"] = Remedies(
            [(remedy.when, _remedy(remedy, reason.code, links)) for remedy in remedies]
        )
    if _diagnosis(reason):
        body["diagnose"] = When("g", f"{links.absolute}{_diagnosis(reason)}")
    kind = _OPENAI_TYPES.get(reason.status, "invalid_request_error")
    if reason.status >= 500:
        kind = "server_error"
    elif reason.status == 429:
        kind = "insufficient_quota" if reason.code == "quota_exhausted" else "rate_limit_error"
    error = {"message": _detail(reason), "type": kind, "param": None, "code": reason.code}
    body["error"] = When("o", error)
    return body


def _remedy(remedy: Remedy, code: str, links: Links) -> dict[str, Any]:
    member: dict[str, Any] = {"action": remedy.action, "title": remedy.title}
    if remedy.action == "wait" and "resets_at" in MEMBERS.get(code, {}):
        member["until"] = When("t", _RESETS_AT)
    if links.pages and remedy.page:
        member["href"] = When("g", f"{links.absolute}{links.remedy(remedy, code)}")
    return member


def _diagnosis(reason: Reason) -> str:
    """Path and query of the diagnosis of a refused request, with holes; empty: there is none."""
    if reason.status in DIAGNOSED or reason.code in REMEDIES:
        return diagnosis_of("\1I", "\1G")
    return ""


def diagnosis_of(request: str, capability: str) -> str:
    """Path and query of a request's diagnosis, with its token."""
    return f"{PREFIX}/requests/{request}?cap={capability}"


_FACTS: dict[str, tuple[str, str]] = {
    "balance": ("Balance", "\1B \1C"),
    "required": ("This request needs", "\1Q \1C"),
    "shortfall": ("Missing", "\1S \1C"),
    "held": ("Reserved for requests in progress", "\1F \1C"),
    "plan": ("Plan", "\1O"),
    "ended_at": ("Access ended on", "\x016"),
    "amount_due": ("Amount due", "\1J \1Y"),
    "invoice": ("Invoice", "\1K"),
    "due_at": ("Due on", "\x015"),
    "units": ("Needed", "\x012 units of \x011"),
    "units_available": ("Available", "\x013 units of \x011"),
    "policy": ("Limit", "\x018"),
    "used": ("Used", "\1U of \1L"),
    "retry_after": ("Try again in", "\x017"),
    "resets_at": ("Resets on", "\x014"),
    "fault": ("What is wrong", "\1D"),
    "errors": ("What is wrong", "\x01="),
    "allow": ("Methods allowed", "\1M"),
    "token_time": ("The token says", "\x01;"),
    "gateway_time": ("The time here", "\x01:"),
    "scope": ("Scopes needed", "\x01?"),
}


def _facts(reason: Reason) -> list[refusal_pages.Fact]:
    """A reason's members as lines for people."""
    facts = []
    for name, value in MEMBERS.get(reason.code, {}).items():
        section = value.section if isinstance(value, When) else ""
        if section == "e" and name == "limit":
            facts.append(refusal_pages.Fact("Spending limit of the \1V", "\1E \1C", section))
        elif section == "b" and name == "remaining":
            facts.append(refusal_pages.Fact("Remaining", "\1B \1C", section))
        elif name in _FACTS:
            facts.append(refusal_pages.Fact(*_FACTS[name], section))
    return facts
