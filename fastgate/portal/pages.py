"""The texts of the public pages: each function turns data into a `View`.

`path` is the visitor's own: it turns the name of a page of the account into a path with the token
of the visitor's link.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import quote

from fastgate._core.http.phrases import PHRASES
from fastgate.billing.amounts import show
from fastgate.billing.diagnosis.diagnosis import Diagnosis, Step
from fastgate.billing.moments import day, moment
from fastgate.billing.self_service import Overview, PlanOffer
from fastgate.errors import OWN_STATUS, Reason
from fastgate.model.units import Money
from fastgate.portal.views import Ask, Input, Mark, View
from fastgate.refusal.pages import RETRY_TEXTS
from fastgate.refusal.remedies import PREFIX, PROBLEMS, REMEDIES, retry_of
from fastgate.refusal.templates import MEMBERS

Path = Callable[[str], str]

_SIDES = {"client": "the caller", "gateway": "the gateway", "upstream": "the server behind it"}
_KEEP = {"Cache-Control": "public, max-age=3600"}


# ---- refusals of the pages themselves -----------------------------------------------------


def trouble(status: int, title: str, text: str, *, retry: int = 0, back: str = "") -> View:
    """A page with an error and nothing else. `retry`: seconds after which to try again."""
    return View(
        title=title,
        kicker=f"{status} {PHRASES.get(status, '')}".strip(),
        texts=(text,),
        links=(("All reasons" if back == f"{PREFIX}/problems" else "Back", back),) if back else (),
        data={"title": title, "status": status, "detail": text},
        status=status,
        headers={"Retry-After": str(retry)} if retry else {},
    )


def denied(text: str) -> View:
    """A link or key that is not valid, with a form for another one."""
    view = sign_in(text)
    return View(
        title="This link is not valid",
        kicker="403 Forbidden",
        texts=(text,),
        asks=view.asks,
        data={"title": "Forbidden", "status": 403, "detail": text},
        status=403,
    )


def sign_in(text: str = "") -> View:
    """The form for a key."""
    said = text or (
        "Enter an API key of the account. It is not stored. You get a link that is valid for "
        "an hour."
    )
    return View(
        title="Whose account?",
        kicker="401 Unauthorized",
        texts=(said,),
        asks=(
            Ask(f"{PREFIX}/account", "Open the account", (Input("key", "API key", secret=True),)),
        ),
        data={"title": "Credential required", "status": 401, "detail": said},
        status=401,
        headers={"WWW-Authenticate": 'Bearer realm="account"'},
    )


def not_kept(ident: str) -> View:
    """The request is no longer in the records."""
    text = (
        "The gateway keeps only the most recent requests, and this one is no longer among them. "
        "Send it again: the answer has a new link."
    )
    return trouble(404, "No record of this request", f"{text} (Request {ident}.)")


# ---- reasons ------------------------------------------------------------------------------


def reasons(all_of_them: Sequence[Reason]) -> View:
    """The index."""
    return View(
        title="Why requests are refused",
        texts=(
            "The status says what helps: 401 send a valid key; 402 pay; 403 neither paying nor "
            "waiting helps; 429 wait; 5xx the problem is on our side. Each refusal names its "
            "reason.",
        ),
        entries=tuple(
            (f"{each.status} {each.code}", each.title, f"{PROBLEMS}{each.code}")
            for each in sorted(all_of_them, key=lambda each: each.status)
        ),
        data={
            "reasons": [
                {"reason": each.code, "status": each.status, "title": each.title}
                for each in all_of_them
            ]
        },
        headers=_KEEP,
    )


def _status_text(one: Reason) -> str:
    if one.code in OWN_STATUS:
        return "Status set by the API's operator"
    return f"{one.status} {PHRASES[one.status]}"


def reason(one: Reason) -> View:
    """The page of one reason."""
    retry = retry_of(one.code, one.status, one.retryable)
    remedies = REMEDIES.get(one.code, ())
    facts = [
        ("Reason", one.code),
        ("Status", _status_text(one)),
        ("Who can fix it", _SIDES[one.side]),
        ("Retry", retry.replace("_", " ")),
    ]
    if members := MEMBERS.get(one.code):
        facts.append(("Further members of the body", ", ".join(members)))
    texts = [one.text, RETRY_TEXTS[retry]]
    if remedies:
        texts.append(f"What helps: {'; '.join(remedy.title.lower() for remedy in remedies)}.")
    return View(
        title=one.title,
        kicker=_status_text(one),
        texts=tuple(texts),
        facts=tuple(facts),
        acts=tuple(
            (remedy.title, f"{PREFIX}/account/{remedy.page}") for remedy in remedies if remedy.page
        ),
        links=(("All reasons", f"{PREFIX}/problems"),),
        data={
            "type": f"{PROBLEMS}{one.code}",
            "reason": one.code,
            "status": one.status,
            "title": one.title,
            "detail": one.text,
            "retry": retry,
            "remedies": [{"action": remedy.action, "title": remedy.title} for remedy in remedies],
            "members": list(MEMBERS.get(one.code, {})),
        },
        headers=_KEEP,
    )


# ---- diagnosis ----------------------------------------------------------------------------


def diagnosis(found: Diagnosis, ident: str, path: Path | None) -> View:
    """What was checked. `path`: the pages for fixes, for the owner of an account."""
    facts = [("Request", ident)]
    facts += [
        (name, str(value))
        for name, value in (
            ("At", _moment(found.time)),
            ("Route", found.route),
            ("Caller", found.consumer),
            ("Account", found.account),
        )
        if value
    ]
    acts, links = [], []
    if path is not None:
        pages: dict[str, str] = {}
        for step in found.steps:
            if step.fix is not None and step.fix.page and _fails(step):
                pages.setdefault(step.fix.page, step.fix.text.rstrip("."))
        acts = [(text, path(page)) for page, text in pages.items()]
        links.append(("The account", path("")))
    if found.reason:
        links.append(("About this reason", f"{PROBLEMS}{found.reason}"))
    return View(
        title="What was checked" if not found.resolved else "Resolved: send it again",
        kicker=f"{found.status} {found.reason or ''}".strip() if found.status else "",
        texts=(found.summary,),
        facts=tuple(facts),
        acts=tuple(acts),
        marks=tuple(_mark(step) for step in found.steps),
        links=tuple(links),
        data=found,
    )


def _moment(time: str | None) -> str:
    """For people; the record has microseconds."""
    return moment(datetime.fromisoformat(time)) if time else ""


def _mark(step: Step) -> Mark:
    numbers = ", ".join(
        f"{name.replace('_', ' ')}: {_shown(value)}"
        for name, value in step.numbers.items()
        if value != "" and (step.check, name) not in _UNSHOWN
    )
    fix = step.fix.text if step.fix is not None and _fails(step) else ""
    return Mark(step.result, step.title, step.text, fix, numbers)


_UNSHOWN = {("limits", "limit"), ("quota", "limit")}
"""Labels of limits are for programs: the text says what they allow."""


def _shown(value: str | int) -> str:
    """A number of a check, for people: times in words."""
    text = str(value)
    return _moment(text) if _TIME.fullmatch(text) else text


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def _fails(step: Step) -> bool:
    """Whether this check fails now."""
    return step.result == "failed" and (step.now or "failed") == "failed"


# ---- the account --------------------------------------------------------------------------


_STATES = {
    "incomplete": "waiting for its first payment",
    "trialing": "in its trial",
    "past_due": "past due",
    "grace": "in its grace period",
    "canceled": "cancelled",
    "expired": "ended",
}


def _balances(overview: Overview) -> list[tuple[str, str]]:
    found = [("Balance", show(one.available, one.currency)) for one in overview.balances]
    return found or [("Balance", "no wallet yet")]


def _subscriptions(overview: Overview) -> list[tuple[str, str]]:
    return [
        (
            f"Plan {one.plan}",
            f"{_STATES.get(one.state, one.state)}, {'ends' if one.ending else 'period ends'} "
            f"{day(one.ends)}",
        )
        for one in overview.subscriptions
    ]


def _open(overview: Overview) -> list[tuple[str, str]]:
    return [(f"Open: {one.number}", one.amount) for one in overview.open]


def _home(path: Path, *others: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (*others, ("The account", path("")))


def _elsewhere(overview: Overview) -> str:
    whom = f"Write to {overview.contact}." if overview.contact else "Ask the API's operator."
    return f"You cannot pay on this page: payments are recorded by hand. {whom}"


def account(overview: Overview, path: Path) -> View:
    """The account at a glance."""
    acts = [("Choose a plan", path("plan"))]
    if overview.open:
        acts.insert(0, ("Pay open invoices", path("pay")))
    if overview.methods:
        acts.append(("Payment method", path("payment-method")))
    if overview.top_up:
        acts.insert(0, ("Top up", path("top-up")))
    return View(
        title=overview.account,
        kicker="Account",
        texts=() if overview.top_up or overview.methods else (_elsewhere(overview),),
        facts=(*_balances(overview), *_subscriptions(overview), *_open(overview)),
        acts=tuple(acts),
        data=overview,
    )


def top_up(
    overview: Overview, currencies: Sequence[str], missing: Money | None, path: Path
) -> View:
    """The form for the amount. `currencies`: the choices, the likeliest first; `missing`: the
    amount that a refused request lacked."""
    hint, value = "For example 20 or 12.50.", ""
    if missing is not None:
        text = show(missing.micros, missing.currency)
        value, hint = text.partition(" ")[0], f"The request needs {text} more."
    choices = tuple(dict.fromkeys(currencies))
    inputs = (
        Input("amount", "Amount", value=value, hint=hint),
        Input("currency", "Currency", value=choices[0], choices=choices),
    )
    ask = Ask(path("top-up"), "Continue to payment", inputs)
    text = "You pay on the payment provider's page. You can use the money as soon as it is paid."
    return View(
        title="Top up",
        kicker=overview.account,
        texts=(text if overview.top_up else _elsewhere(overview),),
        facts=tuple(_balances(overview)),
        asks=(ask,) if overview.top_up else (),
        links=_home(path),
        data=overview,
    )


def method(overview: Overview, path: Path) -> View:
    """Save a payment method."""
    text = "You enter it on the payment provider's page. It is then charged for open invoices."
    return View(
        title="Payment method",
        kicker=overview.account,
        texts=(text if overview.methods else _elsewhere(overview),),
        facts=tuple(_open(overview)),
        asks=(Ask(path("payment-method"), "Continue"),) if overview.methods else (),
        links=_home(path),
        data=overview,
    )


def pay(overview: Overview, path: Path) -> View:
    """Pay open invoices."""
    if not overview.open:
        return View(
            title="Nothing to pay",
            kicker=overview.account,
            links=_home(path),
            data=overview,
        )
    text = "It is charged to your saved payment method at once."
    method = ("Another payment method", path("payment-method"))
    return View(
        title="Pay open invoices",
        kicker=overview.account,
        texts=(text if overview.methods else _elsewhere(overview),),
        facts=tuple(_open(overview)),
        asks=(Ask(path("pay"), "Pay now"),) if overview.methods else (),
        acts=(method,) if overview.methods else (),
        links=_home(path),
        data=overview,
    )


def renew(overview: Overview, path: Path) -> View:
    """Renew a subscription that has ended, or keep one that would end."""
    plans = ("Choose a plan", path("plan"))
    if not overview.subscriptions:
        return View(
            title="No subscription",
            kicker=overview.account,
            acts=(plans,),
            links=_home(path),
            data=overview,
        )
    one = overview.subscriptions[0]
    ended = one.ending or one.state in ("canceled", "expired")
    title, acts = "The subscription renews automatically", []
    if ended:
        title = f"Renew {one.plan}"
    elif overview.open:
        title, acts = "An invoice has to be paid first", [("Pay open invoices", path("pay"))]
    elif one.reason is not None:
        title = f"{one.plan}: {_STATES.get(one.state, one.state)}"
        acts = [("Payment method", path("payment-method"))]
    return View(
        title=title,
        kicker=overview.account,
        facts=(*_subscriptions(overview), *_open(overview)),
        asks=(Ask(path("renew"), "Renew"),) if ended else (),
        acts=tuple(acts),
        links=_home(path, plans),
        data=overview,
    )


def plans(offers: Sequence[PlanOffer], path: Path) -> View:
    """The plans to choose from."""
    text = "A plan starts when it is paid for. Paid time that you have not used is deducted."
    if not offers:
        text = "No plan can be chosen here. Ask the API's operator."
    return View(
        title="Plans",
        texts=(text,),
        facts=tuple(
            (offer.plan, f"{offer.terms}{' (yours)' if offer.current else ''}") for offer in offers
        ),
        asks=tuple(
            Ask(f"{path('plan')}&plan={quote(offer.plan, safe='')}", f"Choose {offer.plan}")
            for offer in offers
            if not offer.current
        ),
        links=_home(path),
        data={"plans": list(offers)},
    )
