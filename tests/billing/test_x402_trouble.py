"""Paid routes when things go wrong: facilitators, workers, clients; and long answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from enginekit import Backend, Seen
from paidroutekit import Clock, PaidRouteSetup, _clean, _facilitator, problem, setup  # noqa: F401
from x402kit import Fault, facilitating, unpack

from fastgate.model.x402 import Terms
from fastgate.runtime.worker.handlers import HandlerError, resolve

# ---- a facilitator in trouble ------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["hang", "html", "lying", "truncated", "closed", "garbage", "long"]
)
async def test_no_answer_to_verify_serves_nothing(facilitator, tmp_path, kind):
    timeout = "300ms" if kind == "hang" else "10s"
    async with setup(facilitator, tmp_path, timeout=timeout) as s:
        payment = await s.payment()
        facilitator.faults["/verify"].append(Fault(kind, moved=False))
        reply = await s.ask(payment)
        assert (reply.status, s.runs, s.sold) == (503, 0, 0)
        found = problem(reply)
        assert found["reason"] == "payment_provider_unavailable"
        assert found["retry"] == "same_credential"
        assert "payment-required" not in reply.headers
        assert list(s.store.records()) == []


@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize(
    "kind", ["hang", "html", "lying", "truncated", "closed", "garbage", "long"]
)
async def test_a_settlement_that_nobody_knows_of(facilitator, tmp_path, kind, moved):
    timeout = "1s" if kind == "hang" else "10s"
    async with setup(facilitator, tmp_path, timeout=timeout) as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault(kind, moved))
        reply = await s.ask(payment)
        assert reply.status == 503
        found = problem(reply)
        assert (found["reason"], found["retry"]) == ("settlement_unknown", "same_credential")
        assert "payment-required" not in reply.headers
        assert b"GET /w/1" not in reply.body
        assert s.sold == (1 if moved else 0)
        again = await s.ask(payment)
        assert (again.status, again.body) == (200, b"GET /w/1")
        assert unpack(again.headers["payment-response"])["success"] is True
        assert (s.runs, s.sold) == (1, 1)
        last = await s.ask(payment)
        assert (last.status, problem(last)["retry"], s.runs) == (402, "never", 1)


async def test_a_settlement_that_is_pending(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        facilitator.chain.signer.lose_receipts = 2
        reply = await s.ask(payment)
        assert (reply.status, problem(reply)["reason"]) == (503, "settlement_unknown")
        transaction = problem(reply)["transaction"]
        reply = await s.ask(payment)
        # Lost again; but by now the token says that it has taken the nonce.
        assert reply.status == 200
        assert unpack(reply.headers["payment-response"])["transaction"] == transaction
        assert (s.runs, s.sold) == (1, 1)
        (record,) = (record for _, record in s.store.records())
        assert (record.presumed, record.transaction) == (True, transaction)


async def test_a_facilitator_in_trouble_for_long(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault("html", moved=True))
        assert (await s.ask(payment)).status == 503
        for _ in range(3):
            facilitator.faults["/verify"].append(Fault("html", moved=False))
            reply = await s.ask(payment)
            assert (reply.status, problem(reply)["reason"]) == (503, "settlement_unknown")
        reply = await s.ask(payment)
        assert (reply.status, s.runs, s.sold) == (200, 1, 1)


async def test_a_facilitator_that_cannot_be_reached_to_settle(tmp_path):
    with facilitating() as server:
        gate = asyncio.Event()
        reached = asyncio.Event()

        async def respond(backend: Backend, seen: Seen) -> bytes:
            reached.set()
            await gate.wait()
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

        async with setup(server, tmp_path, respond) as s:
            payment = await s.payment()
            asked = asyncio.create_task(s.ask(payment))
            await reached.wait()
            await asyncio.to_thread(server.stop)
            gate.set()
            reply = await asked
            assert reply.status == 503
            assert problem(reply)["reason"] in (
                "payment_provider_unavailable", "settlement_unknown",
            )  # fmt: skip
            assert problem(reply)["retry"] == "same_credential"
            again = await s.ask(payment)
            assert (again.status, s.runs) == (503, 1)


async def test_what_was_interrupted_before_settling_is_never_settled(facilitator, tmp_path):
    """A worker killed while the upstream ran: its record says so, its lock is gone."""
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault("html", moved=False))
        assert (await s.ask(payment)).status == 503
        ((nonce, record),) = s.store.records()
        claim = s.store.open(bytes.fromhex(nonce))
        record.state = "running"
        claim.write(record)
        claim.close()
        settled = facilitator.calls("/settle")
        reply = await s.ask(payment)
        assert (reply.status, problem(reply)["reason"]) == (402, "payment_invalid")
        assert "payment-required" in reply.headers
        assert (facilitator.calls("/settle"), s.runs, s.sold) == (settled, 1, 0)


# ---- clients that leave ------------------------------------------------------------------


async def test_a_client_that_leaves_while_its_payment_settles_gets_its_answer_later(
    facilitator, tmp_path
):
    async with setup(facilitator, tmp_path, timeout="5s") as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault("hang", moved=True))
        client = await s.plane.client()
        await client.send("GET", "/w/1", headers={"PAYMENT-SIGNATURE": payment})
        await asyncio.to_thread(facilitator.wait_for, "/settle")
        await client.close()
        reply = await s.ask(payment)
        assert (reply.status, problem(reply)["reason"]) == (503, "settlement_unknown")
        facilitator.release()
        await s.idle()
        reply = await s.ask(payment)
        assert (reply.status, reply.body) == (200, b"GET /w/1")
        assert (s.runs, s.sold) == (1, 1)


@pytest.mark.parametrize("charged", [True, False])
async def test_a_client_that_leaves_while_the_upstream_has_its_request_has_paid(
    facilitator, tmp_path, charged
):
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def respond(backend: Backend, seen: Seen) -> bytes:
        arrived.set()
        await gate.wait()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"

    route = {"charge_abandoned": charged}
    async with setup(facilitator, tmp_path, respond, route=route) as s:
        payment = await s.payment()
        client = await s.plane.client()
        await client.send("GET", "/w/1", headers={"PAYMENT-SIGNATURE": payment})
        await arrived.wait()
        await client.reset()
        await s.plane.settled(exchanges=0)
        await s.idle()
        assert s.sold == int(charged)
        gate.set()
        reply = await s.ask(payment)
        assert reply.status == (402 if charged else 200)
        assert (s.runs, s.sold) == (1 if charged else 2, 1)


@pytest.mark.parametrize("upstream", [None, "max-age=5", "public"])
async def test_a_paid_answer_is_kept_from_shared_caches(facilitator, tmp_path, upstream):
    async def respond(backend: Backend, seen: Seen) -> bytes:
        line = f"Cache-Control: {upstream}\r\n" if upstream else ""
        return f"HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n".encode()

    async with setup(facilitator, tmp_path, respond) as s:
        for method in ("GET", "HEAD"):  # read before it is given; relayed
            reply = await s.ask(await s.payment(method=method), method=method)
            said = [value for name, value in reply.pairs if name.lower() == "cache-control"]
            expected = {None: ["private"], "public": ["public"]}
            assert sorted(said) == expected.get(upstream, ["max-age=5", "private"]), method


# ---- streams -----------------------------------------------------------------------------


class Stream:
    """An upstream that sends one event whenever it is told."""

    def __init__(self) -> None:
        self.go: asyncio.Queue[bytes] = asyncio.Queue()

    async def respond(self, backend: Backend, seen: Seen) -> None:
        writer = seen.writer
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        while event := await self.go.get():
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _stream(s: PaidRouteSetup, stream: Stream, payment: str, *, early: int = 0) -> bytes:
    """Read a paid stream event by event: each is here before the next is sent.

    early: so many events are sent before the head is waited for.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", s.plane.port)
    writer.write(
        f"GET /w/1 HTTP/1.1\r\nHost: test.example\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n".encode()
    )
    events = [b"data: %d\n\n" % i for i in range(3)]
    for event in events[:early]:
        stream.go.put_nowait(event)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    for i, event in enumerate(events):
        if i >= early:
            stream.go.put_nowait(event)
        await asyncio.wait_for(reader.readuntil(event), 10)
    stream.go.put_nowait(b"")
    await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    writer.close()
    return head


async def test_events_are_not_delayed(facilitator, tmp_path):
    stream = Stream()
    async with setup(facilitator, tmp_path, stream.respond) as s:
        head = await _stream(s, stream, await s.payment())
        assert b"200 OK" in head
        assert b"PAYMENT-RESPONSE:" in head
        assert (s.runs, s.sold) == (1, 1)


async def test_a_stream_whose_settlement_is_unknown_is_kept_if_it_ends_soon(facilitator, tmp_path):
    stream = Stream()
    async with setup(facilitator, tmp_path, stream.respond) as s:
        payment = await s.payment()
        for event in (b"data: a\n\n", b"data: b\n\n", b""):
            stream.go.put_nowait(event)
        facilitator.faults["/settle"].append(Fault("truncated", moved=True))
        assert (await s.ask(payment)).status == 503
        reply = await s.ask(payment)
        assert (reply.status, reply.body) == (200, b"data: a\n\ndata: b\n\n")
        assert reply.headers["content-type"] == "text/event-stream"
        assert (s.runs, s.sold) == (1, 1)


async def test_an_answer_too_long_to_be_kept_is_owed_and_not_made_twice(
    facilitator, tmp_path, caplog
):
    async def respond(backend: Backend, seen: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000

    async with setup(facilitator, tmp_path, respond, keep="4KiB") as s:
        payment = await s.payment()
        facilitator.faults["/settle"].append(Fault("html", moved=True))
        assert (await s.ask(payment)).status == 503
        reply = await s.ask(payment)
        assert (reply.status, problem(reply)["retry"]) == (500, "never")
        assert (s.runs, s.sold) == (1, 1)
        assert "to be refunded" in caplog.text
        (record,) = (record for _, record in s.store.records())
        assert (record.state, record.code) == ("settled", "owed")  # which the books look for
        assert (await s.ask(await s.payment())).body == b"x" * 5000


async def test_heads_and_empty_answers(facilitator, tmp_path):
    async def respond(backend: Backend, seen: Seen) -> bytes:
        if seen.method == "HEAD":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n"
        return b"HTTP/1.1 204 No Content\r\n\r\n"

    async with setup(facilitator, tmp_path, respond) as s:
        # A HEAD without payment has the offer in its fields.
        reply = await s.ask(await s.payment(method="HEAD"), method="HEAD")
        assert (reply.status, reply.headers["content-length"]) == (200, "70")
        reply = await s.ask(await s.payment())
        assert (reply.status, reply.body) == (204, b"")
        assert s.sold == 2


# ---- payment identifiers -----------------------------------------------------------------


IDENTIFIER = "pay_0123456789abcdef"


def _named(found: Any, identifier: str = IDENTIFIER) -> None:
    found["extensions"] = {"payment-identifier": {"info": {"required": False, "id": identifier}}}


async def test_an_identifier_gives_the_same_answer_again(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment(_named)
        first = await s.ask(payment)
        for _ in range(3):
            again = await s.ask(payment)
            assert (again.status, again.body) == (200, first.body)
            assert again.headers["payment-response"] == first.headers["payment-response"]
        assert (s.runs, s.sold) == (1, 1)


async def test_an_identifier_keeps_a_stream_without_delaying_it(facilitator, tmp_path):
    stream = Stream()
    async with setup(facilitator, tmp_path, stream.respond) as s:
        payment = await s.payment(_named)
        await _stream(s, stream, payment, early=1)
        await s.plane.settled(upcalls=0)
        again = await s.ask(payment)
        assert (again.status, again.body) == (200, b"data: 0\n\ndata: 1\n\ndata: 2\n\n")
        assert (s.runs, s.sold) == (1, 1)


async def test_an_identifier_with_another_payment(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        assert (await s.ask(await s.payment(_named))).status == 200
        reply = await s.ask(await s.payment(_named))
        assert reply.status == 409
        assert "identifier" in problem(reply)["detail"]
        assert "payment-required" not in reply.headers
        assert (s.runs, s.sold) == (1, 1)


async def test_an_identifier_with_another_body(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment(_named, method="POST", body=b"one")
        assert (await s.ask(payment, method="POST", body=b"one")).status == 200
        assert (await s.ask(payment, method="POST", body=b"two")).status == 409
        assert (await s.ask(payment, method="POST", body=b"one")).status == 200
        assert (s.runs, s.sold) == (1, 1)


async def test_two_payments_race_for_one_identifier(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payments = [await s.payment(_named) for _ in range(4)]
        replies = await asyncio.gather(*(s.ask(payment) for payment in payments))
        statuses = sorted(reply.status for reply in replies)
        assert statuses[0] == 200
        assert set(statuses[1:]) <= {409, 503}
        assert (s.runs, s.sold) == (1, 1)


# ---- forgetting --------------------------------------------------------------------------


async def test_records_are_swept_after_their_time(facilitator, tmp_path):
    clock = Clock()
    async with setup(facilitator, tmp_path, clock=clock) as s:
        payment = await s.payment(_named)
        assert (await s.ask(payment)).status == 200
        assert s.store.sweep() == 0
        clock.now += 600 + 3600 + 5
        assert s.store.sweep() == 1  # the identifier; the books have not looked at the payment
        for name, _ in s.store.due():
            s.store.looked_at(name)
        assert s.store.sweep() == 2  # payment, answer
        assert list(tmp_path.glob("??/*")) == []
        reply = await s.ask(payment)
        assert (reply.status, problem(reply)["field"]) == (
            402, "payload.authorization.validBefore",
        )  # fmt: skip
        assert s.runs == 1


async def test_a_payment_that_nobody_remembers_is_refused_by_its_token(facilitator, tmp_path):
    async with setup(facilitator, tmp_path) as s:
        payment = await s.payment()
        assert (await s.ask(payment)).status == 200
        for path in tmp_path.glob("??/*"):
            path.unlink()
        reply = await s.ask(payment)
        assert (reply.status, s.runs) == (402, 1)
        assert "nonce_already_used" in problem(reply)["facilitator"]


async def test_a_place_for_records_that_cannot_be_used(facilitator, tmp_path):
    place = tmp_path / "claims"
    place.write_text("a file is in the way")
    async with setup(facilitator, place) as s:
        reply = await s.ask(await s.payment())
        assert (reply.status, s.runs, facilitator.seen) == (503, 0, [])


# ---- the facilitator's secrets ---------------------------------------------------------------


async def test_a_secret_is_read_with_each_request_and_never_said(
    facilitator, tmp_path, monkeypatch, caplog
):
    place = tmp_path / "key"
    place.write_text("Bearer first\n")
    fields = {"Authorization": f"path:{place}"}
    async with setup(facilitator, tmp_path, facilitator_headers=fields) as s:
        assert (await s.ask(await s.payment())).status == 200
        place.write_text("Bearer second\n")
        assert (await s.ask(await s.payment())).status == 200
        said = [fields["authorization"] for _, _, fields in facilitator.seen]
        assert said == ["Bearer first"] * 2 + ["Bearer second"] * 2
        asked = len(facilitator.seen)
        for broken in ("Bearer hidden\x00one", ""):
            place.write_text(broken)
            reply = await s.ask(await s.payment())
            assert (reply.status, problem(reply)["reason"]) == (503, "payment_provider_unavailable")
            assert b"hidden" not in reply.body
        assert len(facilitator.seen) == asked
    assert f"path:{place}" in caplog.text
    assert "Bearer" not in caplog.text


def test_a_route_whose_secret_is_not_there_is_not_taken_up(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    monkeypatch.setenv("TWO_LINES", "one\ntwo")
    for name, said in (("NO_SUCH_KEY", "not set"), ("TWO_LINES", "one line of ASCII")):
        terms = Terms(
            route="r",
            upstream="u",
            pay_to="0x" + "1" * 40,
            network="eip155:1",
            asset="0x" + "2" * 40,
            amount="1",
            asset_name="n",
            asset_version="1",
            facilitator="http://f",
            facilitator_headers={"Authorization": f"env:{name}"},
        )
        with pytest.raises(
            HandlerError, match=f"facilitator_headers: the secret env:{name}.*{said}"
        ):
            resolve(terms.handler())
