"""The texts of the public pages: from what is the case to a `View`.

`path` is the visitor's own: it turns the name of a page of the account into a path with the token
of the visitor's link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import quote

from fastgate._core.refusal import money_text
from fastgate.api.public_views import Ask, Input, Mark, View
from fastgate.billing.diagnosis import Diagnosis, Step
from fastgate.billing.selfservice import Offer, Overview
from fastgate.errors import Reason
from fastgate.refusal_pages import RETRY_TEXTS
from fastgate.refusals import MEMBERS, PHRASES
from fastgate.remedies import PREFIX, PROBLEMS, REMEDIES, retry_of

Path = Callable[[str], str]

_SIDES = {"client": "the caller", "gateway": "the gateway", "upstream": "the server behind it"}
_KEEP = {"Cache-Control": "public, max-age=3600"}


# ---- refusals of the pages themselves -----------------------------------------------------


def trouble(status: int, title: str, text: str, *, retry: int = 0, back: str = "") -> View:
    """What went wrong, and nothing else. `retry`: seconds after which to try again."""
    return View(
        title=title,
        kicker=f"{status} {PHRASES.get(status, '')}".strip(),
        texts=(text,),
        links=(("Back", back),) if back else (),
        data={"title": title, "status": status, "detail": text},
        status=status,
        headers={"Retry-After": str(retry)} if retry else {},
    )


def denied(text: str) -> View:
    """A link or key that does not hold, with a way to show another."""
    view = sign_in(text)
    return View(
        title="This link does not open anything",
        kicker="403 Forbidden",
        texts=(text,),
        asks=view.asks,
        data={"title": "Forbidden", "status": 403, "detail": text},
        status=403,
    )


def sign_in(text: str = "") -> View:
    """Who is it?"""
    said = text or "Show the API key of the account. It is not kept; you get a link for an hour."
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
    """The request is not in the records any more."""
    text = (
        "This request is not kept any more: only the most recent ones are. Send it again; the "
        "answer has a new link."
    )
    return trouble(404, "No record of this request", f"{text} (Request {ident}.)")


# ---- reasons ------------------------------------------------------------------------------


def reasons(all_of_them: Sequence[Reason]) -> View:
    """The index."""
    return View(
        title="Why requests are refused",
        texts=(
            "The status says what would fix it: 401 show a credential; 402 pay; 403 paying would "
            "not help; 429 wait; 5xx it is on our side. Each refusal names its reason.",
        ),
        facts=tuple((f"{each.status} {each.code}", each.title) for each in all_of_them),
        links=tuple((each.code, f"{PROBLEMS}{each.code}") for each in all_of_them),
        data={
            "reasons": [
                {"reason": each.code, "status": each.status, "title": each.title}
                for each in all_of_them
            ]
        },
        headers=_KEEP,
    )


def reason(one: Reason) -> View:
    """The page of one reason."""
    retry = retry_of(one.code, one.status, one.retryable)
    remedies = REMEDIES.get(one.code, ())
    facts = [
        ("Reason", one.code),
        ("Status", f"{one.status} {PHRASES[one.status]}"),
        ("Lies with", _SIDES[one.side]),
        ("Retry", retry.replace("_", " ")),
    ]
    if members := MEMBERS.get(one.code):
        facts.append(("The body also has", ", ".join(members)))
    texts = [one.text, RETRY_TEXTS[retry]]
    if remedies:
        texts.append(f"What helps: {'; '.join(remedy.title.lower() for remedy in remedies)}.")
    return View(
        title=one.title,
        kicker=f"{one.status} {PHRASES[one.status]}",
        texts=tuple(texts),
        facts=tuple(facts),
        links=(
            *(
                (remedy.title, f"{PREFIX}/account/{remedy.page}")
                for remedy in remedies
                if remedy.page
            ),
            ("All reasons", f"{PREFIX}/problems"),
        ),
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
    """What was checked. `path`: where fixes are done, for the owner of an account."""
    facts = [("Request", ident)]
    facts += [
        (name, str(value))
        for name, value in (
            ("At", found.time),
            ("Route", found.route),
            ("Caller", found.consumer),
            ("Account", found.account),
        )
        if value
    ]
    links = []
    if path is not None:
        failing = (
            step.fix for step in found.steps if step.fix and (step.now or "failed") == "failed"
        )
        pages = dict.fromkeys((fix.text.rstrip("."), fix.page) for fix in failing if fix.page)
        links = [(text, path(page)) for text, page in pages]
        links.append(("The account", path("")))
    if found.reason:
        links.append(("About this reason", f"{PROBLEMS}{found.reason}"))
    return View(
        title="What was checked" if not found.mended else "Mended: send it again",
        kicker=f"{found.status} {found.reason or ''}".strip() if found.status else "",
        texts=(found.summary,),
        facts=tuple(facts),
        marks=tuple(_mark(step) for step in found.steps),
        links=tuple(links),
        data=found,
    )


def _mark(step: Step) -> Mark:
    more = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in step.numbers.items())
    if step.result == "failed" and step.fix is not None:
        more = f"{step.fix.text}{f' ({more})' if more else ''}"
    return Mark(step.result, step.title, step.text, more)


# ---- the account --------------------------------------------------------------------------


def _balances(overview: Overview) -> list[tuple[str, str]]:
    found = [
        ("Balance", f"{money_text(one.available)} {one.currency}") for one in overview.balances
    ]
    return found or [("Balance", "no wallet yet")]


def _subscriptions(overview: Overview) -> list[tuple[str, str]]:
    return [
        (
            f"Plan {one.plan}",
            f"{one.state.replace('_', ' ')}, {'ends' if one.ending else 'renewed'} "
            f"{one.ends:%Y-%m-%d}",
        )
        for one in overview.subscriptions
    ]


def _open(overview: Overview) -> list[tuple[str, str]]:
    return [(f"Open: {one.number}", one.amount) for one in overview.open]


def account(overview: Overview, path: Path) -> View:
    """The account at a glance."""
    links = [("Choose a plan", path("plan"))]
    if overview.open:
        links.insert(0, ("Pay what is open", path("pay")))
    if overview.methods:
        links.append(("Payment method", path("payment-method")))
    if overview.top_up:
        links.insert(0, ("Top up", path("top-up")))
    return View(
        title=overview.account,
        kicker="Account",
        facts=(*_balances(overview), *_subscriptions(overview), *_open(overview)),
        links=tuple(links),
        data=overview,
    )


def _elsewhere(overview: Overview) -> str:
    whom = f" Write to {overview.contact}." if overview.contact else " Ask whoever runs the API."
    return f"This is not done on a page here: it is credited or set up by hand.{whom}"


def top_up(overview: Overview, currency: str, path: Path) -> View:
    """How much to pay in."""
    if not overview.top_up:
        return View(
            title="Top up",
            kicker=overview.account,
            texts=(_elsewhere(overview),),
            facts=tuple(_balances(overview)),
            links=(("The account", path("")),),
            data=overview,
        )
    ask = Ask(
        path("top-up"),
        "Go on to payment",
        (
            Input("amount", "Amount", hint="Such as 20 or 12.50."),
            Input("currency", "Currency", value=currency),
        ),
    )
    return View(
        title="Top up",
        kicker=overview.account,
        texts=("The payment is made on the provider's page; the balance counts at once.",),
        facts=tuple(_balances(overview)),
        asks=(ask,),
        links=(("The account", path("")),),
        data=overview,
    )


def method(overview: Overview, path: Path) -> View:
    """Leave a payment method."""
    text = "You leave it on the provider's page. What is open is charged to it then."
    if not overview.methods:
        text = _elsewhere(overview)
    return View(
        title="Payment method",
        kicker=overview.account,
        texts=(text,),
        facts=tuple(_open(overview)),
        asks=(Ask(path("payment-method"), "Go on"),) if overview.methods else (),
        links=(("The account", path("")),),
        data=overview,
    )


def pay(overview: Overview, path: Path) -> View:
    """Pay what is open."""
    if not overview.open:
        return View(
            title="Nothing is open",
            kicker=overview.account,
            links=(("The account", path("")),),
            data=overview,
        )
    asks = (Ask(path("pay"), "Pay now"),) if overview.methods else ()
    text = "It is charged to the payment method that you left, at once."
    return View(
        title="Pay what is open",
        kicker=overview.account,
        texts=(text if overview.methods else _elsewhere(overview),),
        facts=tuple(_open(overview)),
        asks=asks,
        links=(("Another payment method", path("payment-method")), ("The account", path(""))),
        data=overview,
    )


def renew(overview: Overview, path: Path) -> View:
    """Renew what has ended, or go on with what would."""
    if not overview.subscriptions:
        return View(
            title="There is no subscription",
            kicker=overview.account,
            links=(("Choose a plan", path("plan")), ("The account", path(""))),
            data=overview,
        )
    one = overview.subscriptions[0]
    goes_on = one.reason is None and not one.ending
    return View(
        title="It goes on by itself" if goes_on else f"Renew {one.plan}",
        kicker=overview.account,
        facts=tuple(_subscriptions(overview)),
        asks=() if goes_on else (Ask(path("renew"), "Renew"),),
        links=(("Another plan", path("plan")), ("The account", path(""))),
        data=overview,
    )


def plans(offers: Sequence[Offer], path: Path) -> View:
    """Which plans there are."""
    if not offers:
        text = "No plan can be chosen here. Ask whoever runs the API."
        return View(
            title="Plans", texts=(text,), links=(("The account", path("")),), data={"plans": []}
        )
    return View(
        title="Plans",
        texts=("A plan is in force at once; what you paid and did not use is counted in.",),
        facts=tuple(
            (offer.plan, f"{offer.terms}{' (yours)' if offer.current else ''}") for offer in offers
        ),
        asks=tuple(
            Ask(f"{path('plan')}&plan={quote(offer.plan, safe='')}", f"Take {offer.plan}")
            for offer in offers
            if not offer.current
        ),
        links=(("The account", path("")),),
        data={"plans": list(offers)},
    )
