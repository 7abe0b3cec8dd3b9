"""What is owed, and what is not: clients that leave, failures, units beyond the hold, quotas."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from chargingkit import ANN, SharedMoney, call, config, metered, plane, reason, uses
from enginekit import Backend, Plane, Seen

from fastgate._core.money.layout import UsageFlag
from fastgate._core.shared.callers import SpendingCap
from fastgate._core.shared.counters import counters_snapshot
from fastgate._core.shared.credentials import key_digest
from fastgate._core.snapshot.meters import AMOUNT
from fastgate._core.snapshot.snapshot import Period, stable_hash
from fastgate.handlers import Exchange

KEY = {"X-Api-Key": "ann-key"}
PLENTY = 10_000_000


@pytest.fixture
def shared() -> Iterator[SharedMoney]:
    shared = SharedMoney()
    shared.accounts.set_balance(ANN, "USD", PLENTY)
    yield shared
    assert shared.money.open_holds() == []


class Silent(Backend):
    """Reads whole requests, says so, and never answers."""

    def __init__(self) -> None:
        super().__init__(self._swallow)
        self.arrived = asyncio.Event()

    async def _swallow(self, _: Backend, seen: Seen) -> None:
        self.arrived.set()
        await seen.reader.read()


@pytest.fixture
async def silent() -> AsyncIterator[Silent]:
    backend = Silent()
    await backend.start()
    yield backend
    await backend.stop()


async def leave(p: Plane, arrived: asyncio.Event, method: str = "GET", body: bytes = b"") -> None:
    """Send a request, and close the connection once whoever answers has it."""
    client = await p.client()
    await client.send(method, "/200", KEY, body)
    await arrived.wait()
    await client.reset()
    await p.settled(exchanges=0)


# ---- clients that leave --------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x" * 100_000])
async def test_who_leaves_after_the_upstream_has_the_request_owes_its_price(shared, body):
    whole = asyncio.Event()

    async def respond(_: Backend, seen: Seen) -> None:
        whole.set()
        await seen.reader.read()

    slow = await Backend(respond).start()
    async with plane(shared, config(slow)) as p:
        await leave(p, whole, "POST", body)
        assert shared.balance() == PLENTY - 250_000
    assert shared.records() == [(250_000, 499, UsageFlag.USAGE_CAPTURED)]
    await slow.stop()


async def test_a_route_can_let_who_leaves_go_free(shared, silent):
    async with plane(shared, config(silent, charge_abandoned=False)) as p:
        await leave(p, silent.arrived)
    assert shared.balance() == PLENTY
    assert shared.records() == []


@pytest.mark.parametrize("charged", [True, False])
async def test_a_plans_price_has_a_rule_of_its_own(shared, silent, charged):
    document = config(silent, charge_abandoned=not charged)
    document["consumers"][0]["plan"] = "flat-rate"
    document["plans"][1]["price"]["charge_abandoned"] = charged
    async with plane(shared, document) as p:
        await leave(p, silent.arrived)
    assert shared.balance() == PLENTY - (10_000 if charged else 0)


async def test_who_leaves_before_the_request_is_whole_owes_nothing(shared):
    half = asyncio.Event()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"half")
        half.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(read, "127.0.0.1", 0)
    document = config(None)
    port = server.sockets[0].getsockname()[1]
    document["upstreams"][0]["targets"] = [f"http://127.0.0.1:{port}"]
    head = "POST /200 HTTP/1.1\r\nHost: a\r\nX-Api-Key: ann-key\r\nContent-Length: 10\r\n\r\n"
    async with plane(shared, document) as p:
        client = await p.client()
        await client.raw(head.encode() + b"half")
        await half.wait()
        await client.reset()
        await p.settled(exchanges=0)
    assert shared.balance() == PLENTY
    assert shared.records() == []
    server.close()
    await server.wait_closed()


async def test_who_leaves_while_an_upstream_is_being_connected_to_owes_nothing(shared, full_target):
    document = config(None)
    document["upstreams"][0]["targets"] = [full_target]
    async with plane(shared, document) as p:
        client = await p.client()
        await client.send("GET", "/200", KEY)
        await p.settled(exchanges=1)
        await client.reset()
        await p.settled(exchanges=0)
    assert shared.balance() == PLENTY


@pytest.fixture
def full_target() -> Iterator[str]:
    """An address whose queue of connections is full: connecting to it takes for ever."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = listener.getsockname()
    waiting = []
    for _ in range(8):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        waiting.append(sock)
    yield f"http://127.0.0.1:{address[1]}"
    for sock in [*waiting, listener]:
        sock.close()


async def test_of_a_handler_that_ran_its_client_owes_the_price(shared):
    begun = asyncio.Event()

    async def handler(x):
        begun.set()
        await asyncio.get_running_loop().create_future()  # until it is cancelled

    document = config(None, service=None, handler="test:handler")
    document["routes"][0].pop("service")
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        await leave(p, begun)
    assert shared.balance() == PLENTY - 250_000


async def test_a_handler_that_fails_after_its_client_left_costs_nothing(shared, caplog):
    begun = asyncio.Event()

    async def handler(x):
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise LookupError("on purpose")

    document = config(None, service=None, handler="test:handler")
    document["routes"][0].pop("service")
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        await leave(p, begun)
    assert shared.balance() == PLENTY


async def test_what_the_end_of_a_worker_breaks_off_costs_nothing(shared, silent):
    async def stream(_: Backend, seen: Seen) -> None:
        if seen.target == "/begun":
            seen.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")
        silent.arrived.set()
        await seen.reader.read()

    silent.respond = stream
    for path in ("/begun", "/not-begun"):
        silent.arrived.clear()
        async with plane(shared, config(silent)) as p:
            client = await p.client()
            await client.send("GET", path, KEY)
            await silent.arrived.wait()
            if path == "/begun":
                await client.event()  # the head is here
            p.engine.close()
            await client.close()
        assert shared.balance() == PLENTY, path


# ---- units and amounts ---------------------------------------------------------------------


async def test_units_beyond_the_hold_are_recorded_and_the_operators(shared, caplog):
    async def handler(x):
        x.hold_units("pages", 2)
        await x.start(200)
        await x.write(b"five pages")
        x.use_units("pages", 1)
        x.use_units("pages", 4)
        x.finish()

    with caplog.at_level(logging.WARNING, "fastgate.handler"):
        async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
            assert (await call(p)).body == b"five pages"
            await p.settled(exchanges=0)
            worker = counters_snapshot(shared.segment).workers[0]
    assert shared.balance() == PLENTY - 10_000 - 1_000_000
    assert ("pages", 5, 1_000_000, UsageFlag.USAGE_CAPTURED) in uses(shared)
    assert worker["beyond_micros"] == 1_500_000
    assert "5 units of pages and had held 2; 1500000 micro-units of USD" in caplog.text


async def test_more_units_than_anybody_can_pay_for_are_a_402(shared):
    async def handler(x):
        x.hold_units("pages" if x.path == "/pages" else "tokens", int(x.query))
        await x.respond(200)

    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        for most in (2**40, 2**40 + 1, 2**63, 2**64, 10**30):
            for meter in ("pages", "tokens"):
                refused = await call(p, f"/{meter}?{most}")
                assert (refused.status, reason(refused)) == (402, "insufficient_balance"), most
    assert shared.balance() == PLENTY


async def test_units_without_a_price_have_no_bound(shared):
    async def handler(x):
        x.hold_units("pages", 2**70)
        x.use_units("pages", 2**65)
        await x.respond(200)

    document = metered()
    document["consumers"][0]["plan"] = "unpriced"
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        assert (await call(p)).status == 200
        await p.settled(exchanges=0)
    assert ("pages", 2**40, 0, UsageFlag.USAGE_FREE) in uses(shared)


@pytest.mark.parametrize("how", ["raises", "answers 503", "answers 200", "leaves it"])
async def test_a_handler_holds_beside_its_routes_price(shared, caplog, how):
    async def handler(x):
        assert x.hold(1_000_000) == PLENTY - 250_000 - 1_000_000
        if how != "leaves it":
            x.capture(400_000, units=3)
        if how == "raises":
            raise LookupError("on purpose")
        await x.respond(503 if how == "answers 503" else 200)

    document = config(None, service=None, handler="test:handler")
    document["routes"][0].pop("service")
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        status = {"raises": 500, "answers 503": 503}.get(how, 200)
        assert (await call(p)).status == status
        await p.settled(exchanges=0)
    records, position = shared.money.drain(0)
    shared.money.commit(0, position)
    found = sorted((each.amount, each.units, each.meter) for each in records)
    amount = (400_000, 3, stable_hash(AMOUNT))
    expected = {"answers 200": [(250_000, 1, 0), amount], "leaves it": [(250_000, 1, 0)]}
    assert found == expected.get(how, [])
    assert shared.balance() == PLENTY - sum(each[0] for each in found)


@pytest.mark.parametrize("how", ["raises", "answers 503"])
async def test_what_was_captured_before_a_failure_is_given_back(shared, caplog, how):
    async def handler(x):
        x.hold(1_000_000)
        x.capture(400_000)
        if how == "raises":
            raise LookupError("on purpose")
        await x.respond(503)

    shared.accounts.set_limits(ANN, [(1_000_000, Period.PERIOD_DAY)])
    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        for _ in range(2):  # the spending limit is given back as well
            assert (await call(p)).status in (500, 503)
            await p.settled(exchanges=0)
    assert shared.balance() == PLENTY
    assert shared.records() == []


async def test_what_was_captured_is_owed_by_who_left(shared):
    begun = asyncio.Event()

    async def handler(x):
        x.hold(1_000_000)
        x.capture(400_000)
        with pytest.raises(RuntimeError, match="already been captured"):
            x.capture(1)
        begun.set()
        await asyncio.get_running_loop().create_future()

    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        client = await p.client()
        await client.send("GET", "/200", KEY)
        await begun.wait()
        assert [hold.record.amount for hold in shared.money.open_holds()] == [
            400_000
        ]  # due, if killed
        await client.reset()
        await p.settled(exchanges=0)
    assert shared.balance() == PLENTY - 400_000


# ---- limits --------------------------------------------------------------------------------


async def test_a_spending_limit_of_nothing_lets_nothing_be_spent(shared, silent):
    async def ok(_: Backend, seen: Seen) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    silent.respond = ok
    day = int(Period.PERIOD_DAY)
    async with plane(shared, config(silent)) as p:
        shared.accounts.set_limits(ANN, [(0, day)])
        assert shared.accounts.get(ANN).limits == ((0, day),)
        refused = await call(p)
        assert (refused.status, reason(refused)) == (402, "spending_limit_reached")
        assert orjson.loads(refused.body)["limit"] == "0"
        shared.accounts.set_limits(ANN, [])
        assert (await call(p)).status == 200
        for consumer, key in ((SpendingCap(0, day), SpendingCap()), (SpendingCap(), (0, day))):
            row = p.index.set_consumer(
                "ann", identity=78, account=100 + ANN, account_slot=ANN, spending=consumer
            )
            p.index.put(key_digest("no-money"), row, identity=9, spending=key)
            assert reason(await call(p, key="no-money")) == "spending_limit_reached"
        row = p.index.set_consumer("ann", identity=78, account=100 + ANN, account_slot=ANN)
        p.index.put(key_digest("no-money"), row, identity=9)
        assert (await call(p, key="no-money")).status == 200
    assert shared.balance() == PLENTY - 500_000


async def test_failures_use_up_no_quota(shared):
    async def respond(_: Backend, seen: Seen) -> bytes | None:
        if seen.target == "/reset":
            return None
        if seen.target == "/cut":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"
        return b"HTTP/1.1 %s X\r\nContent-Length: 0\r\n\r\n" % seen.target[1:].encode()

    backend = await Backend(respond).start()
    document = config(backend, quotas=[{"by": ["consumer"], "period": "day", "requests": 3}])
    async with plane(shared, document) as p:
        for path in ("/503", "/reset", "/500", "/503", "/reset"):
            assert (await call(p, path)).status >= 500
            await p.settled(exchanges=0)
        for status in (200, 404, 200, 429):
            assert (await call(p, f"/{min(status, 404)}")).status == status
    await backend.stop()


async def test_the_quota_counts_for_who_leaves(shared, silent):
    document = config(silent, quotas=[{"by": ["consumer"], "period": "day", "requests": 1}])
    async with plane(shared, document) as p:
        await leave(p, silent.arrived)
        assert (await call(p)).status == 429


async def test_an_account_that_has_no_row_is_refused(shared, silent):
    async with plane(shared, config(silent, price="0 USD")) as p:
        for slot in (7, 0xFFFFFFFF):
            row = p.index.set_consumer("dora", identity=79, account=200, account_slot=slot)
            p.index.put(key_digest("dora-key"), row, identity=9)
            refused = await call(p, key="dora-key")
            assert (refused.status, reason(refused)) == (503, "account_not_loaded")


# ---- shared caches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upstream", "rules", "found"),
    [
        (None, {}, ["private"]),
        ("max-age=60", {}, ["max-age=60", "private"]),
        ("Public, max-age=60", {}, ["Public, max-age=60"]),
        ("S-MaxAge=60", {}, ["S-MaxAge=60"]),
        ("no-store", {}, ["no-store"]),
        ("PRIVATE", {}, ["PRIVATE"]),
        (None, {"set": {"Cache-Control": "public"}}, ["public"]),
        ("max-age=1", {"remove": ["Cache-Control"]}, ["private"]),
    ],
)
async def test_a_paid_answer_is_kept_from_shared_caches(shared, upstream, rules, found):
    async def respond(_: Backend, seen: Seen) -> bytes:
        line = f"Cache-Control: {upstream}\r\n" if upstream else ""
        return f"HTTP/1.1 200 OK\r\n{line}Content-Length: 0\r\n\r\n".encode()

    backend = await Backend(respond).start()
    async with plane(shared, config(backend, headers={"response": rules})) as p:
        reply = await call(p)
        values = [value for name, value in reply.pairs if name.lower() == "cache-control"]
        assert sorted(values) == sorted(found)
    document = config(backend, price=None)
    document["routes"][0].pop("price")
    async with plane(shared, document) as p:
        reply = await call(p)
        assert reply.headers.get("cache-control") == upstream
    await backend.stop()


async def test_a_handlers_paid_answer_is_kept_from_shared_caches(shared):
    async def handler(x):
        await x.respond(200, {"cache-control": x.query} if x.query else None)

    document = config(None, service=None, handler="test:handler")
    document["routes"][0].pop("service")
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        assert (await call(p)).headers["cache-control"] == "private"
        assert (await call(p, "/x?public")).headers["cache-control"] == "public"


# ---- the documentation ---------------------------------------------------------------------


def documented(name: str) -> Callable[[Exchange], Awaitable[None]]:
    """A handler as docs/extending.md shows it, with a `model` that it can ask."""
    text = (Path(__file__).parents[2] / "docs/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (source,) = [block for block in blocks if f"async def {name}(" in block]

    async def model(body: bytes) -> AsyncIterator[SimpleNamespace]:
        for tokens in map(int, body.split()):
            yield SimpleNamespace(data=b"data: x\n\n", tokens=tokens)

    found: dict[str, object] = {"model": model}
    exec(compile(source, "docs/extending.md", "exec"), found)
    return found[name]


@pytest.mark.parametrize(
    ("body", "charged"),
    [(b"700 112", 802 * 3), (b"3999 1", 3990 * 3), (b"4000 1000", 4000 * 3), (b"", 0)],
)
async def test_the_documented_handler_charges_what_it_says(shared, body, charged):
    handlers = {"test:handler": documented("complete")}
    async with plane(shared, metered(methods=["POST"]), handlers=handlers) as p:
        reply = await p.request("POST", "/200", headers=KEY, body=body)
        await p.settled(exchanges=0)
    assert reply.status == 200
    assert reply.body == b"data: x\n\n" * len(body.split())
    assert shared.balance() == PLENTY - 10_000 - charged
