"""Every reason of 402, through a real gateway: its diagnosis names the cause and what helps, and
when that is done, by the links of the refusal where there is one, the same call is served.

The payment provider and the facilitator are those of the demonstration, over real HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import StartGateway
from gatewaykit import PROJECT, Answer, Gateway, Upstream, eventually, fetch, proxying
from paidkit import Customer, audit, customer, made, settled

from fastgate.demo.demopay import BAD_CARD, GOOD_CARD, POOR_CARD, DemoPay
from fastgate.demo.x402_facilitator import ASSET, NETWORK, SELLER, DemoFacilitator, DemoWallet
from fastgate.errors import REASONS

SECRET = "a secret of tests"
AUTH = {"api_key": {"header": "X-Api-Key"}}
TESTED: set[str] = set()


class PaidGateway:
    """A gateway that sells, and who is paid through."""

    def __init__(self, gateway: Gateway, pay: DemoPay, wallet: DemoWallet) -> None:
        self.gateway, self.pay, self.wallet = gateway, pay, wallet
        pay.webhook = gateway.url("/_fastgate/webhooks/demo")

    def subscribe(self, who: Customer, plan: str, **more: Any) -> str:
        body = {"account": who.account, "plan": plan, **more}
        return str(made(self.gateway.api("/v1/subscriptions", method="POST", body=body))["id"])

    def save_card(self, who: Customer, card: str = GOOD_CARD) -> None:
        """Leave a card at the provider's page, then perhaps have it go bad."""
        body = {"return_url": self.gateway.url("/")}
        path = f"/v1/accounts/{who.account}/payment-methods"
        page = made(self.gateway.api(path, method="POST", body=body))["url"]
        assert httpx.post(page, data={"card": GOOD_CARD}).status_code == 303

        def known() -> bool:
            return bool(made(self.gateway.api(f"/v1/accounts/{who.account}/billing"))["has_method"])

        eventually(known, "the method is known")
        if card != GOOD_CARD:
            self.pay.spoil(who.account, card)

    def state_of(self, subscription: str) -> str:
        found = made(self.gateway.api(f"/v1/subscriptions/{subscription}"))
        return str(found["state"])

    def call(self, who: Customer, path: str) -> Answer:
        """As the customer, by an address that links can be followed to."""
        host, port = self.gateway.address()
        headers = {**who.headers, "Host": f"{host}:{port}"}
        return fetch((host, port), path, headers=headers)

    # ---- what is asked of each reason -------------------------------------------------------

    def refused(self, who: Customer, reason: str, path: str) -> dict[str, Any]:
        """Call until the reason comes; the problem."""
        answer = eventually(
            lambda: (
                (got := self.call(who, path)).status == 402 and got.json["reason"] == reason and got
            ),
            reason,
        )
        assert isinstance(answer, Answer)
        assert answer.headers["cache-control"] == "no-store"
        TESTED.add(reason)
        problem: dict[str, Any] = answer.json
        return problem

    def diagnosed(self, problem: dict[str, Any], check: str, action: str) -> None:
        """The diagnosis names the cause and what helps; to operators, and by the link."""
        ident = problem["instance"].rpartition(":")[2]
        found = made(self.gateway.api(f"/v1/requests/{ident}/diagnosis"))
        assert (found["cause"], found["reason"]) == (check, problem["reason"])
        step = next(step for step in found["steps"] if step["check"] == check)
        assert step["result"] == "failed"
        assert step["fix"]["action"] == action
        actions = [remedy["action"] for remedy in problem["remedies"]]
        assert action in actions
        linked = httpx.get(problem["diagnose"], headers={"Accept": "application/json"})
        assert linked.status_code == 200
        assert linked.json()["cause"] == check

    def follow(self, problem: dict[str, Any], action: str, **fields: str) -> str:
        """Do what a remedy's link leads to; where it sends the caller then."""
        link = next(one["href"] for one in problem["remedies"] if one["action"] == action)
        page = httpx.get(link, headers={"Accept": "text/html"})
        assert page.status_code == 200, page.text
        answer = httpx.post(link, data=fields)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def served(self, who: Customer, path: str) -> None:
        """The same call, now."""
        eventually(lambda: self.call(who, path).status == 200, "it is served")


def _plans() -> list[dict[str, Any]]:
    def plan(name: str, price: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "price": price, **more}

    return [
        plan("free", {"per_request": "0 USD"}),
        plan("basic", {"flat": "5 USD", "grace": "0s"}),
        plan("large", {"flat": "50 USD", "grace": "0s"}),
        plan("tryout", {"flat": "5 USD", "trial": "2s", "grace": "0s"}),
        plan(
            "small",
            {"flat": "1 USD"},
            quotas=[{"period": "year", "requests": 2, "then": "offer_upgrade"}],
        ),
    ]


@pytest.fixture(scope="module")
def paid(
    shared_gateway: StartGateway,
    shared_upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[PaidGateway]:
    plugin = tmp_path_factory.mktemp("plugin")
    info = plugin / "fastgate_demo-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fastgate-demo\nVersion: 1\n")
    entry = "[fastgate.payment_providers]\ndemo = fastgate.demo.provider:create\n"
    (info / "entry_points.txt").write_text(entry)
    pay, wallet = DemoPay(SECRET), DemoWallet()
    facilitator = DemoFacilitator(wallet, 1_000_000)
    config = proxying(
        shared_upstream,
        {"name": "paid", "path": "/paid/{rest*}", "price": "0.01 USD", "auth": AUTH},
        {"name": "keyed", "path": "/keyed/{rest*}", "auth": AUTH},
        {
            "name": "by-request",
            "path": "/by-request/{rest*}",
            "x402": {
                "pay_to": SELLER,
                "network": NETWORK,
                "asset": ASSET,
                "amount": "1000",
                "facilitator": facilitator.url,
            },
        },
        plans=_plans(),
        billing={"providers": ["demo", "manual"], "dunning": {"retries": []}},
        consumers=[{"name": "nobody", "keys": ["a-key-that-nobody-pays-for"]}],
    )
    running = shared_gateway(
        config,
        environ={
            "PYTHONPATH": f"{plugin}:{PROJECT}",
            "FASTGATE_DEMO_PAY": pay.url,
            "FASTGATE_DEMO_SECRET": SECRET,
        },
    )
    yield PaidGateway(running, pay, wallet)
    pay.close()
    facilitator.close()


def test_insufficient_balance(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "broke")
    problem = paid.refused(who, "insufficient_balance", "/paid/")
    assert (problem["balance"], problem["required"]) == ("0", "0.01")
    paid.diagnosed(problem, "balance", "top_up")
    page = paid.follow(problem, "top_up", amount="5")
    assert httpx.post(page, data={"card": GOOD_CARD}).status_code == 303
    paid.served(who, "/paid/")


def test_spending_limit_reached(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "thrifty", 1_000_000)
    paths = (
        f"/v1/accounts/{who.account}",
        f"/v1/consumers/{who.consumer}",
        f"/v1/consumers/{who.consumer}/credentials/{who.credential}",
    )
    for path in paths:
        limit = f"{path}/spending-limit"
        spent = made(paid.gateway.api(limit))["spent"]
        body = {"amount": f"0.0{spent // 10_000 + 1} USD", "period": "day"}
        found = made(paid.gateway.api(limit, method="PUT", body=body))
        assert found["limit"] > found["spent"] or path != paths[0]
        problem = paid.refused(who, "spending_limit_reached", "/paid/")
        paid.diagnosed(problem, "spending", "wait")
        body = {"amount": "0.90 USD", "period": "day"}
        made(paid.gateway.api(limit, method="PUT", body=body))
        paid.served(who, "/paid/")


def test_quota_exhausted_upgrade(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "grown")
    paid.save_card(who)
    paid.subscribe(who, "small")
    paid.served(who, "/keyed/")
    problem = paid.refused(who, "quota_exhausted_upgrade", "/keyed/")
    paid.diagnosed(problem, "quota", "upgrade")
    link = next(one["href"] for one in problem["remedies"] if one["action"] == "upgrade")
    page = httpx.get(link, headers={"Accept": "application/json"})
    assert {"basic", "large"} <= {offer["plan"] for offer in page.json()["plans"]}
    assert httpx.post(f"{link}&plan=large").status_code == 303
    paid.served(who, "/keyed/")


def test_payment_action_required(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "cardless")
    subscription = paid.subscribe(who, "basic")
    problem = paid.refused(who, "payment_action_required", "/keyed/")
    assert paid.state_of(subscription) == "incomplete"
    paid.diagnosed(problem, "subscription", "pay_now")
    page = paid.follow(problem, "update_payment_method")
    assert httpx.post(page, data={"card": GOOD_CARD}).status_code == 303
    paid.served(who, "/keyed/")
    assert paid.state_of(subscription) == "active"


def _on_large_with(paid: PaidGateway, name: str, card: str) -> tuple[Customer, str]:
    """A paying customer on `basic` whose card goes bad, and who then takes `large`."""
    who = customer(paid.gateway, name)
    paid.save_card(who)
    subscription = paid.subscribe(who, "basic")
    eventually(lambda: paid.state_of(subscription) == "active", "the first fee is paid")
    paid.pay.spoil(who.account, card)
    path = f"/v1/subscriptions/{subscription}"
    body = {"plan": "large"}
    made(paid.gateway.api(path, method="PATCH", body=body, headers={"If-Match": "*"}))
    return who, subscription


def test_payment_failed(paid: PaidGateway) -> None:
    who, subscription = _on_large_with(paid, "declined", BAD_CARD)
    problem = paid.refused(who, "payment_failed", "/keyed/")
    paid.diagnosed(problem, "subscription", "update_payment_method")
    page = paid.follow(problem, "update_payment_method")
    assert httpx.post(page, data={"card": GOOD_CARD}).status_code == 303
    paid.served(who, "/keyed/")
    assert paid.state_of(subscription) == "active"


def test_subscription_past_due(paid: PaidGateway) -> None:
    who, subscription = _on_large_with(paid, "late", POOR_CARD)
    problem = paid.refused(who, "subscription_past_due", "/keyed/")
    assert paid.state_of(subscription) == "grace"
    paid.diagnosed(problem, "subscription", "pay_now")
    paid.pay.spoil(who.account, GOOD_CARD)  # the customer has filled the account of the card
    paid.follow(problem, "pay_now")
    paid.served(who, "/keyed/")


def test_payment_method_missing(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "trying")
    paid.subscribe(who, "tryout")
    paid.served(who, "/keyed/")
    problem = paid.refused(who, "payment_method_missing", "/keyed/")
    paid.diagnosed(problem, "subscription", "update_payment_method")
    page = paid.follow(problem, "update_payment_method")
    assert httpx.post(page, data={"card": GOOD_CARD}).status_code == 303
    paid.served(who, "/keyed/")


def test_subscription_expired(paid: PaidGateway) -> None:
    who = customer(paid.gateway, "gone")
    paid.save_card(who)
    subscription = paid.subscribe(who, "tryout")
    made(paid.gateway.api(f"/v1/subscriptions/{subscription}/cancel", method="POST"))
    paid.served(who, "/keyed/")
    problem = paid.refused(who, "subscription_expired", "/keyed/")
    paid.diagnosed(problem, "subscription", "renew")
    paid.follow(problem, "renew")
    paid.served(who, "/keyed/")


def test_payment_required_of_a_caller_without_an_account(paid: PaidGateway) -> None:
    headers = {"X-Api-Key": "a-key-that-nobody-pays-for"}
    answer = fetch(paid.gateway.address(), "/paid/", headers=headers)
    assert (answer.status, answer.json["reason"]) == (402, "payment_required")
    TESTED.add("payment_required")
    ident = answer.json["instance"].rpartition(":")[2]
    found = made(paid.gateway.api(f"/v1/requests/{ident}/diagnosis"))
    assert found["cause"] == "payment"
    who = customer(paid.gateway, "somebody", 1_000_000)
    paid.served(who, "/paid/")


def test_payment_required_and_payment_invalid_of_x402(paid: PaidGateway) -> None:
    url = paid.gateway.url("/by-request/echo")
    offered = httpx.get(url)
    assert (offered.status_code, offered.json()["reason"]) == (402, "payment_required")
    payment = paid.wallet.pay(offered.headers["payment-required"])
    other = httpx.get(f"{url}?other", headers={"PAYMENT-SIGNATURE": payment})
    assert (other.status_code, other.json()["reason"]) == (402, "payment_invalid")
    TESTED.add("payment_invalid")
    assert httpx.get(url, headers={"PAYMENT-SIGNATURE": payment}).status_code == 200


def test_the_books_are_right_after_all_of_it(paid: PaidGateway) -> None:
    settled(paid.gateway)
    audit(paid.gateway)
    assert {reason.code for reason in REASONS if reason.status == 402} == TESTED
