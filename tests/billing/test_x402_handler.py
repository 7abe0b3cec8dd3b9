"""Paid routes: an engine, a facilitator over HTTP, signatures and balances that are real."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from enginekit import Backend, Seen
from paidroutekit import Clock, PaidRouteSetup, _clean, _facilitator, problem, setup  # noqa: F401
from x402kit import PRICE, Fault, sign, unpack

from fastgate.billing.x402.refused_payments import RefusedPayments

POOR = "invalid_exact_evm_insufficient_balance"

# ---- the ordinary way --------------------------------------------------------------------


async def test_what_is_asked_for_without_a_payment(facilitator, tmp_path):
    async with setup(facilitator, tmp_path, description="A forecast.") as s:
        reply = await s.ask(path="/w/1?city=Oslo")
        assert reply.status == 402
        found = problem(reply)
        assert (found["reason"], found["retry"]) == ("payment_required", "after_payment")
        field = reply.headers["payment-required"]
        assert len(field) < 8192
        offer = unpack(field)
        assert offer["x402Version"] == 2
        assert offer["resource"] == {
            "url": "http://test.example/w/1?city=Oslo",
            "description": "A forecast.",
        }
        (accepted,) = offer["accepts"]
        assert accepted["amount"] == str(PRICE)
        assert accepted["payTo"] == facilitator.chain.seller
        assert accepted["maxTimeoutSeconds"] == 600
        assert (s.runs, facilitator.seen) == (0, [])


async def test_paying_serves_and_settles(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(await s.payment())
        assert (reply.status, reply.body) == (200, b"GET /w/1")
        receipt = unpack(reply.headers["payment-response"])
        assert receipt["success"] is True
        assert len(receipt["transaction"]) == 66
        assert (s.runs, s.sold) == (1, 1)
        seen = s.backend.requests[0].headers
        assert "payment-signature" not in seen
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert [record.state for _, record in s.store.records()] == ["served"]


async def test_the_facilitator_gets_its_fields_and_our_own_offer(
    facilitator, tmp_path, monkeypatch
):
    monkeypatch.setenv("FACILITATOR_KEY", "Bearer t")
    fields = {"Authorization": "env:FACILITATOR_KEY"}
    async with setup(facilitator, tmp_path, facilitator_headers=fields) as s:
        payment = await s.payment()
        assert (await s.ask(payment)).status == 200
        for _, body, fields in facilitator.seen:
            assert fields["authorization"] == "Bearer t"
            assert body["paymentRequirements"] == unpack(await s.offer())["accepts"][0]
            assert body["paymentPayload"]["payload"] == unpack(payment)["payload"]


@pytest.mark.parametrize(
    ("rewrite", "forwarded"),
    [
        ({"strip_prefix": "/w", "replace_prefix": "/v2"}, b"/v2/1?q=2"),
        ({"path": "/v3?rest={rest}"}, b"/v3?rest=1&q=2"),
    ],
)
async def test_the_path_is_rewritten_and_the_key_kept_back(
    facilitator, tmp_path, rewrite, forwarded
):
    route = {
        "rewrite": rewrite,
        "auth": {"api_key": {"optional": True}},
    }
    async with setup(facilitator, tmp_path, route=route) as s:
        payment = await s.payment(path="/w/1?q=2")
        fields = {"Authorization": "Basic eHg6eXk=", "X-Forwarded-For": "6.6.6.6", "X-Own": "1"}
        reply = await s.ask(payment, path="/w/1?q=2", headers=fields)
        assert reply.body == b"GET " + forwarded
        seen = s.backend.requests[0].headers
        assert seen["authorization"] == "Basic eHg6eXk="
        assert (seen["x-own"], seen["x-forwarded-for"]) == ("1", "127.0.0.1")


async def test_version_1(facilitator, tmp_path):
    async with setup(facilitator, tmp_path, version1="base-sepolia") as s:
        reply = await s.ask()
        body = problem(reply)
        assert body["x402Version"] == 1
        payer = facilitator.chain.payer(PRICE)
        field = sign(payer, {name: body[name] for name in ("x402Version", "error", "accepts")})
        reply = await s.ask(headers={"X-PAYMENT": field})
        assert reply.status == 200
        assert unpack(reply.headers["x-payment-response"])["network"] == "base-sepolia"
        assert (s.runs, s.sold) == (1, 1)
        reply = await s.ask(headers={"X-PAYMENT": field})
        assert (reply.status, s.runs) == (402, 1)


async def test_version_1_only_where_the_route_asks_for_it(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(headers={"X-PAYMENT": "eyJ9"})
        assert problem(reply)["reason"] == "payment_required"


# ---- payments that do not fit ------------------------------------------------------------


def _set(path: str, value: object) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        *outer, last = path.split(".")
        for name in outer:
            found = found[name]
        if value is None:
            del found[last]
        else:
            found[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("accepted.amount", "1", "accepted.amount"),
        ("accepted.payTo", "0x" + "9" * 40, "accepted.payTo"),
        ("accepted.asset", "0x" + "9" * 40, "accepted.asset"),
        ("accepted.network", "eip155:1", "accepted.network"),
        ("accepted.scheme", "upto", "accepted.scheme"),
        ("accepted.maxTimeoutSeconds", 601, "accepted.maxTimeoutSeconds"),
        ("accepted.maxTimeoutSeconds", None, "accepted.maxTimeoutSeconds"),
        ("accepted.extra.name", "Other", "accepted.extra.name"),
        ("accepted.extra.more", "x", "accepted.extra.more"),
        ("accepted.more", "x", "accepted.more"),
        ("resource.url", "http://elsewhere.example/", "resource.url"),
        ("payload.authorization.to", "0x" + "9" * 40, "payload.authorization.to"),
        ("payload.authorization.value", "999", "payload.authorization.value"),
        ("payload.authorization.value", 1000, "payload.authorization.value"),
        ("payload.authorization.value", "01000", "payload.authorization.value"),
        ("payload.authorization.validBefore", "1", "payload.authorization.validBefore"),
        ("payload.authorization.validAfter", "99999999999", "payload.authorization.validAfter"),
        ("payload.authorization.nonce", "0x12", "payload.authorization.nonce"),
        ("payload.authorization.more", "x", "payload.authorization"),
        ("payload.signature", "0x", "payload.signature"),
        ("x402Version", 3, "x402Version"),
        ("extensions.payment-identifier", {"info": {"id": "short"}}, "extensions"),
    ],
)
async def test_a_payment_that_differs_is_refused_by_member(
    facilitator, tmp_path, path, value, field
):
    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(await s.payment(_set(path, value)))
        found = problem(reply)
        assert (reply.status, found["reason"]) == (402, "payment_invalid")
        assert found["field"].startswith(field)
        assert "payment-required" in reply.headers
        assert (s.runs, facilitator.seen) == (0, [])


@pytest.mark.parametrize("field", ["", "e30", "e30=", "!!!!", "bm8=", "e30=" * 4000])
async def test_what_is_no_payment_at_all(facilitator, tmp_path, field):
    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(field)
        assert reply.status == (431 if len(field) > 8192 else 402)
        if reply.status == 402:
            assert problem(reply)["reason"] == "payment_invalid"
        assert (s.runs, facilitator.seen) == (0, [])


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        ({"path": "/w/1"}, {"path": "/w/2"}),
        ({"path": "/w/1?a=1"}, {"path": "/w/1?a=2"}),
        ({"path": "/w/1"}, {"path": "/w/1", "method": "POST"}),
        ({"path": "/w/1"}, {"path": "/w/1", "headers": {"Host": "other.example"}}),
    ],
)
async def test_a_payment_is_for_one_resource_and_method(facilitator, tmp_path, asked, used):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment(**asked)
        reply = await s.ask(payment, **used)
        assert (reply.status, problem(reply)["reason"]) == (402, "payment_invalid")
        assert s.runs == 0
        assert (await s.ask(payment, **asked)).status == 200


async def test_two_payments_in_one_request(facilitator, tmp_path):
    async with setup(facilitator, tmp_path, version1="base-sepolia") as s:
        reply = await s.ask(await s.payment(), headers={"X-PAYMENT": "e30="})
        assert (reply.status, problem(reply)["field"], s.runs) == (402, "payment", 0)


async def test_a_false_signature(facilitator, tmp_path):
    def change(found: Any) -> None:
        found["payload"]["authorization"]["nonce"] = "0x" + "7" * 64

    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(await s.payment(change))
        found = problem(reply)
        assert (reply.status, found["reason"]) == (402, "payment_invalid")
        assert found["facilitator"] == "invalid_exact_evm_payload_signature"
        assert (s.runs, s.sold, list(s.store.records())) == (0, 0, [])


async def test_a_payer_without_money(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = sign(facilitator.chain.payer(PRICE - 1), await s.offer())
        reply = await s.ask(payment)
        assert (reply.status, s.runs, s.sold) == (402, 0, 0)
        assert "insufficient_balance" in problem(reply)["facilitator"]


# ---- one payment, one execution ----------------------------------------------------------


async def test_twenty_replays_at_once(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        replies = await asyncio.gather(*(s.ask(payment) for _ in range(20)))
        assert sorted(reply.status for reply in replies)[0] == 200
        assert [reply.status for reply in replies].count(200) == 1
        assert (s.runs, s.sold) == (1, 1)
        for reply in replies:
            if reply.status == 503:
                assert problem(reply)["retry"] == "same_credential"
                assert "payment-required" not in reply.headers
        late = await s.ask(payment)
        assert (late.status, problem(late)["retry"]) == (402, "never")
        assert "payment-required" not in late.headers
        assert s.runs == 1


async def test_an_upstream_that_fails_costs_nothing_and_the_payment_stays_good(
    facilitator, tmp_path
):
    answers = [
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ]

    async def respond(backend: Backend, seen: Seen) -> bytes:
        return answers.pop(0)

    async with setup(facilitator, tmp_path, respond) as s:
        payment = await s.payment()
        replies = [await s.ask(payment) for _ in range(3)]
        assert [reply.status for reply in replies] == [500, 502, 200]
        assert replies[0].body == b"no"
        assert problem(replies[1])["retry"] == "same_credential"
        assert (facilitator.calls("/settle"), s.sold) == (1, 1)


async def test_an_answer_that_breaks_off_is_not_paid_for(facilitator, tmp_path):
    async def respond(backend: Backend, seen: Seen) -> None:
        seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await seen.writer.drain()

    async with setup(facilitator, tmp_path, respond) as s:
        payment = await s.payment()
        reply = await s.ask(payment)
        assert reply.status == 502
        assert (facilitator.calls("/settle"), list(s.store.records())) == (0, [])


async def test_a_settlement_that_is_refused(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault("refused", moved=False))
        reply = await s.ask(payment)
        found = problem(reply)
        assert (reply.status, found["facilitator"]) == (402, "insufficient_funds")
        assert b"GET /w/1" not in reply.body
        assert unpack(reply.headers["payment-response"])["success"] is False
        again = await s.ask(payment)
        assert (again.status, s.runs, s.sold) == (402, 1, 0)


# ---- refusals in other forms, and kept -------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind", "says"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html", "<h1>Payment required</h1>"),
        ("text/markdown, */*;q=0.1", "text/markdown", "# 402 Payment Required"),
        ("*/*", "application/problem+json", '"reason":"payment_required"'),
        ("image/png", "application/problem+json", '"reason":"payment_required"'),
    ],
)
async def test_an_offer_has_the_form_that_is_wanted(facilitator, tmp_path, accept, kind, says):
    paid_to = facilitator.chain.seller
    async with setup(facilitator, tmp_path) as s:
        reply = await s.ask(headers={"Accept": accept})
        assert reply.status == 402
        assert reply.headers["content-type"].partition(";")[0] == kind
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["vary"].startswith("Accept")
        text = reply.body.decode()
        assert says in text
        offered = unpack(reply.headers["payment-required"])["accepts"][0]
        if kind == "application/problem+json":
            assert offered["amount"] in text
        else:
            assert "0.001 Test USD" in text  # the amount, in tokens
            assert "PAYMENT-SIGNATURE" in text
            assert paid_to in text
            assert "\1" not in text
            request = reply.headers["x-request-id"]
            assert request in text


async def test_what_was_presented_cannot_become_markup(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        offer = unpack(await s.offer())
        payment = unpack(await s.payment())
        payment["accepted"]["payTo"] = "<script>`\1I*x*"
        field = base64.b64encode(json.dumps(payment).encode()).decode()
        for accept in ("text/html", "text/markdown"):
            reply = await s.ask(field, headers={"Accept": accept})
            assert reply.status == 402
            text = reply.body.decode()
            assert "<script>" not in text or accept == "text/markdown"
            assert offer["accepts"][0]["payTo"] in text
            assert "accepted.payTo" in text
            assert text.count(reply.headers["x-request-id"]) == 1
            assert "``" not in text


async def test_what_was_presented_and_not_taken_is_noted(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        notes = RefusedPayments(s.store.folder)
        reply = await s.ask()
        assert notes.get(reply.headers["x-request-id"]) is None
        wrong = unpack(await s.payment())
        wrong["accepted"]["amount"] = "1"
        reply = await s.ask(base64.b64encode(json.dumps(wrong).encode()).decode())
        note = notes.get(reply.headers["x-request-id"])
        assert note is not None
        assert [(one.name, one.sent) for one in note.fields] == [("accepted.amount", "1")]
        poor = facilitator.chain.payer(0)
        reply = await s.ask(sign(poor, await s.offer()))
        note = notes.get(reply.headers["x-request-id"])
        assert note is not None
        assert (note.facilitator, note.payer) == (POOR, poor.address.lower())
        assert {one.name for one in note.fields} == {"to", "value", "network"}
        assert "signature" not in msgspec.json.encode(note).decode()


async def test_behind_a_trusted_tls_proxy_the_offer_is_for_https(facilitator, tmp_path):
    proxied = {"X-Forwarded-Proto": "https"}
    config = {"trusted_proxies": ["127.0.0.0/8"]}
    async with setup(facilitator, tmp_path, config=config) as it:
        for headers, scheme in ((proxied, "https"), ({}, "http")):
            offer = json.loads(base64.b64decode(await it.offer(headers=headers)))
            assert offer["resource"]["url"] == f"{scheme}://test.example/w/1"
        reply = await it.ask(await it.payment(headers=proxied), headers=proxied)
        assert reply.status == 200
        assert it.backend.requests[-1].headers["x-forwarded-proto"] == "https"
