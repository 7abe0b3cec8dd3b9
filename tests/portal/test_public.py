"""The public pages: who may see what, in which form; and that every link leads somewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from factkit import KEY, Facts, refused
from msgspec.structs import replace
from publickit import BROWSER, CHECKOUT, NOW, REQUEST, Page, World

from fastgate.billing.diagnosis.evidence import ConsumerFacts, KeyFacts
from fastgate.billing.payments.base import (
    PaymentError,
    ProviderRefused,
    ProviderUnavailable,
    Unsupported,
    WebhookRejected,
)
from fastgate.billing.self_service import Overview, SubscriptionOverview
from fastgate.errors import REASONS, ConflictError, StoreError
from fastgate.model.codec import decode
from fastgate.model.keys import key_digest
from fastgate.refusal.remedies import REMEDIES


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def visit(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A browser."""
    transport = httpx.ASGITransport(world.app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
        client.headers["accept"] = BROWSER
        yield client


# ---- reasons -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [one for one in REASONS if one.status], ids=lambda r: r.code)
async def test_each_reason_has_a_page(visit: httpx.AsyncClient, reason: Any) -> None:
    address = f"/_fastgate/problems/{reason.code}"
    page = Page(await visit.get(address))
    assert reason.title in page.said
    assert reason.text in page.said
    for remedy in REMEDIES.get(reason.code, ()):
        assert not remedy.page or f"/_fastgate/account/{remedy.page}" in page.links
    data = (await visit.get(address, headers={"accept": "application/json"})).json()
    assert data["type"] == address
    assert data["detail"] == reason.text
    text = await visit.get(address, headers={"accept": "text/markdown"})
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert text.text.startswith(f"# {reason.title}\n")
    assert "public" in text.headers["cache-control"]


async def test_a_page_that_is_not_there_leads_on(visit: httpx.AsyncClient) -> None:
    answer = await visit.get("/_fastgate/nowhere")
    page = Page(answer)
    assert answer.status_code == 404
    assert "Check that the link is complete" in page.said
    assert page.links == ["/_fastgate/problems"]


async def test_the_index_leads_to_every_reason(visit: httpx.AsyncClient) -> None:
    for address in ("/_fastgate", "/_fastgate/problems"):
        page = Page(await visit.get(address))
        for link in page.links:
            assert (await visit.get(link)).status_code == 200
        assert len(page.links) == len([one for one in REASONS if one.status])


async def test_what_is_no_reason(visit: httpx.AsyncClient) -> None:
    answer = await visit.get("/_fastgate/problems/%3Cscript%3Ealert(1)")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert (await visit.get("/_fastgate/nothing")).status_code == 404
    assert (await visit.post("/_fastgate/problems")).status_code == 405


# ---- diagnosis -----------------------------------------------------------------------------


async def test_the_owner_sees_what_was_checked_and_how_to_mend_it(
    world: World, visit: httpx.AsyncClient
) -> None:
    world.record("insufficient_balance")
    world.facts.the_outcome = refused("charge", "insufficient_balance", available=2_000)
    page = Page(await visit.get(world.diagnosis()))
    for said in ("acme app", "0.002 USD", "0.01 USD", "0.008 USD", REQUEST, "Acme"):
        assert said in page.said
    assert world.link("top-up") in page.links
    data = (await visit.get(world.diagnosis(), headers={"accept": "*/*"})).json()
    assert data["cause"] == "balance"
    assert data["reason"] == "insufficient_balance"
    assert data["steps"][0]["check"] == "credential"
    text = (await visit.get(world.diagnosis(), headers={"accept": "text/markdown"})).text
    assert "**failed** The wallet covers the price" in text


async def test_a_link_of_a_refusal_fills_in_the_top_up(
    world: World, visit: httpx.AsyncClient
) -> None:
    link = f"{world.link('top-up')}&amount=0.008&currency=USD"
    answer = await visit.get(link)
    # What is missing, in whole cents; the currencies to choose from, that of the request first.
    assert 'name="amount" type="text" value="0.01"' in answer.text
    assert "<option selected>USD</option><option>EUR</option>" in answer.text
    assert "needs 0.01 USD more" in Page(answer).said
    text = (await visit.get(link, headers={"accept": "text/markdown"})).text
    assert "with `amount` (0.01), `currency` (USD)" in text


@pytest.mark.parametrize(
    "more",
    [
        "",
        "&amount=x&currency=USD",
        "&amount=-1&currency=USD",
        "&amount=1",
        "&amount=1e9&currency=<b>",
    ],
)
async def test_what_is_no_amount_fills_in_nothing(
    world: World, visit: httpx.AsyncClient, more: str
) -> None:
    answer = await visit.get(f"{world.link('top-up')}{more}")
    assert 'name="amount" type="text" value=""' in answer.text
    assert "<option selected>EUR</option></select>" in answer.text


async def test_when_it_is_mended_the_page_says_so(world: World, visit: httpx.AsyncClient) -> None:
    world.record("insufficient_balance")
    page = Page(await visit.get(world.diagnosis()))
    assert "Resolved: send it again" in page.said


async def test_strangers_see_the_reason_alone(world: World, visit: httpx.AsyncClient) -> None:
    world.record("insufficient_balance")
    answer = await visit.get(world.diagnosis(consumer=None))
    page = Page(answer)
    assert "The balance does not cover the price" in page.said
    for secret in ("acme", "Acme", "1 USD", "0.01"):
        assert secret not in answer.text
    assert page.links == ["/_fastgate/problems/insufficient_balance"]


async def test_a_link_shows_no_other_callers_request(
    world: World, visit: httpx.AsyncClient
) -> None:
    other = ConsumerFacts(id="con-2", name="other app", account="acc-2", plan="pro")
    world.facts.consumers.append(other)
    world.record("rate_limited", "other app")
    data = (await visit.get(world.diagnosis(), headers={"accept": "*/*"})).json()
    assert data["consumer"] == "acme app"
    assert data["request"] is None
    assert data["status"] is None
    world.record(None, "other app")
    assert (await visit.get(world.diagnosis(consumer=None))).status_code == 404


async def test_without_a_record_the_owner_hears_how_things_stand(
    world: World, visit: httpx.AsyncClient
) -> None:
    page = Page(await visit.get(world.diagnosis()))
    assert "It would be served" in page.said
    assert (await visit.get(world.diagnosis(consumer=None))).status_code == 404


@pytest.mark.parametrize("change", ["", "x", REQUEST, "a" * 38])
async def test_links_that_do_not_hold(world: World, visit: httpx.AsyncClient, change: str) -> None:
    world.record("insufficient_balance")
    for path in (f"/_fastgate/requests/{REQUEST}", "/_fastgate/account"):
        answer = await visit.get(path, params={"request": REQUEST, "cap": change})
        assert answer.status_code == 403
        assert Page(answer).inputs == ["key"]
        assert "acme" not in answer.text.lower()


async def test_links_grow_old(world: World, visit: httpx.AsyncClient) -> None:
    answer = await visit.get(world.link(age=3600))
    assert answer.status_code == 403
    assert "too old" in answer.text


# ---- the account ---------------------------------------------------------------------------

PAGES = ["", "top-up", "payment-method", "pay", "renew", "plan"]


@pytest.mark.parametrize("page", PAGES)
async def test_accounts_are_for_their_owners(
    world: World, visit: httpx.AsyncClient, page: str
) -> None:
    address = f"/_fastgate/account{page and f'/{page}'}"
    bare = await visit.get(address)
    assert bare.status_code == 401
    assert bare.headers["www-authenticate"].startswith("Bearer")
    assert Page(bare).inputs == ["key"]
    assert (await visit.get(world.link(page, consumer=None))).status_code == 401
    by_link = await visit.get(world.link(page))
    by_key = await visit.get(address, headers={"authorization": f"Bearer {KEY}"})
    by_header = await visit.get(address, headers={"x-api-key": KEY})
    assert by_link.status_code == by_key.status_code == by_header.status_code == 200
    assert world.self_service is not None
    assert world.self_service.done == []
    assert by_link.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("page", PAGES)
async def test_every_link_and_form_leads_somewhere(
    world: World, visit: httpx.AsyncClient, page: str
) -> None:
    shown = Page(await visit.get(world.link(page)))
    assert shown.links
    for link in shown.links:
        assert (await visit.get(link)).status_code == 200, link
    for form in shown.forms:
        data = {name: "20" if name == "amount" else "EUR" for name in shown.inputs}
        answer = await visit.post(form, data=data)
        assert answer.status_code == 303, answer.text
        where = answer.headers["location"]
        assert where == CHECKOUT or (await visit.get(where)).status_code == 200


@pytest.mark.parametrize("page", PAGES)
async def test_all_pages_speak_to_programs_and_agents(
    world: World, visit: httpx.AsyncClient, page: str
) -> None:
    data = await visit.get(world.link(page), headers={"accept": "application/json"})
    assert isinstance(data.json(), dict)
    text = await visit.get(world.link(page), headers={"accept": "text/markdown"})
    assert text.text.startswith("# ")


async def test_a_key_that_does_not_hold(world: World, visit: httpx.AsyncClient) -> None:
    digest = key_digest(KEY)
    for key in (
        None,
        KeyFacts(id="key-1", consumer="con-1", revoked_at=5),
        KeyFacts(id="key-1", consumer="con-1", expires_at=int(NOW.timestamp())),
        KeyFacts(id="key-1", consumer="gone"),
    ):
        world.facts.keys = {} if key is None else {digest: key}
        answer = await visit.get("/_fastgate/account", headers={"x-api-key": KEY})
        assert answer.status_code == 403
        assert (await visit.post("/_fastgate/account", data={"key": KEY})).status_code == 403


async def test_a_person_types_a_key_and_gets_a_link(world: World, visit: httpx.AsyncClient) -> None:
    answer = await visit.post("/_fastgate/account", data={"key": f" {KEY} "})
    assert answer.status_code == 303
    assert KEY not in answer.headers["location"]
    page = Page(await visit.get(answer.headers["location"]))
    assert "Acme <& Sons>" in page.said
    assert "0.002 EUR" in page.said
    assert (await visit.post("/_fastgate/account", data={"key": ""})).status_code == 401


async def test_who_has_no_account(world: World, visit: httpx.AsyncClient) -> None:
    world.facts.consumers = [ConsumerFacts(id="con-1", name="acme app")]
    assert (await visit.get(world.link())).status_code == 409
    world.facts.consumers = [ConsumerFacts(id="con-1", name="x", account="acc-1", suspended=True)]
    assert (await visit.get(world.link())).status_code == 403
    world.facts.consumers = []
    assert (await visit.get(world.link())).status_code == 401
    world.facts = Facts()
    world.self_service = None
    assert (await visit.get(world.link())).status_code == 409


@pytest.mark.parametrize(
    ("state", "reason", "ending", "bills", "title", "renews"),
    [
        ("active", None, False, 0, "The subscription renews automatically", False),
        ("active", None, True, 0, "Renew pro", True),
        ("expired", "subscription_expired", False, 0, "Renew pro", True),
        ("incomplete", "payment_action_required", False, 1, "has to be paid first", False),
        ("paused", "payment_method_missing", False, 0, "pro: paused", False),
    ],
)
async def test_renewing_is_offered_where_it_would_work(
    world: World,
    visit: httpx.AsyncClient,
    state: str,
    reason: str | None,
    ending: bool,
    bills: int,
    title: str,
    renews: bool,
) -> None:
    assert world.self_service is not None
    one = SubscriptionOverview(
        plan="pro", service=None, state=state, reason=reason, ends=NOW, ending=ending
    )
    view = world.self_service.view
    world.self_service.view = replace(view, subscriptions=[one], open=view.open[:bills])
    page = Page(await visit.get(world.link("renew")))
    assert title in page.said
    assert len(page.forms) == renews
    assert any("/account/pay?" in link for link in page.links) == bool(bills)


@pytest.mark.parametrize(
    ("body", "amount"),
    [
        ({"amount": "20"}, "20 EUR"),
        ({"amount": "12,50", "currency": "usd"}, "12.5 USD"),
        ({"amount": "7.25 usd"}, "7.25 USD"),
    ],
)
async def test_topping_up_leads_to_the_provider(
    world: World, visit: httpx.AsyncClient, body: dict[str, str], amount: str
) -> None:
    for how in ({"data": body}, {"json": body}):
        answer = await visit.post(world.link("top-up"), **how)  # type: ignore[arg-type]
        assert answer.status_code == 303
        assert answer.headers["location"] == CHECKOUT
    assert world.self_service is not None
    for what, account, money, back in world.self_service.done:
        assert (what, account, money) == ("top_up", "acc-1", amount)
        assert back == f"http://api.example{world.link()}"
        assert (await visit.get(back)).status_code == 200
    program = await visit.post(
        "/_fastgate/account/top-up", json=body, headers={"x-api-key": KEY, "accept": "*/*"}
    )
    assert program.json() == {"location": CHECKOUT}


@pytest.mark.parametrize("called", ["https", "HTTPS", "https, http"])
async def test_the_way_back_is_by_https_where_that_was_called(
    world: World, visit: httpx.AsyncClient, called: str
) -> None:
    answer = await visit.post(
        world.link("top-up"), data={"amount": "20"}, headers={"x-forwarded-proto": called}
    )
    assert answer.status_code == 303
    assert world.self_service is not None
    assert world.self_service.done[-1][3] == f"https://api.example{world.link()}"


async def test_the_way_back_is_the_public_address(world: World, visit: httpx.AsyncClient) -> None:
    billing = {"public_url": "https://shop.example/"}
    world.gateway = decode({"version": 1, "billing": billing})
    await visit.post(world.link("top-up"), data={"amount": "1"})
    assert world.self_service is not None
    assert world.self_service.done[0][3].startswith("https://shop.example/_fastgate/account?")


@pytest.mark.parametrize("amount", ["", "0", "-5", "1e3", "x", "5 USDC", "0.0000001", "1" * 40])
async def test_what_is_no_amount(world: World, visit: httpx.AsyncClient, amount: str) -> None:
    answer = await visit.post(world.link("top-up"), data={"amount": amount})
    assert answer.status_code == 422
    assert world.link("top-up") in Page(answer).links
    assert world.self_service is not None
    assert world.self_service.done == []


async def test_what_cannot_be_charged_asks_for_another_method(
    world: World, visit: httpx.AsyncClient
) -> None:
    assert world.self_service is not None
    world.self_service.paid = False
    answer = await visit.post(world.link("pay"))
    assert answer.headers["location"] == world.link("payment-method")
    answer = await visit.post(f"{world.link('plan')}&plan=large")
    assert answer.headers["location"] == world.link("pay")
    assert ("take", "acc-1", "large") in world.self_service.done


async def test_without_providers_the_pages_say_whom_to_ask(
    world: World, visit: httpx.AsyncClient
) -> None:
    assert world.self_service is not None
    view = world.self_service.view
    world.self_service.view = Overview(
        account="Acme",
        balances=[],
        subscriptions=[],
        open=view.open,
        top_up=False,
        methods=False,
        contact="billing@acme.example",
    )
    for page in ("top-up", "payment-method", "pay"):
        shown = Page(await visit.get(world.link(page)))
        assert "billing@acme.example" in shown.said
        assert shown.forms == []
        assert all("/account?" in link for link in shown.links)  # not to a page that says the same
    assert "billing@acme.example" in Page(await visit.get(world.link())).said


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("down"), 503),
        (ConflictError("It has one already."), 409),
        (Unsupported("nobody can"), 409),
        (ProviderUnavailable("no answer"), 503),
        (PaymentError("declined"), 422),
        (RuntimeError("a secret"), 500),
    ],
)
async def test_what_goes_wrong_is_said(
    world: World, visit: httpx.AsyncClient, error: Exception, status: int
) -> None:
    assert world.self_service is not None
    world.self_service.fail = error
    answer = await visit.post(world.link("top-up"), data={"amount": "5"})
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert (status == 503) == ("retry-after" in answer.headers)
    problem = await visit.post(world.link("pay"), headers={"accept": "*/*"})
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["status"] == status


# ---- other sites -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://api.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://api.example"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://www.api.example"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
    ],
)
async def test_other_sites_cannot_post(
    world: World, visit: httpx.AsyncClient, headers: dict[str, str], allowed: bool
) -> None:
    wanted = 303 if allowed else 403
    for page, data in (
        ("", {"key": KEY}),
        ("top-up", {"amount": "5"}),
        ("payment-method", {}),
        ("pay", {}),
        ("renew", {}),
        ("plan", {}),
    ):
        answer = await visit.post(world.link(page), data=data, headers=headers)
        assert answer.status_code == wanted, page
    assert world.self_service is not None
    assert bool(world.self_service.done) == allowed


async def test_only_small_forms(world: World, visit: httpx.AsyncClient) -> None:
    address = world.link("top-up")
    assert (await visit.post(address, data={"amount": "1" * 9000})).status_code == 413
    kind = {"content-type": "application/json"}
    assert (await visit.post(address, content=b"[1]", headers=kind)).status_code == 400
    assert (await visit.post(address, content=b"\xff\xfe=%")).status_code == 400


# ---- payment providers -------------------------------------------------------------------------


async def test_webhooks_are_handed_on_as_they_came(world: World, visit: httpx.AsyncClient) -> None:
    body = b'{"id": "evt_1",  "spaced":true}\n'
    answer = await visit.post(
        "/_fastgate/webhooks/stripe", content=body, headers={"Stripe-Signature": "t=1,v1=ab"}
    )
    assert answer.status_code == 200
    ((provider, headers, raw),) = world.received
    assert (provider, raw) == ("stripe", body)
    assert headers["stripe-signature"] == "t=1,v1=ab"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WebhookRejected("no"), 400),
        (ProviderRefused("who?"), 404),
        (Unsupported("none"), 404),
        (StoreError("down"), 503),
    ],
)
async def test_webhooks_that_are_not_taken(
    world: World, visit: httpx.AsyncClient, error: Exception, status: int
) -> None:
    world.refuse = error
    answer = await visit.post("/_fastgate/webhooks/stripe", content=b"{}")
    assert answer.status_code == status


async def test_nothing_personal_is_said_in_addresses_but_the_token(
    world: World, visit: httpx.AsyncClient
) -> None:
    page = Page(await visit.get(world.link()))
    for link in page.links:
        assert not re.search(r"acme|con-1|acc-1", link, re.IGNORECASE)


# ---- HEAD --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/_fastgate",
        "/_fastgate/problems",
        "/_fastgate/problems/rate_limited",
        f"/_fastgate/requests/{REQUEST}",
        "/_fastgate/account",
        "/_fastgate/nothing",
    ],
)
async def test_head_answers_as_get_without_the_body(visit: httpx.AsyncClient, path: str) -> None:
    whole = await visit.get(path)
    head = await visit.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert whole.content
    assert head.headers == whole.headers
