"""The API of money over the real parts: wallets, ledger, subscriptions, invoices, notices,
payments, spending limits, reports, diagnosis."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from apikit import Client, is_problem
from billingkit import ComposedBilling, with_billing
from calendarkit import steady_zone

from fastgate.billing.x402.books import X402Payment
from fastgate.model.codec import decode, encode
from fastgate.store.money_tables import x402_payments

CENT = 10_000


@pytest.fixture
async def billing(world: Any, tmp_path: Path) -> AsyncIterator[ComposedBilling]:
    data = encode(world.control.gateway)
    data["routes"][0] |= {"price": "0.01 USD", "auth": {"api_key": {"header": "X-Api-Key"}}}
    data["plans"] = [
        {"name": "free"},
        {"name": "gold", "price": {"flat": "10 USD"}},
        {"name": "silver", "price": {"per_request": "0.01 USD"}},
    ]
    data["billing"] = {"seller": {"name": "Seller & Sons"}, "time_zone": steady_zone()}
    world.control.gateway = decode(data)
    world.identity.configure(world.control.gateway, {"free": 0, "gold": 1, "silver": 2})
    async with with_billing(world, tmp_path) as found:
        yield found


async def made(api: Client, path: str, body: Any = None, **headers: str) -> Any:
    answer = await api.post(path, json=body if body is not None else {}, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def read(api: Client, path: str) -> Any:
    answer = await api.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def acme(api: Client, billing: ComposedBilling) -> str:
    """An account with 1 USD."""
    ident: str = (await made(api, "/v1/accounts", {"name": "Acme"}))["id"]
    await made(api, f"/v1/accounts/{ident}/credits", {"amount": "1 USD", "reference": "t1"})
    return ident


async def test_without_prices_it_says_what_to_do(api: Client) -> None:
    for path in ("/v1/ledger/audit", "/v1/subscriptions", "/v1/payment-providers"):
        problem = is_problem(await api.get(path), 409, "billing_off")
        assert "price" in problem["detail"]


async def test_a_credit_is_booked_once_under_its_key(api: Client, acme: str) -> None:
    path, body = f"/v1/accounts/{acme}/credits", {"amount": "2.50 USD", "note": "again"}
    first = await made(api, path, body, **{"Idempotency-Key": "k1"})
    assert first["entry"]["id"] == "credit:k1"
    assert (first["fresh"], first["wallet"]["available"]) == (True, 3_500_000)
    # The answer is replayed; and where it was forgotten, the ledger knows the entry.
    again = await api.post(path, json=body, headers={"Idempotency-Key": "k1"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first
    other = await api.post(path, json={"amount": "3 USD"}, headers={"Idempotency-Key": "k1"})
    is_problem(other, 409, "idempotency_conflict")
    assert (await read(api, f"/v1/accounts/{acme}/wallets"))["items"][0]["text"] == "3.50 USD"


async def test_the_ledger_knows_a_key_that_the_api_forgot(
    api: Client, acme: str, as_role: Any
) -> None:
    path, body = f"/v1/accounts/{acme}/credits", {"amount": "2.50 USD"}
    await made(api, path, body, **{"Idempotency-Key": "k1"})
    headers = {**await as_role("operator"), "Idempotency-Key": "k1"}  # another's keys are its own
    again = await api.post(path, json=body, headers=headers)
    assert (again.status_code, again.json()["fresh"]) == (200, False)
    changed = await api.post(
        path, json={"amount": "9 USD"}, headers={**headers, "Idempotency-Key": "k1"}
    )
    is_problem(changed, 409, "idempotency_conflict")


async def test_a_reference_is_booked_once_with_whatever_key(api: Client, acme: str) -> None:
    """It names what arrived at the bank: again, it changes nothing; and it can be refunded."""
    path, body = f"/v1/accounts/{acme}/credits", {"amount": "2.50 USD", "reference": "transfer 9"}
    first = await made(api, path, body)
    for headers in ({}, {"Idempotency-Key": "another"}):
        again = await api.post(path, json=body, headers=headers)
        assert (again.status_code, again.json()["fresh"]) == (200, False)
        assert again.json()["entry"]["id"] == first["entry"]["id"]
    assert (await read(api, f"/v1/accounts/{acme}/wallets"))["items"][0]["text"] == "3.50 USD"
    is_problem(await api.post(path, json={**body, "amount": "2 USD"}), 409, "conflict")
    other = (await made(api, "/v1/accounts", {"name": "other"}))["id"]
    is_problem(await api.post(f"/v1/accounts/{other}/credits", json=body), 409, "conflict")
    await made(api, path, {"amount": "1 USD", "kind": "promotional", "reference": "transfer 9"})
    found = await read(api, "/v1/payments/manual/transfer 9")
    assert (found["payment"]["account"], found["payment"]["amount"]) == (acme, 2_500_000)
    await made(api, "/v1/payments/manual/transfer 9/refunds", {"amount": "0.50 USD"})
    assert (await read(api, f"/v1/accounts/{acme}/wallets"))["items"][0]["text"] == "4.00 USD"


async def test_promotional_credit_tax_and_overdraft(api: Client, acme: str) -> None:
    base = f"/v1/accounts/{acme}"
    await made(api, f"{base}/credits", {"amount": "1 EUR", "tax": "0.19 EUR"})
    await made(api, f"{base}/credits", {"amount": "1 EUR", "kind": "promotional"})
    answer = await api.put(f"{base}/overdraft", json={"currency": "EUR", "micros": 500_000})
    assert answer.json()["wallet"]["available"] == 2_500_000
    euro = next(
        one for one in (await read(api, f"{base}/wallets"))["items"] if one["currency"] == "EUR"
    )
    assert (euro["balance"], euro["promotional"], euro["overdraft"]) == (
        2_000_000, 1_000_000, 500_000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"amount": "0 USD"}, "amount"),
        ({"amount": "1"}, "amount"),
        ({"amount": "1.0000001 USD"}, "amount"),
        ({"amount": "1 USDC"}, "amount"),
        ({"amount": "-1 USD"}, "amount"),
        ({"amount": "1 USD", "tax": "1 EUR"}, "tax"),
        ({"amount": "1 USD", "tax": "1 USD", "kind": "promotional"}, "tax"),
        ({"amount": "1 USD", "more": 1}, "more"),
    ],
)
async def test_wrong_amounts_are_named(
    api: Client, acme: str, body: dict[str, Any], path: str
) -> None:
    problem = is_problem(
        await api.post(f"/v1/accounts/{acme}/credits", json=body), 422, "invalid_member"
    )
    assert problem["errors"][0]["path"] == path


async def test_usage_is_charged_refunded_and_corrected(
    api: Client, acme: str, billing: ComposedBilling
) -> None:
    base = f"/v1/accounts/{acme}"
    is_problem(
        await api.post(f"{base}/refunds", json={"amount": "0.01 USD"}), 409, "insufficient_funds"
    )
    billing.use(acme, 30 * CENT)
    (wallet,) = (await read(api, f"{base}/wallets"))["items"]
    assert (wallet["available"], wallet["in_flight"]) == (70 * CENT, 30 * CENT)
    await billing.settle()
    refunded = await made(api, f"{base}/refunds", {"amount": "0.10 USD", "note": "slow"})
    assert refunded["wallet"]["captured"] == 20 * CENT
    (used,) = (await read(api, f"{base}/usage"))["items"]
    assert (used["amount"], used["route"], used["free"]) == (30 * CENT, "read", False)
    entries = (await read(api, f"/v1/ledger?account={acme}"))["items"]
    assert [entry["kind"] for entry in entries] == ["refund", "charge", "credit"]
    assert all(sum(entry["postings"].values()) == 0 for entry in entries)
    page = await read(api, f"/v1/ledger?account={acme}&limit=2")
    rest = await read(api, f"/v1/ledger?account={acme}&cursor={page['next']}")
    assert page["items"] + rest["items"] == entries
    one = await read(api, f"/v1/ledger/entries/{entries[0]['id']}")
    assert one == entries[0]

    credit = entries[2]["id"]
    reversed_ = await made(api, f"{base}/corrections", {"reverses": credit})
    assert reversed_["wallet"]["available"] == -20 * CENT
    put_right = {
        "currency": "USD",
        "postings": {"customer_available": CENT, "provider_clearing": -CENT},
        "note": "a cent was found",
    }
    assert (await made(api, f"{base}/corrections", put_right))["wallet"]["available"] == -19 * CENT
    unbalanced = {**put_right, "postings": {"customer_available": CENT}}
    is_problem(await api.post(f"{base}/corrections", json=unbalanced), 409, "conflict")
    is_problem(await api.post(f"{base}/corrections", json={}), 422, "invalid_member")
    report = await read(api, "/v1/ledger/audit")
    assert all(check["passed"] for check in report["checks"]), report
    assert (await read(api, "/v1/ledger/pipeline"))["records"] == 1
    resolved = await read(api, "/v1/ledger/resolved?since=2026-01-01T00:00:00Z")
    assert resolved == {"items": []}


async def test_what_was_parked_waits_until_it_is_in_the_ledger(
    api: Client, acme: str, billing: ComposedBilling
) -> None:
    ring, more = billing.money.ring, 5
    for _ in range(ring + more):  # the last ones find no room in the ring
        billing.use(acme, 100)
    assert billing.money.state(0).parked == more
    pipeline = await read(api, "/v1/ledger/pipeline")
    assert (pipeline["waiting"], pipeline["open_holds"]) == (ring + more, 0)
    await billing.settle()
    pipeline = await read(api, "/v1/ledger/pipeline")
    assert (pipeline["waiting"], pipeline["records"]) == (0, ring + more)


async def test_reports_as_json_and_csv(api: Client, acme: str, billing: ComposedBilling) -> None:
    billing.use(acme, 2 * CENT)
    billing.use(acme, 3 * CENT)
    await billing.settle()
    found = await read(api, "/v1/reports/usage?group_by=account,route")
    (row,) = found["rows"]
    assert row | {"label": "Acme"} == row
    assert (row["requests"], row["amount"], row["route"]) == (2, 5 * CENT, "read")
    answer = await api.get("/v1/reports/usage?group_by=account&account=Acme&format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    (line,) = csv.DictReader(io.StringIO(answer.text))
    assert (line["account"], line["amount"]) == (acme, str(5 * CENT))
    assert (await read(api, "/v1/reports/usage?until=2020-01-01"))["rows"] == []
    problem = is_problem(await api.get("/v1/reports/usage?group_by=star"), 422, "invalid_member")
    assert "credential" in problem["detail"]


async def test_a_subscription_from_its_invoice_to_its_end(
    api: Client, acme: str, billing: ComposedBilling
) -> None:
    body = {"account": "Acme", "plan": "gold"}
    answer = await api.post("/v1/subscriptions", json=body)
    assert answer.status_code == 201
    subscription = answer.json()
    path = answer.headers["location"]
    assert (subscription["state"], subscription["reason"]) == (
        "incomplete", "payment_action_required",
    )  # fmt: skip
    assert billing.changed == [acme]
    is_problem(await api.post("/v1/subscriptions", json=body), 409, "conflict")
    is_problem(await api.post("/v1/subscriptions", json={**body, "plan": "none"}), 404, "not_found")

    (invoice,) = (await read(api, f"/v1/invoices?account={acme}"))["items"]
    assert (invoice["status"], invoice["currency"]) == ("open", "USD")
    assert len((await read(api, f"/v1/dunning?account={acme}"))["items"]) == 1
    page = await api.get(f"/v1/invoices/{invoice['number']}/page")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Seller &amp; Sons" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    paid = await made(api, f"/v1/invoices/{invoice['id']}/pay", {"reference": "bank 1"})
    assert (paid["status"], paid["reference"]) == ("paid", "bank 1")
    assert (await read(api, path))["reason"] is None
    (notice,) = (await read(api, f"/v1/notices?account={acme}&unread=true"))["items"]
    assert notice["kind"] == "payment.succeeded"
    await made(api, f"/v1/notices/{notice['id']}/read?account={acme}")
    assert (await read(api, f"/v1/notices?account={acme}&unread=true"))["items"] == []
    is_problem(await api.post(f"/v1/invoices/{invoice['id']}/void"), 409, "conflict")

    is_problem(await api.patch(path, json={"plan": "silver"}), 428, "precondition_required")
    etag = (await api.get(path)).headers["etag"]
    changed = await api.patch(path, json={"plan": "silver"}, headers={"If-Match": etag})
    assert changed.json()["subscription"]["plan"] == "silver"
    assert changed.json()["document"]["kind"] == "credit"
    stale = await api.patch(path, json={"plan": "gold"}, headers={"If-Match": etag})
    is_problem(stale, 412, "stale")

    assert (await made(api, f"{path}/pause"))["reason"] == "subscription_paused"
    assert (await made(api, f"{path}/resume"))["reason"] is None
    assert (await made(api, f"{path}/cancel"))["cancel_at_period_end"]
    assert not (await made(api, f"{path}/keep"))["cancel_at_period_end"]
    assert (await made(api, f"{path}/cancel", {"at": "now"}))["state"] == "canceled"
    is_problem(await api.post(f"{path}/pause"), 409, "conflict")
    steps = [step[1] for step in (await read(api, f"{path}/history"))["items"]]
    assert steps[0] == "created"
    assert steps[-1] == "cancel"
    assert len((await read(api, "/v1/subscriptions?account=Acme"))["items"]) == 1
    assert len((await read(api, "/v1/subscriptions?limit=1"))["items"]) == 1


async def test_spending_limits_of_accounts_consumers_and_keys(
    api: Client, acme: str, billing: ComposedBilling
) -> None:
    who = (await made(api, "/v1/consumers", {"name": "web", "account": "Acme"}))["id"]
    key = (await made(api, f"/v1/consumers/{who}/credentials"))["id"]
    for path, kind, subject in (
        ("/v1/accounts/Acme", "account", acme),
        ("/v1/consumers/web", "consumer", who),
        (f"/v1/consumers/web/credentials/{key}", "credential", key),
    ):
        limit = f"{path}/spending-limit"
        assert (await read(api, limit))["limit"] is None
        put = await api.put(limit, json={"amount": "5 USD", "period": "week"})
        view = put.json()
        assert (view["kind"], view["subject"], view["own"]) == (kind, subject, True)
        assert (view["limit"], view["spent"]) == (5_000_000, 0)
        assert billing.capped[-1] == (kind, subject)
        nothing = (await api.put(limit, json={"amount": "0 USD"})).json()
        assert (nothing["limit"], nothing["own"]) == (0, True)
        lifted = (await api.put(limit, json={"amount": None})).json()
        assert (lifted["limit"], lifted["own"]) == (None, True)
        is_problem(await api.put(limit, json={}), 422, "invalid_member")
        is_problem(await api.put(limit, json={"amount": "5 EUR"}), 422, "invalid_member")
        assert (await api.delete(limit)).json()["own"] is False
    is_problem(await api.get("/v1/accounts/nobody/spending-limit"), 404, "not_found")


async def test_billing_and_recharge_of_an_account(api: Client, acme: str) -> None:
    base = f"/v1/accounts/{acme}"
    changed = await api.patch(
        f"{base}/billing", json={"emails": ["a@acme.example"], "zone": "Europe/Berlin"}
    )
    assert changed.json()["zone"] == "Europe/Berlin"
    assert (await read(api, f"{base}/billing"))["emails"] == ["a@acme.example"]
    for wrong in ({"zone": "Nowhere"}, {"emails": ["not an address"]}, {}):
        is_problem(await api.patch(f"{base}/billing", json=wrong), 422, "invalid_member")
    is_problem(await api.get(f"{base}/recharge"), 404, "not_found")
    rule = {"threshold": "1 USD", "amount": "5 USD", "monthly_cap": "20 USD"}
    assert (await api.put(f"{base}/recharge", json=rule)).json()["enabled"]
    too_little = {**rule, "monthly_cap": "4 USD"}
    is_problem(await api.put(f"{base}/recharge", json=too_little), 422, "invalid_member")
    assert not (await api.delete(f"{base}/recharge")).json()["enabled"]


async def test_a_grace_is_ended_by_an_operator(
    api: Client, acme: str, billing: ComposedBilling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(billing.services.chain, "down", lambda: True)
    given = await billing.services.grace.grant(acme, "USD")
    assert given is not None
    end = f"/v1/accounts/{acme}/grace/{given.id}/end"
    is_problem(await api.post(f"/v1/accounts/{acme}/grace/none/end"), 404, "not_found")
    assert (await api.post(end)).status_code == 204
    is_problem(await api.post(end), 404, "not_found")
    (listed,) = (await read(api, f"/v1/payments?account={acme}"))["grace"]
    assert (listed["state"], listed["ended_by"]) == ("ended", "operator")


async def test_payments_of_an_account(api: Client, acme: str) -> None:
    found = await read(api, f"/v1/payments?account={acme}")
    assert [one["reference"] for one in found.pop("payments")] == ["t1"]  # entered by hand
    assert found == {"attempts": [], "grace": []}
    is_problem(await api.get("/v1/payments/manual/none"), 404, "not_found")
    is_problem(await api.post("/v1/payments/manual/none/refunds"), 409, "conflict")
    url = {"return_url": "https://acme.example/"}
    is_problem(
        await api.post(f"/v1/accounts/{acme}/top-ups", json={"amount": "1 USD", **url}),
        409,
        "conflict",
    )
    is_problem(await api.post(f"/v1/accounts/{acme}/payment-methods", json=url), 409, "conflict")
    assert (await read(api, f"/v1/accounts/{acme}/payment-methods"))["items"] == []
    (manual,) = (await read(api, "/v1/payment-providers"))["items"]
    assert (manual["name"], manual["state"]) == ("manual", "closed")
    assert (await read(api, "/v1/outbox"))["counts"] == {}


async def test_diagnosis_of_a_credential(api: Client, acme: str, billing: ComposedBilling) -> None:
    who = (await made(api, "/v1/consumers", {"name": "web", "account": "Acme"}))["id"]
    key = (await made(api, f"/v1/consumers/{who}/credentials"))["key"]
    found = await made(api, "/v1/diagnosis", {"credential": key, "route": "read"})
    assert found["served"]
    assert [step["check"] for step in found["steps"]][:3] == ["credential", "key", "consumer"]
    billing.use(acme, 100 * CENT)
    await billing.settle()
    broke = await made(api, "/v1/diagnosis", {"consumer": "web", "route": "read"})
    assert (broke["served"], broke["cause"], broke["reason"]) == (
        False, "balance", "insufficient_balance",
    )  # fmt: skip
    unknown = await made(api, "/v1/diagnosis", {"credential": "fg_nobody", "route": "read"})
    assert unknown["reason"] == "credential_unknown"
    is_problem(await api.post("/v1/diagnosis", json={}), 422, "invalid_member")
    is_problem(
        await api.post("/v1/diagnosis", json={"consumer": "web", "route": "none"}), 404, "not_found"
    )


async def test_viewers_look_and_operators_book(api: Client, acme: str, as_role: Any) -> None:
    viewer, operator = await as_role("viewer"), await as_role("operator")
    path = f"/v1/accounts/{acme}"
    assert (await api.get(f"{path}/wallets", headers=viewer)).status_code == 200
    body = {"amount": "1 USD"}
    refused = await api.post(f"{path}/credits", json=body, headers=viewer)
    is_problem(refused, 403, "forbidden")
    assert (await api.post(f"{path}/credits", json=body, headers=operator)).status_code == 201


async def test_a_payment_in_doubt_is_decided(api: Client, billing: ComposedBilling) -> None:
    now = datetime(2031, 5, 4, tzinfo=UTC)
    payment = X402Payment(
        id="ab" * 32, state="unknown", currency="eip155:1/erc20:0xab", amount=1000,
        asset_name="USDC", pay_to="0xshop", payer="0xab", route="weather", reference="",
        presumed=False, paid_at=now, booked_at=now,
    )  # fmt: skip
    async with billing.world.store.write() as connection:
        row = msgspec.structs.asdict(payment) | {"day": now.date()}
        await connection.execute(sa.insert(x402_payments).values(**row))
    path = f"/v1/ledger/x402/{payment.id}"
    assert [one["id"] for one in (await read(api, "/v1/ledger/x402?doubtful=true"))["items"]]
    for _ in range(2):
        found = await made(api, path, {"outcome": "paid", "reference": "0xfeed"})
        assert (found["state"], found["reference"]) == ("owed", "0xfeed")
    (owed,) = (await read(api, "/v1/ledger/x402?owed=true"))["items"]
    assert owed == found
    (entry,) = (await read(api, "/v1/ledger?account=x402"))["items"]
    assert entry["postings"] == {"customer_held": 1000, "provider_clearing": -1000}
    is_problem(await api.post(path, json={"outcome": "unpaid"}), 409, "conflict")
    is_problem(await api.post("/v1/ledger/x402/cd", json={"outcome": "paid"}), 404, "not_found")
    assert (await made(api, path, {"outcome": "refunded"}))["state"] == "refunded"
