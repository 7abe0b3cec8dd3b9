"""A paid route through a real gateway: the official client, many workers, kills, reloads."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gatewaykit import Gateway, Upstream, eventually, fetch
from x402.http.clients.httpx import x402AsyncTransport
from x402kit import (
    PRICE,
    FacilitatorServer,
    Fault,
    facilitating,
    official_client,
    paid,
    sign,
    unpack,
)


@pytest.fixture
def facilitator() -> Iterator[FacilitatorServer]:
    with facilitating() as server:
        yield server


def selling(upstream: Upstream, server: FacilitatorServer, **x402: Any) -> dict[str, Any]:
    return {
        "upstreams": [{"name": "app", "targets": [upstream.url]}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [
            {
                "name": "paid",
                "path": "/{rest*}",
                "service": "app",
                "x402": paid(server, **x402),
            }
        ],
    }


def payment_for(gateway: Gateway, server: FacilitatorServer, path: str) -> str:
    """A payment of a new payer for a path."""
    asked = fetch(gateway.address(), path)
    assert asked.status == 402
    return sign(server.chain.payer(PRICE), asked.headers["payment-required"])


def booked(served: Gateway, server: FacilitatorServer) -> None:
    """The ledger comes to have what the seller has received, once; and its audit passes."""

    def entries() -> Any:
        found = served.api("/v1/ledger?account=x402&limit=500")
        if found.status != 200:
            return None
        items = found.json["items"]
        assert sum(one["amount"] for one in items) <= server.chain.earned
        return items if sum(one["amount"] for one in items) == server.chain.earned else None

    items = eventually(entries, "every payment is booked")
    assert {one["postings"]["revenue"] for one in items} == {PRICE}
    audit = served.api("/v1/ledger/audit").json["checks"]
    assert all(check["passed"] for check in audit), audit
    (check,) = [one for one in audit if one["name"] == "x402"]
    (total,) = [value for name, value in check["numbers"].items() if name.endswith(".paid")]
    assert total == server.chain.earned


def pay(gateway: Gateway, path: str, payment: str) -> Any:
    return fetch(gateway.address(), path, headers={"PAYMENT-SIGNATURE": payment})


async def test_the_official_client_pays(gateway, upstream, facilitator):
    served = gateway(selling(upstream, facilitator), workers=2)
    payer = facilitator.chain.payer(3 * PRICE)
    transport = x402AsyncTransport(official_client(payer))
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:
        for n in range(3):
            reply = await client.get(served.url(f"/echo/{n}?city=Oslo"))
            assert reply.status_code == 200
            assert reply.json()["target"] == f"/echo/{n}?city=Oslo"
            assert unpack(reply.headers["payment-response"])["success"] is True
        posted = await client.post(served.url("/echo"), content=b"no money is left")
        assert posted.status_code == 402
        assert posted.json()["reason"] == "payment_invalid"
    assert upstream.seen == [f"/echo/{n}?city=Oslo" for n in range(3)]
    assert facilitator.chain.earned == 3 * PRICE
    assert facilitator.chain.balance(payer.address) == 0


async def test_one_payment_replayed_by_twenty_clients_on_four_workers(
    gateway, upstream, facilitator
):
    served = gateway(selling(upstream, facilitator), workers=4)
    for _ in range(3):
        before = len(upstream.seen)
        payment = payment_for(served, facilitator, "/echo")
        replies = await asyncio.gather(
            *(asyncio.to_thread(pay, served, "/echo", payment) for _ in range(20))
        )
        statuses = [reply.status for reply in replies]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 402, 503}
        assert len(upstream.seen) == before + 1
        for reply in replies:
            if reply.status != 200:
                assert "payment-required" not in reply.headers  # nobody is asked to pay again
    assert facilitator.chain.earned == 3 * PRICE
    await asyncio.to_thread(booked, served, facilitator)


@pytest.mark.parametrize("kind", ["hang", "html", "lying", "truncated", "garbage"])
def test_a_settlement_that_is_unknown_is_found_out_after_a_restart(
    gateway, upstream, facilitator, kind, tmp_path
):
    # Verifying must have answered before; who hangs is waited for all that time.
    config = selling(upstream, facilitator, timeout="5s" if kind == "hang" else "30s")
    first = gateway(config, workers=2, state=tmp_path / "state")
    payment = payment_for(first, facilitator, "/echo")
    facilitator.faults["/settle"].append(Fault(kind, moved=True))
    reply = pay(first, "/echo", payment)
    assert (reply.status, reply.json["reason"]) == (503, "settlement_unknown")
    assert "payment-required" not in reply.headers
    first.stop(signal.SIGKILL)
    second = gateway(config, workers=2, state=tmp_path / "state")
    reply = pay(second, "/echo", payment)
    assert (reply.status, reply.json["target"]) == (200, "/echo")
    assert pay(second, "/echo", payment).status == 402
    assert (upstream.seen, facilitator.chain.earned) == (["/echo"], PRICE)
    booked(second, facilitator)


def test_a_worker_killed_while_it_settles(gateway, upstream, facilitator):
    served = gateway(selling(upstream, facilitator), workers=1)
    payment = payment_for(served, facilitator, "/echo")
    facilitator.faults["/settle"].append(Fault("hang", moved=True))
    with socket.create_connection(served.address(), timeout=30) as sock:
        head = f"GET /echo HTTP/1.1\r\nHost: gateway.test\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n"
        sock.sendall(head.encode())
        facilitator.wait_for("/settle")
        served.kill("fg-worker-0")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    eventually(lambda: _answers(served), "the new worker serves")
    reply = pay(served, "/echo", payment)
    assert (reply.status, reply.json["target"]) == (200, "/echo")
    booked(served, facilitator)
    assert (upstream.seen, facilitator.chain.earned) == (["/echo"], PRICE)


def _answers(served: Gateway) -> bool:
    try:
        return fetch(served.address(), "/echo").status == 402
    except OSError:
        return False


def test_terms_follow_the_configuration(gateway, upstream, facilitator):
    served = gateway(selling(upstream, facilitator), workers=2)
    old = payment_for(served, facilitator, "/echo")
    served.reload_and_wait(selling(upstream, facilitator, price="0.002 USD"))
    reply = pay(served, "/echo", old)
    assert (reply.status, reply.json["field"]) == (402, "accepted.amount")
    assert (reply.json["expected"], reply.json["presented"]) == (str(2 * PRICE), str(PRICE))
    asked = fetch(served.address(), "/echo")
    payer = facilitator.chain.payer(2 * PRICE)
    assert pay(served, "/echo", sign(payer, asked.headers["payment-required"])).status == 200
    assert facilitator.chain.earned == 2 * PRICE


def test_events_come_as_they_are_sent(gateway, upstream, facilitator):
    """The upstream sends its second event an hour after the first: the first is here before."""
    served = gateway(selling(upstream, facilitator), workers=1)
    payment = payment_for(served, facilitator, "/events/2/3600")
    with socket.create_connection(served.address(), timeout=30) as sock:
        sock.sendall(
            "GET /events/2/3600 HTTP/1.1\r\nHost: gateway.test\r\n"
            f"PAYMENT-SIGNATURE: {payment}\r\n\r\n".encode()
        )
        received = b""
        while b"data: 0\n\n" not in received:
            chunk = sock.recv(65536)
            assert chunk
            received += chunk
    assert b"200 OK" in received
    assert b"PAYMENT-RESPONSE: " in received
    assert facilitator.chain.earned == PRICE


def test_records_are_private(gateway, upstream, facilitator):
    served = gateway(selling(upstream, facilitator), workers=1)
    assert pay(served, "/echo", payment_for(served, facilitator, "/echo")).status == 200
    (record,) = (served.state / "x402").glob("??/*")
    assert os.stat(record).st_mode & 0o077 == 0
    assert os.stat(record.parent).st_mode & 0o077 == 0


def test_what_the_facilitator_is_sent_is_written_down_nowhere(
    gateway, upstream, facilitator, tmp_path
):
    """Neither in the document, its revisions and differences, nor in logs and files."""
    secret = "Bearer 5cb1d2f0-not-for-others"
    place = tmp_path / "facilitator-key"
    place.write_text(secret)
    config = selling(upstream, facilitator, facilitator_headers={"Authorization": f"path:{place}"})
    served = gateway(config, workers=1, state=tmp_path / "state")
    assert pay(served, "/echo", payment_for(served, facilitator, "/echo")).status == 200
    assert {fields["authorization"] for _, _, fields in facilitator.seen} == {secret}
    served.reload_and_wait({**config, "routes": [{**config["routes"][0], "name": "other"}]})
    pages = ["/v1/config", "/v1/config/revisions", *(f"/v1/config/revisions/{n}" for n in (1, 2))]
    pages.append("/v1/config/revisions/2/diff")
    answers = [served.api(page).body for page in pages]
    assert any(f"path:{place}".encode() in answer for answer in answers)
    served.stop()
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    told = [*answers, served.log.read_bytes(), *(path.read_bytes() for path in files)]
    assert not [text for text in told if b"not-for-others" in text]
    # A value in place of its place is refused, and not repeated.
    clear = selling(upstream, facilitator, facilitator_headers={"Authorization": secret})
    refused = gateway(clear, workers=1, state=tmp_path / "other", wait=False)
    refused.wait()
    assert "never write a secret itself into the document" in refused.log_text()
    assert "not-for-others" not in refused.log_text()


def test_why_a_payment_was_refused_is_diagnosed(gateway, upstream, facilitator):
    served = gateway(selling(upstream, facilitator), workers=2)
    asked = fetch(served.address(), "/echo")
    payer = facilitator.chain.payer(0)
    refused = pay(served, "/echo", sign(payer, asked.headers["payment-required"]))
    assert (refused.status, refused.json["reason"]) == (402, "payment_invalid")
    ident = refused.headers["x-request-id"]

    def diagnosed() -> Any:
        found = served.api(f"/v1/requests/{ident}/diagnosis")
        return found.json if found.status == 200 else None

    found = eventually(diagnosed, "the request is recorded")
    assert (found["cause"], found["reason"]) == ("payment", "payment_invalid")
    (step,) = [step for step in found["steps"] if step["check"] == "payment"]
    assert step["numbers"]["facilitator"] == "invalid_exact_evm_insufficient_balance"
    assert step["numbers"]["payer"] == payer.address.lower()
    assert "does not have enough of this token" in step["text"]
    assert "Fund the payer" in step["fix"]["text"]
    # The fix, applied: the next payment is taken.
    facilitator.chain.fund(payer.address, PRICE)
    again = fetch(served.address(), "/echo").headers["payment-required"]
    assert pay(served, "/echo", sign(payer, again)).status == 200
    page = fetch(served.address(), "/echo", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert unpack(page.headers["payment-required"])["accepts"]
    metrics = served.api("/metrics").body.decode()
    assert 'reason="payment_invalid"' in metrics


@pytest.mark.parametrize("accept", ["application/json", "text/html", "text/markdown"])
def test_a_refusal_links_to_what_was_checked(gateway, upstream, facilitator, accept):
    served = gateway(selling(upstream, facilitator))
    asked = fetch(served.address(), "/echo").headers["payment-required"]
    payment = sign(facilitator.chain.payer(0), asked)
    refused = fetch(
        served.address(), "/echo", headers={"PAYMENT-SIGNATURE": payment, "Accept": accept}
    )
    assert refused.status == 402
    text = refused.body.decode()
    assert "does not have enough of this token" in text
    link = re.search(r"http://[^\s\")<]*/_fastgate/requests/[^\s\")<]+", text)
    about = re.search(r"/_fastgate/problems/payment_invalid", text)
    assert link, text
    assert about, text
    path = urlsplit(html.unescape(link[0]))._replace(scheme="", netloc="").geturl()

    def checked() -> Any:
        page = fetch(served.address(), path, headers={"Accept": "text/markdown"})
        return page if page.status == 200 else None

    page = eventually(checked, "the request is recorded").body.decode()
    assert "address with the token, and make a new payment" in page
    assert fetch(served.address(), about[0]).status == 200
    forged = fetch(served.address(), path[:-2] + ("AA" if path[-2:] != "AA" else "BB"))
    assert forged.status in (403, 404)


def test_control_is_killed_again_and_again_and_each_payment_is_booked_once(
    gateway, upstream, facilitator, tmp_path
):
    config = selling(upstream, facilitator)
    served = gateway(config, workers=2, state=tmp_path / "state")
    for _ in range(4):
        for _ in range(3):
            payment = payment_for(served, facilitator, "/echo")
            assert pay(served, "/echo", payment).status == 200
        served.kill("fg-control")
        payment = payment_for(served, facilitator, "/echo")
        assert pay(served, "/echo", payment).status == 200  # no store is waited for
    booked(served, facilitator)
    served.stop(signal.SIGKILL)
    again = gateway(config, workers=2, state=tmp_path / "state")
    booked(again, facilitator)
    assert facilitator.chain.earned == 16 * PRICE
    listed = again.api("/v1/ledger/x402?limit=500").json["items"]
    assert {one["state"] for one in listed} == {"settled"}
    rows = again.api("/v1/reports/usage?group_by=account,route").json["rows"]
    (row,) = [one for one in rows if one["account"] == "x402"]
    assert (row["route"], row["requests"], row["amount"]) == ("paid", 16, 16 * PRICE)
    assert row["currency"] == listed[0]["currency"]
