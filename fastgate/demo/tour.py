"""The tour: what a customer of a paid API does and sees, step by step.

    call ─▶ 402 that explains ─▶ top up on a card page ─▶ call again ─▶ receipt
    call ─▶ 402 ─▶ pay for this one request (x402) ─▶ the same payment again is refused
    call, call, call … ─▶ "balance low" ─▶ empty ─▶ auto-recharge ─▶ call again
    the books are audited

Every step checks its result, so the demonstration is either correct or fails.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx

from fastgate.demo.environment import DemoError, Environment

CARD = "4242 4242 4242 4242"
MOST_CALLS = 100
MAIL_S = 15.0


def expect(held: bool, what: str) -> None:
    """Raises DemoError if the condition is false."""
    if not held:
        raise DemoError(f"The demonstration expected {what}.")


class Tour:
    """One customer's steps."""

    def __init__(self, environment: Environment, say: Callable[[str], None]) -> None:
        self.environment = environment
        self._say = say
        self._number = 0
        self._client = httpx.Client(base_url=environment.base, timeout=10)
        self._account = self._key = ""

    def run(self) -> None:
        """Run all steps. Raises DemoError."""
        try:
            self._open_account()
            refusal = self._refused()
            self._top_up(refusal)
            self._receipt()
            if self.environment.x402:
                self._by_request()
            else:
                self._say("\n(x402 is left out: pip install 'fastgate[x402]' for it.)")
            self._run_dry()
            self._recharge()
            self._audit()
        finally:
            self._client.close()

    # ---- output ---------------------------------------------------------------------------

    def _step(self, title: str) -> None:
        self._number += 1
        self._say(f"\n{self._number}. {title}")

    def _print(self, text: str) -> None:
        self._say(f"   {text}")

    def _call(self) -> httpx.Response:
        return self._client.get("/weather", headers={"X-Api-Key": self._key})

    def _balance(self) -> int:
        found = self.environment.api("GET", f"/v1/accounts/{self._account}/wallets")["items"]
        return int(found[0]["available"]) if found else 0

    # ---- the steps ------------------------------------------------------------------------

    def _open_account(self) -> None:
        self._step("Acme gets an account, a consumer and a key.")
        api = self.environment.api
        self._account = api("POST", "/v1/accounts", {"name": "Acme"})["id"]
        api("PATCH", f"/v1/accounts/{self._account}/billing", {"emails": ["it@acme.example"]})
        consumer = api("POST", "/v1/consumers", {"name": "Acme Web", "account": self._account})
        self._key = api("POST", f"/v1/consumers/{consumer['id']}/credentials", {})["key"]
        self._print("No money yet, and a forecast costs 0.05 USD.")

    def _refused(self) -> dict[str, Any]:
        self._step("It calls.")
        answer = self._call()
        expect(answer.status_code == 402, "a 402")
        problem: dict[str, Any] = answer.json()
        expect(problem["reason"] == "insufficient_balance", "insufficient_balance")
        self._print(f"402 {problem['reason']}: {problem['detail']}")
        self._print(f"balance {problem['balance']}, required {problem['required']}")
        for remedy in problem["remedies"]:
            self._print(f"- {remedy['title']}: {_short(remedy.get('href', ''))}")
        self._print(f"- why? {_short(problem['diagnose'])}")
        page = self._client.get(problem["diagnose"], headers={"Accept": "application/json"}).json()
        failed = [step["check"] for step in page["steps"] if step["result"] == "failed"]
        expect(failed == ["balance"], "a diagnosis that finds the balance")
        self._print("The link says: everything is fine but the balance.")
        return problem

    def _top_up(self, problem: dict[str, Any]) -> None:
        self._step("It follows the link and pays 1 USD by card.")
        link = next(one["href"] for one in problem["remedies"] if one["action"] == "top_up")
        onward = self._client.post(link, data={"amount": "1 USD"})
        expect(onward.status_code == 303, "to be sent on to the card page")
        page = onward.headers["location"]
        self._print(f"Card page: {page}")
        paid = httpx.post(page, data={"card": CARD})
        expect(paid.status_code == 303, "the card to be taken")
        self.environment.until(lambda: self._balance() == 1_000_000, "the payment is credited")
        self._print("The provider's webhook came, the payment was looked up, the wallet has 1 USD.")
        answer = self._call()
        expect(answer.status_code == 200, "to be served")
        self._print(f"It calls again: 200 {answer.text}")

    def _receipt(self) -> None:
        self._step("A receipt arrives.")
        mail = self.environment.mails.wait_for("Receipt", MAIL_S)
        if mail is None:
            raise DemoError("The receipt did not arrive.")
        self._print(f"To {mail['To']}: {mail['Subject']}")
        found = self.environment.api("GET", f"/v1/invoices?account={self._account}")["items"]
        expect(len(found) == 1 and found[0]["status"] == "paid", "one paid receipt")
        self._print(f"It is {found[0]['number']}, also as a page and by the API.")

    def _by_request(self) -> None:
        self._step("An agent without an account pays for one request, with x402.")
        path = "/pay-as-you-go/weather"
        refused = self._client.get(path)
        expect(refused.status_code == 402, "a 402 with an offer")
        required = refused.headers["payment-required"]
        accepted = json.loads(base64.b64decode(required))["accepts"][0]
        self._print(
            f"402, PAYMENT-REQUIRED: {accepted['amount']} units to {accepted['payTo'][:10]}…"
        )
        payment = {"PAYMENT-SIGNATURE": self.environment.wallet.pay(required)}
        served = self._client.get(path, headers=payment)
        expect(served.status_code == 200, "to be served for the payment")
        receipt = json.loads(base64.b64decode(served.headers["payment-response"]))
        self._print(f"200 {served.text}")
        self._print(f"PAYMENT-RESPONSE: transaction {receipt['transaction'][:18]}…")
        again = self._client.get(path, headers=payment)
        expect(again.status_code == 402, "a payment to pay once")
        expect(self.environment.facilitator.received == int(accepted["amount"]), "to be paid once")
        self._print(
            f"The same payment again: 402 {again.json()['reason']}. One payment, one answer."
        )

    def _run_dry(self) -> None:
        self._step("Acme calls until nothing is left.")
        served = 0
        while (answer := self._call()).status_code == 200:
            served += 1
            expect(served < MOST_CALLS, "the wallet to run dry")
        expect(answer.status_code == 402, "a 402 at the end")
        self._print(f"{served} calls served, then 402 {answer.json()['reason']}: not one too many.")
        mail = self.environment.mails.wait_for("Balance low", MAIL_S)
        if mail is None:
            raise DemoError("The alert did not arrive.")
        self._print(f"Meanwhile a mail came: {mail['Subject']}")

    def _recharge(self) -> None:
        self._step("It lets the wallet recharge itself: 2 USD when below 0.50, at most 10 a month.")
        rule = {"threshold": "0.50 USD", "amount": "2 USD", "monthly_cap": "10 USD"}
        self.environment.api("PUT", f"/v1/accounts/{self._account}/recharge", rule)
        self.environment.until(lambda: self._balance() >= 2_000_000, "the recharge is credited")
        self._print("The saved card was charged, the wallet has 2 USD.")
        expect(self._call().status_code == 200, "to be served")
        self._print("It calls again: 200.")

    def _audit(self) -> None:
        self._step("The books are audited.")

        def settled() -> bool:
            found = self.environment.api("GET", "/v1/ledger/pipeline")
            return not (found["waiting"] or found["spooled"] or found["open_holds"])

        self.environment.until(settled, "all usage is in the ledger")
        report = self.environment.api("GET", "/v1/ledger/audit")
        wrong = [check["name"] for check in report["checks"] if not check["passed"]]
        expect(not wrong, f"books that are right, not {wrong}")
        self._print(f"{len(report['checks'])} checks passed, to the millionth of a dollar.")


def _short(url: str) -> str:
    return url if len(url) <= 76 else f"{url[:75]}…"
