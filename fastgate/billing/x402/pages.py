"""Refusals of paid routes for people and agents: the same pages as all refusals have.

The problem document is for programs; a browser that asks for HTML, or an agent that prefers
Markdown, gets the page of `fastgate.refusal.pages` for the same facts, also with PAYMENT-REQUIRED:
a client that can pay does not look at the body.
"""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import urljoin

from fastgate._core.http.phrases import PHRASES
from fastgate.billing.x402.wire import PaymentOffer
from fastgate.errors import Reason
from fastgate.refusal import pages as refusal_pages

HOW = (
    "An x402 client does this automatically: it signs the offer in the PAYMENT-REQUIRED field and "
    "sends the request again with PAYMENT-SIGNATURE."
)
_FACTS = (
    ("field", "Difference"),
    ("expected", "Asked for"),
    ("presented", "Presented"),
    ("facilitator", "The facilitator says"),
    ("transaction", "Transaction"),
    ("retry_after", "Seconds to wait before trying again"),
)
"""The labels of members of problems."""


def rendered(
    form: str, offer: PaymentOffer, reason: Reason, problem: dict[str, Any]
) -> tuple[list[str], bytes]:
    """Field lines ("Name: value") and body of a refusal, as "html" or "markdown".

    `problem`: the document with the same content; `offered`: whether it asks for a payment.
    """
    terms = offer.terms
    facts = [(shown, str(problem[name])) for name, shown in _FACTS if problem.get(name)]
    detail = problem["detail"]
    if problem.get("remedies"):
        detail = f"{detail} {HOW}"
        facts += [
            ("Price", f"{terms.tokens} {terms.asset_name}"),
            ("Token", terms.asset),
            ("Network", terms.network),
            ("Paid to", terms.pay_to),
        ]
    kind = problem["type"]
    about = "" if kind.startswith("urn:") else urljoin(offer.called, kind)
    page = refusal_pages.Page(
        reason=reason,
        status=str(problem["status"]),
        phrase=PHRASES[problem["status"]],
        detail=detail,
        facts=[refusal_pages.Fact(name, _value(form, value)) for name, value in facts],
        retry=problem["retry"],
        remedies=[],
        diagnosis=problem.get("diagnose", ""),
        about=about,
        base="",
    )
    request = problem["instance"].rpartition(":")[2].encode()
    if form == "html":
        return refusal_pages.OWN_HTML_FIELDS, _filled(refusal_pages.html(page), request)
    return refusal_pages.MARKDOWN_FIELDS, _filled(refusal_pages.markdown(page), request)


def _filled(template: bytes, request: bytes) -> bytes:
    """Insert the request's id; keep the section of the diagnosis only if there is one."""
    return template.replace(b"\1g", b"").replace(b"\1.", b"").replace(b"\1I", request)


def _value(form: str, value: str) -> str:
    """The text without anything that the format, or a template, would interpret."""
    plain = "".join(letter if letter.isprintable() else " " for letter in value)
    return escape(plain) if form == "html" else f"`{plain.replace('`', ' ')}`"
