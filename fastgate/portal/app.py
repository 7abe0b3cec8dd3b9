"""The gateway's own pages under `/_fastgate/`, as an ASGI application.

    /_fastgate/problems[/<reason>]       what a refusal means, and what helps       open
    /_fastgate/requests/<id>             what was checked, step by step               link
    /_fastgate/account                   balance, subscriptions, what is open         link or key
    /_fastgate/account/<page>            top-up, payment-method, pay, renew, plan     link or key
    /_fastgate/webhooks/<provider>       events from payment providers                signature

The control process serves them on a Unix socket. The data plane forwards to it (`public_route`), so
they have the same path on every listener. People get HTML, agents Markdown, programs JSON.

**Who may see what.** A *link* carries a token made for one refused request (`capability`): it shows
that request and, if its caller was known, acts for the caller's account. A *key* is sent in
`Authorization: Bearer` or `X-API-Key`; a person types it into a form and gets a link. There are no
cookies, so no other site can act for a visitor. Posts from other sites are refused anyway, so no
site can lead a visitor into another account.

A GET changes nothing. A POST that leads to a payment provider answers 303 with its page.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException
from litestar.params import FromPath, SkipValidation

from fastgate._core.snapshot.snapshot import stable_hash
from fastgate.api.application import Application
from fastgate.billing.amounts import coin
from fastgate.billing.capability import Capabilities, Capability
from fastgate.billing.diagnosis.diagnosis import Question, diagnose, for_strangers
from fastgate.billing.diagnosis.evidence import ConsumerFacts, Evidence
from fastgate.billing.ledger.ledger import LedgerError
from fastgate.billing.payments.base import (
    PaymentError,
    ProviderRefused,
    ProviderUnavailable,
    Unsupported,
    WebhookRejected,
)
from fastgate.billing.self_service import Overview, SelfService
from fastgate.config.public_route import BODY_CAP
from fastgate.errors import (
    REASON_BY_CODE,
    REASONS,
    ConflictError,
    IdentityError,
    NotFoundError,
    StoreError,
)
from fastgate.model.gateway import Gateway
from fastgate.model.keys import key_digest
from fastgate.model.units import Money
from fastgate.portal import pages
from fastgate.portal.views import View, respond
from fastgate.refusal.remedies import PREFIX

log = logging.getLogger("fastgate.public")

"""Bytes; the built-in route allows no more."""
FORM_CAP = 8192

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True)
class Public:
    """What the pages show. The callables return current values, since configurations change."""

    capabilities: Capabilities
    evidence: Callable[[], Evidence]
    service: Callable[[], SelfService | None]
    """None while nothing costs money."""
    receive: Callable[[str, Mapping[str, str], bytes], Awaitable[object]]
    """Receives a webhook: provider, headers in lower case, raw body. Raises like
    `Inbox.receive`."""
    request: Callable[[str], dict[str, Any] | None]
    """A recent request by its id (32 hex digits)."""
    gateway: Callable[[], Gateway]
    clock: Callable[[], datetime]


Ports = NamedDependency[SkipValidation[Public]]


def create_public_app(public: Public) -> Litestar:
    """The application. All its arguments must belong to the event loop that serves it."""

    def provide() -> Public:
        return public

    return Application(
        route_handlers=HANDLERS,
        dependencies={"public": Provide(provide, sync_to_thread=False)},
        exception_handlers={Exception: answer},
        request_max_body_size=BODY_CAP,
    )


class Refused(Exception):
    """A view to answer with instead."""

    def __init__(self, view: View) -> None:
        super().__init__(view.title)
        self.view = view


def answer(request: AnyRequest, error: Exception) -> Response[bytes]:
    """The exception handler of the application."""
    return respond(_view_of(error), request.headers.get("accept"))


_TROUBLES = {
    404: (
        "No such page",
        "The gateway has no page at this address. Check that the link is complete.",
    ),
    405: ("Method not allowed", "This page does not support the request's method."),
    413: ("Too large", "The request is larger than any page here accepts."),
}


def _view_of(error: Exception) -> View:
    if isinstance(error, Refused):
        return error.view
    if isinstance(error, StoreError) and not isinstance(error, ConflictError | NotFoundError):
        return pages.trouble(
            503, "Not available at the moment", "Please try again shortly.", retry=5
        )
    if isinstance(error, NotFoundError | ConflictError | LedgerError):
        return pages.trouble(409, "That cannot be done", str(error))
    if isinstance(error, Unsupported):
        return pages.trouble(409, "Not possible here", str(error))
    if isinstance(error, ProviderUnavailable):
        text = "The payment provider does not answer. Nothing was charged; please try again."
        return pages.trouble(503, "Payment provider not reachable", text, retry=10)
    if isinstance(error, PaymentError):
        return pages.trouble(422, "The payment provider refused", str(error))
    if isinstance(error, HTTPException):
        title, text = _TROUBLES.get(error.status_code, ("Not understood", error.detail))
        return pages.trouble(error.status_code, title, text, back=f"{PREFIX}/problems")
    log.error("A request of the public side failed.", exc_info=error)
    return pages.trouble(500, "Error in the gateway", "The error was recorded.")


# ---- who asks ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Visitor:
    """The visitor, and the link with which they continue."""

    query: str
    """`request=…&cap=…`."""
    capability: Capability
    consumer: ConsumerFacts | None

    def path(self, page: str = "") -> str:
        """A page of the account, with the link's token."""
        return f"{PREFIX}/account{f'/{page}' if page else ''}?{self.query}"


def _linked(public: Public, request: str, token: str) -> Visitor:
    """The visitor with this link. Raises Refused."""
    try:
        found = public.capabilities.read(request, token, public.clock().timestamp())
    except IdentityError as error:
        raise Refused(pages.denied(str(error))) from None
    consumer = public.evidence().consumer_by_hash(found.consumer) if found.consumer else None
    return Visitor(urlencode({"request": found.request, "cap": token}), found, consumer)


def _keyed(public: Public, key: str) -> Visitor:
    """The visitor with this key; a link is created for it. Raises Refused."""
    evidence, now = public.evidence(), public.clock().timestamp()
    found = evidence.key(key_digest(key))
    consumer = evidence.consumer(found.consumer) if found is not None else None
    if (
        found is None
        or consumer is None
        or found.revoked_at
        or (found.expires_at and found.expires_at <= now)
    ):
        raise Refused(pages.denied("This key is unknown or no longer valid."))
    ident = secrets.token_hex(16)
    token = public.capabilities.make(ident, stable_hash(consumer.id), now)
    return _linked(public, ident, token)


def _key_of(request: AnyRequest) -> str | None:
    """The key that was sent in a header."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("x-api-key") or None


def _visitor(public: Public, request: AnyRequest) -> Visitor:
    """The visitor of a request with a link or a key. Raises Refused."""
    query = request.query_params
    if (token := query.get("cap")) is not None:
        return _linked(public, query.get("request") or "", token)
    if (key := _key_of(request)) is not None:
        return _keyed(public, key)
    raise Refused(pages.sign_in())


def _owner(public: Public, request: AnyRequest) -> tuple[Visitor, str, SelfService]:
    """A visitor with an account, its id, and what can be done for it. Raises Refused."""
    visitor = _visitor(public, request)
    consumer = visitor.consumer
    if consumer is None:
        raise Refused(pages.sign_in())
    if consumer.suspended:
        raise Refused(pages.trouble(403, "Suspended", "Ask the API's operator."))
    service = public.service()
    if service is None or consumer.account is None:
        text = (
            "This gateway does not charge for anything."
            if service is None
            else f"{consumer.name} belongs to no account. Ask the API's operator for one."
        )
        raise Refused(pages.trouble(409, "No account", text))
    return visitor, consumer.account, service


def _same_site(request: AnyRequest) -> None:
    """Refuse a form that another site sent. Programs send neither field."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if foreign:
        raise Refused(pages.trouble(403, "Sent by another site", "Open this page directly."))


async def _fields(request: AnyRequest) -> dict[str, str]:
    """The fields of a posted form, or the members of a JSON object. Raises Refused."""
    body = await request.body()
    if len(body) > FORM_CAP:
        raise Refused(pages.trouble(413, "Too large", "The request is larger than any form here."))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            members = msgspec.json.decode(body or b"{}", type=dict[str, Any])
            return {name: str(value) for name, value in members.items()}
        found = parse_qs(body.decode(), max_num_fields=20, strict_parsing=bool(body))
    except (ValueError, msgspec.DecodeError):
        raise Refused(pages.trouble(400, "Not understood", "Send a form, or JSON.")) from None
    return {name: values[-1] for name, values in found.items()}


def _base(public: Public, request: AnyRequest) -> str:
    """Scheme and host that a payment provider can send the customer back to."""
    if (url := public.gateway().billing.public_url) is not None:
        return str(url).rstrip("/")
    # The data plane has put this in, or kept it where a trusted proxy said so.
    called = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    scheme = "https" if called == "https" else "http"
    return f"{scheme}://{request.headers.get('host', 'localhost')}"


def _go(request: AnyRequest, where: str) -> Response[bytes]:
    """Redirect to another page: 303, so the next request is a GET."""
    view = View(
        title="Continue",
        links=(("Continue", where),),
        data={"location": where},
        status=303,
        headers={"Location": where},
    )
    return respond(view, request.headers.get("accept"))


def _show(request: AnyRequest, view: View) -> Response[bytes]:
    return respond(view, request.headers.get("accept"))


# ---- reasons ----------------------------------------------------------------------------


@get([f"{PREFIX}", f"{PREFIX}/problems"])
async def problems(request: AnyRequest) -> Response[bytes]:
    """All reasons."""
    return _show(request, pages.reasons([each for each in REASONS if each.status]))


@get(f"{PREFIX}/problems/{{code:str}}")
async def problem(request: AnyRequest, code: FromPath[str]) -> Response[bytes]:
    """One reason: the page that a problem's `type` names."""
    found = REASON_BY_CODE.get(code)
    if found is None:
        text = f"There is no reason {code!r}."
        raise Refused(pages.trouble(404, "No such reason", text))
    return _show(request, pages.reason(found))


# ---- diagnosis --------------------------------------------------------------------------


@get(f"{PREFIX}/requests/{{ident:str}}")
async def one_request(public: Ports, request: AnyRequest, ident: FromPath[str]) -> Response[bytes]:
    """What was checked for a refused request, for anyone who has its link."""
    visitor = _linked(public, ident, request.query_params.get("cap") or "")
    evidence, consumer = public.evidence(), visitor.consumer
    record = public.request(visitor.capability.request)
    if record is not None and not _made_by(record, consumer, evidence):
        # Another request took the same id. That one was refused is all that strangers may hear.
        record = record if consumer is None and record.get("reason") else None
    if record is not None:
        question = Question.of_request(record)
    elif consumer is not None:
        question = Question(consumer=consumer.id)
    else:
        raise Refused(pages.not_kept(visitor.capability.request))
    found = await diagnose(question, evidence, now=public.clock())
    if consumer is None:
        found = for_strangers(found)
    actions = visitor.path if consumer is not None and consumer.account is not None else None
    return _show(request, pages.diagnosis(found, visitor.capability.request, actions))


def _made_by(record: Mapping[str, Any], consumer: ConsumerFacts | None, evidence: Evidence) -> bool:
    name = record.get("consumer")
    maker = evidence.consumer(name) if name else None
    return (maker and maker.id) == (consumer and consumer.id)


# ---- the account ------------------------------------------------------------------------


@get(f"{PREFIX}/account")
async def account(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Balance, subscriptions, open invoices, and what can be done."""
    visitor, overview = await _overview(public, request)
    return _show(request, pages.account(overview, visitor.path))


async def _overview(public: Public, request: AnyRequest) -> tuple[Visitor, Overview]:
    """A visitor and the state of the account. Raises Refused."""
    visitor, ident, service = _owner(public, request)
    found = await public.evidence().account(ident)
    return visitor, await service.overview(ident, found.name if found is not None else ident)


@post(f"{PREFIX}/account")
async def sign_in(public: Ports, request: AnyRequest) -> Response[bytes]:
    """A person typed a key: redirect to the account with a link."""
    _same_site(request)
    key = (await _fields(request)).get("key", "").strip()
    if not key:
        raise Refused(pages.sign_in())
    return _go(request, _keyed(public, key).path())


@get(f"{PREFIX}/account/top-up")
async def top_up_page(public: Ports, request: AnyRequest) -> Response[bytes]:
    """The form for the amount."""
    visitor, overview = await _overview(public, request)
    known = [one.currency for one in overview.balances]
    known.append(public.gateway().billing.currency)
    missing = _missing(request)
    if missing is not None:
        known.insert(0, missing.currency)
    return _show(request, pages.top_up(overview, known, missing, visitor.path))


def _missing(request: AnyRequest) -> Money | None:
    """The missing amount in a refusal's link, in whole coins; None if it has no valid one."""
    query = request.query_params
    try:
        found = Money.parse(f"{query.get('amount', '')} {query.get('currency', '')}")
    except ValueError:
        return None
    if found.micros <= 0 or len(found.currency) != 3:
        return None
    one = coin(found.currency)
    return Money(-(-found.micros // one) * one, found.currency)


@post(f"{PREFIX}/account/top-up")
async def top_up(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Redirect to the provider's page. `amount`: "20" or "20 USD"; `currency`, if not in it."""
    _same_site(request)
    visitor, ident, service = _owner(public, request)
    fields = await _fields(request)
    text = fields.get("amount", "").strip().replace(",", ".").upper()
    if text and not text[-1].isalpha():
        text = f"{text} {fields.get('currency') or public.gateway().billing.currency}".upper()
    try:
        amount = Money.parse(text)
    except ValueError as error:
        view = pages.trouble(422, "Not an amount", f"{error}.", back=visitor.path("top-up"))
        raise Refused(view) from None
    if amount.micros == 0 or len(amount.currency) != 3:
        text = "The amount must be greater than zero, in a currency with a three-letter code."
        raise Refused(pages.trouble(422, "Not an amount", text, back=visitor.path("top-up")))
    return _go(
        request, await service.top_up(ident, amount, _base(public, request) + visitor.path())
    )


@get(f"{PREFIX}/account/payment-method")
async def method_page(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Before the provider's page."""
    visitor, overview = await _overview(public, request)
    return _show(request, pages.method(overview, visitor.path))


@post(f"{PREFIX}/account/payment-method")
async def method(public: Ports, request: AnyRequest) -> Response[bytes]:
    """On to the provider's page."""
    _same_site(request)
    visitor, ident, service = _owner(public, request)
    return _go(request, await service.method(ident, _base(public, request) + visitor.path()))


@get(f"{PREFIX}/account/pay")
async def pay_page(public: Ports, request: AnyRequest) -> Response[bytes]:
    """What is open."""
    visitor, overview = await _overview(public, request)
    return _show(request, pages.pay(overview, visitor.path))


@post(f"{PREFIX}/account/pay")
async def pay(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Charge the saved method now; if that fails, ask for another one."""
    _same_site(request)
    visitor, ident, service = _owner(public, request)
    paid = await service.pay(ident)
    return _go(request, visitor.path() if paid else visitor.path("payment-method"))


@get(f"{PREFIX}/account/renew")
async def renew_page(public: Ports, request: AnyRequest) -> Response[bytes]:
    """The subscription that would be renewed."""
    visitor, overview = await _overview(public, request)
    return _show(request, pages.renew(overview, visitor.path))


@post(f"{PREFIX}/account/renew")
async def renew(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Renew; the price is charged to the saved method."""
    _same_site(request)
    visitor, ident, service = _owner(public, request)
    await service.renew(ident)
    return _go(request, visitor.path() if await service.pay(ident) else visitor.path("pay"))


@get(f"{PREFIX}/account/plan")
async def plan_page(public: Ports, request: AnyRequest) -> Response[bytes]:
    """The plans to choose from."""
    visitor, ident, service = _owner(public, request)
    return _show(request, pages.plans(await service.offers(ident), visitor.path))


@post(f"{PREFIX}/account/plan")
async def plan(public: Ports, request: AnyRequest) -> Response[bytes]:
    """Change to a plan at once; the price is charged to the saved method."""
    _same_site(request)
    visitor, ident, service = _owner(public, request)
    await service.take(ident, request.query_params.get("plan") or "")
    return _go(request, visitor.path() if await service.pay(ident) else visitor.path("pay"))


# ---- payment providers ------------------------------------------------------------------


@post(f"{PREFIX}/webhooks/{{provider:str}}", status_code=200)
async def webhook(public: Ports, request: AnyRequest, provider: FromPath[str]) -> Response[bytes]:
    """An event from a payment provider: checked by its signature, answered when it is stored."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        await public.receive(provider, headers, await request.body())
    except WebhookRejected as error:
        raise Refused(pages.trouble(400, "Not accepted", str(error))) from None
    except ProviderRefused as error:
        raise Refused(pages.trouble(404, "No such provider", str(error))) from None
    except Unsupported as error:
        raise Refused(pages.trouble(404, "No webhooks", str(error))) from None
    return Response(b'{"received":true}', media_type="application/json")


HANDLERS: list[Any] = [
    problems,
    problem,
    one_request,
    account,
    sign_in,
    top_up_page,
    top_up,
    method_page,
    method,
    pay_page,
    pay,
    renew_page,
    renew,
    plan_page,
    plan,
    webhook,
]
