"""Paid requests through the engine: prices, holds, spending limits, access, handlers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from chargingkit import ANN, BOB, SharedMoney, call, config, metered, plane, reason, uses
from enginekit import Backend, GatedBackend, Seen

from fastgate._core.handlers.errors import PaymentRefused
from fastgate._core.money.layout import UsageFlag
from fastgate._core.reason import Reason
from fastgate._core.shared.callers import SpendingCap
from fastgate._core.shared.credentials import key_digest
from fastgate._core.snapshot.snapshot import stable_hash


@pytest.fixture
def shared() -> Iterator[SharedMoney]:
    shared = SharedMoney()
    yield shared
    assert shared.money.open_holds() == []


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async def respond(_: Backend, seen: Seen) -> bytes | None:
        status = int(seen.target.rsplit("/", 1)[1].split("?")[0] or 200)
        if status == 0:
            return None
        return b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status

    backend = await Backend(respond).start()
    yield backend
    await backend.stop()


async def test_nothing_is_held_after_the_lease_on_the_store_is_over(
    shared: SharedMoney, backend: Backend
) -> None:
    """The gateway was paused, and another may have taken the balances over."""
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with plane(shared, config(backend)) as p:
        shared.money.owned_until_ns = time.monotonic_ns() + 10**12
        assert (await call(p)).status == 200
        shared.money.owned_until_ns = time.monotonic_ns()
        assert (await call(p)).status == 503
        assert shared.balance() == 750_000
        shared.money.owned_until_ns = time.monotonic_ns() + 10**12
        assert (await call(p)).status == 200
    assert shared.balance() == 500_000
    shared.records()


async def test_an_answer_costs_its_price_to_the_last_micro_unit(shared, backend):
    shared.accounts.set_balance(ANN, "USD", 600_000)
    async with plane(shared, config(backend)) as p:
        assert (await call(p)).status == 200
        assert (await call(p)).status == 200
        assert shared.balance() == 100_000
        refused = await call(p)
        assert (refused.status, reason(refused)) == (402, "insufficient_balance")
        problem = orjson.loads(refused.body)
        assert (problem["balance"], problem["required"], problem["shortfall"]) == (
            "0.1",
            "0.25",
            "0.15",
        )
        assert refused.headers["cache-control"] == "no-store"
        shared.accounts.credit(ANN, 150_000, "USD")
        assert (await call(p)).status == 200
        assert shared.balance() == 0
    assert shared.records() == [(250_000, 200, UsageFlag.USAGE_CAPTURED)] * 3


@pytest.mark.parametrize(
    ("path", "status", "charged"),
    [
        ("/200", 200, True),
        ("/404", 404, True),
        ("/500", 500, False),
        ("/503", 503, False),
        ("/0", 502, False),
    ],
)
async def test_what_fails_on_our_side_or_upstream_costs_nothing(
    shared, backend, path, status, charged
):
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with plane(shared, config(backend)) as p:
        assert (await call(p, path)).status == status
    assert shared.balance() == (750_000 if charged else 1_000_000)
    assert len(shared.records()) == charged


async def test_an_upstream_that_is_not_there_costs_nothing(shared):
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with plane(shared, config(None)) as p:
        assert (await call(p)).status == 502
    assert shared.balance() == 1_000_000
    assert shared.records() == []


async def test_who_cannot_be_charged_is_told(shared, backend):
    async with plane(shared, config(backend)) as p:
        nobody = await call(p, key="cy-key")
        assert (nobody.status, reason(nobody)) == (402, "payment_required")
        p.install(config(backend, price="1 CHF"))
        other = await call(p)
        assert (other.status, reason(other)) == (402, "insufficient_balance")
    assert backend.requests == []


async def test_a_refusal_for_money_gives_the_limits_back(shared, backend):
    document = config(backend, limits=[{"by": "consumer", "rate": "1/h", "burst": 2}])
    async with plane(shared, document) as p:
        for _ in range(5):
            assert (await call(p)).status == 402
        shared.accounts.set_balance(ANN, "USD", 1_000_000)
        assert [(await call(p)).status for _ in range(3)] == [200, 200, 429]
    assert shared.balance() == 500_000


async def test_tiers_are_walked_by_the_number_in_the_period(shared, backend):
    shared.accounts.set_balance(BOB, "USD", 10_000_000)
    async with plane(shared, config(backend)) as p:
        for _ in range(6):
            assert (await call(p, key="bob-key")).status == 200
        assert (await call(p, "/500", key="bob-key")).status == 500  # does not count
        assert (await call(p, key="bob-key")).status == 200
    assert [amount for amount, _, _ in shared.records()] == [
        0,
        0,
        500_000,
        500_000,
        100_000,
        100_000,
        100_000,
    ]
    assert shared.balance(BOB) == 10_000_000 - 1_300_000


async def test_spending_limits_of_account_consumer_and_key(shared, backend):
    shared.accounts.set_balance(ANN, "USD", 10_000_000)
    day = 3
    async with plane(shared, config(backend)) as p:
        shared.accounts.set_limits(ANN, [(500_000, day)])
        assert [(await call(p)).status for _ in range(3)] == [200, 200, 402]
        refused = await call(p)
        assert reason(refused) == "spending_limit_reached"
        assert orjson.loads(refused.body)["limit_of"] == "account"
        shared.accounts.set_limits(ANN, [(1_000_000, day)])  # raised: at once
        assert (await call(p)).status == 200
        row = p.index.set_consumer(
            "ann",
            identity=77,
            account=100 + ANN,
            account_slot=ANN,
            spending=SpendingCap(250_000, day),
        )
        p.index.put(key_digest("capped-consumer"), row, identity=8)
        assert [(await call(p, key="capped-consumer")).status for _ in range(2)] == [200, 402]
        shared.accounts.set_limits(ANN, [])
        row = p.index.set_consumer("ann", identity=78, account=100 + ANN, account_slot=ANN)
        p.index.put(key_digest("capped-key"), row, identity=9, spending=SpendingCap(300_000, day))
        assert [(await call(p, key="capped-key")).status for _ in range(2)] == [200, 402]
        assert (await call(p)).status == 200
    assert shared.balance() == 10_000_000 - 6 * 250_000


async def test_the_account_and_its_subscriptions_decide_on_access(shared, backend):
    shared.accounts.set_balance(ANN, "USD", 10_000_000)
    async with plane(shared, config(backend)) as p:
        shared.accounts.set_access(ANN, Reason.SUBSCRIPTION_PAST_DUE)
        refused = await call(p)
        assert (refused.status, reason(refused)) == (402, "subscription_past_due")
        shared.accounts.set_access(ANN, 0)
        service = p.slots.services["s"]
        plan = p.slots.plans["flat-rate"]
        shared.accounts.set_subscriptions(ANN, [(service, plan, Reason.PAYMENT_FAILED)])
        assert reason(await call(p)) == "payment_failed"
        shared.accounts.set_subscriptions(ANN, [(service, plan)])
        assert (await call(p)).status == 200
        assert shared.balance() == 10_000_000 - 10_000  # at the subscribed plan's price
    assert backend.requests[0].headers["x-consumer-plan"] == "flat-rate"


async def test_one_request_for_the_last_cent(shared):
    slow = GatedBackend()
    await slow.start()
    shared.accounts.set_balance(ANN, "USD", 250_000)
    async with plane(shared, config(slow)) as p:
        calls = [asyncio.create_task(call(p)) for _ in range(50)]
        for each in asyncio.as_completed(calls):
            assert (await each).status == 429  # held by the one in progress, which may fail
            if sum(call.done() for call in calls) == 49:
                break
        slow.gate.set()
        statuses = sorted([(await each).status for each in calls])
        assert (await call(p)).status == 402  # it did not
    assert statuses == [200] + [429] * 49
    assert shared.balance() == 0
    await slow.stop()


async def test_a_handler_holds_the_most_and_captures_what_it_cost(shared):
    async def handler(x):
        left = x.hold(800_000)
        assert left == 200_000
        with pytest.raises(RuntimeError, match="already"):
            x.hold(1)
        with pytest.raises(ValueError, match="at most"):
            x.capture(800_001)
        await x.start(200)
        await x.write(b"some")
        x.capture(123_456, units=7)
        x.finish()

    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        assert (await call(p)).status == 200
        assert shared.balance() == 1_000_000 - 123_456
        refused = await call(p, key="cy-key")
        assert (refused.status, reason(refused)) == (402, "payment_required")
        shared.accounts.set_balance(ANN, "USD", 100)
        refused = await call(p)
        assert (refused.status, reason(refused)) == (402, "insufficient_balance")
    assert shared.records() == [(123_456, 200, UsageFlag.USAGE_CAPTURED)]


async def test_a_handlers_hold_is_given_back_when_it_fails_or_forgets(shared, caplog):
    async def handler(x):
        x.hold(500_000)
        if x.query == "raise":
            raise RuntimeError
        if x.query == "refused":
            x.release()
            with pytest.raises(PaymentRefused, match="insufficient_balance"):
                x.hold(10_000_000)
            await x.respond(200, None, b"cheaper")
            return
        await x.respond(200)

    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        assert (await call(p, "/x?raise")).status == 500
        assert (await call(p, "/x?forget")).status == 200
        assert (await call(p, "/x?refused")).body == b"cheaper"
    assert shared.balance() == 1_000_000
    assert shared.records() == []


# ---- units of meters -----------------------------------------------------------------------


async def test_units_are_held_for_and_charged_beside_the_request(shared):
    held = []

    async def handler(x):
        held.append(x.hold_units("tokens", 1_000))
        held.append(x.hold_units("pages", 3))
        x.use_units("tokens", 700)
        await x.start(200)
        await x.write(b"some")
        x.use_units("tokens", 112)
        x.use_units("pages", 2)
        x.finish()

    shared.accounts.set_balance(ANN, "USD", 10_000_000)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        assert (await call(p)).status == 200
        await p.settled(exchanges=0)
        assert held == [3_000, 1_500_000]
        assert shared.balance() == 10_000_000 - 10_000 - (812 - 10) * 3 - 1_000_000
        assert uses(shared) == [
            ("", 1, 10_000, UsageFlag.USAGE_CAPTURED),
            ("pages", 2, 1_000_000, UsageFlag.USAGE_CAPTURED),
            ("tokens", 812, 2_406, UsageFlag.USAGE_CAPTURED),
        ]
        assert (await call(p)).status == 200  # the included ones are used up
        await p.settled(exchanges=0)
        assert ("tokens", 812, 2_436, UsageFlag.USAGE_CAPTURED) in uses(shared)


async def test_charges_of_a_period_add_up_to_the_price_of_its_units(shared):
    async def handler(x):
        units = int(x.query)
        x.hold_units("tokens", units + 5)
        x.use_units("tokens", units)
        await x.respond(200)

    document = metered()
    document["plans"][2]["price"]["per_unit"][0]["per"] = 7_000_000  # 3/7 of a micro-unit each
    document["consumers"][0]["plan"] = "only-units"
    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    parts = [1, 5, 3, 8, 1, 1, 13, 2, 40]
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        for part in parts:
            assert (await call(p, f"/x?{part}")).status == 200
        await p.settled(exchanges=0)
    total = (sum(parts) - 10) * 3_000_000 // 7_000_000
    assert shared.balance() == 1_000_000 - total
    found = uses(shared)
    assert sum(amount for _, _, amount, _ in found) == total
    # The requests cost nothing, and are usage all the same.
    assert [each for each in found if not each[0]] == [("", 1, 0, UsageFlag.USAGE_FREE)] * 9


async def test_units_that_the_plan_does_not_price_are_recorded(shared):
    async def handler(x):
        assert x.hold_units("tokens", 100) == 0
        x.use_units("tokens", 60)
        await x.respond(200)

    shared.accounts.set_balance(BOB, "USD", 0)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        assert (await call(p, key="bob-key")).status == 200
        await p.settled(exchanges=0)
    assert uses(shared) == [
        ("", 1, 0, UsageFlag.USAGE_FREE),
        ("tokens", 60, 0, UsageFlag.USAGE_FREE),
    ]


@pytest.mark.parametrize("how", ["raises", "refuses", "answers 503", "uses none"])
async def test_units_of_a_request_that_failed_cost_nothing(shared, caplog, how):
    async def handler(x):
        x.hold_units("pages", 2)
        if how != "uses none":
            x.use_units("pages", 2)
        if how == "raises":
            raise RuntimeError("on purpose")
        if how == "refuses":
            x.refuse(int(Reason.OVERLOADED))
            return
        await x.respond(200 if how == "uses none" else 503)

    shared.accounts.set_balance(ANN, "USD", 2_000_000)
    shared.accounts.set_limits(ANN, [(1_500_000, 3)])
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        for _ in range(3):  # the spending limit is given back as well
            assert (await call(p)).status == {"uses none": 200, "raises": 500}.get(how, 503)
            await p.settled(exchanges=0)
    assert shared.balance() == 2_000_000 - (30_000 if how == "uses none" else 0)
    assert [each for each in uses(shared) if each[0]] == []


async def test_who_cannot_pay_for_units_is_refused_or_served_less(shared):
    async def handler(x):
        if x.query == "less":
            with pytest.raises(PaymentRefused, match="insufficient_balance"):
                x.hold_units("pages", 100)
            await x.respond(200, None, b"less")
            return
        x.hold_units("pages", 100)

    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        refused = await call(p)
        assert (refused.status, reason(refused)) == (402, "insufficient_balance")
        assert orjson.loads(refused.body)["required"] == "50"
        assert (await call(p, "/x?less")).body == b"less"
    assert shared.balance() == 990_000  # the request itself, at its own price
    assert uses(shared) == [("", 1, 10_000, UsageFlag.USAGE_CAPTURED)]


async def test_spending_counts_what_units_cost_not_what_was_held(shared):
    async def handler(x):
        x.hold_units("pages", 4)
        x.use_units("pages", 1)
        await x.respond(200)

    shared.accounts.set_balance(ANN, "USD", 10_000_000)
    shared.accounts.set_limits(ANN, [(3_100_000, 3)])
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        statuses = []
        for _ in range(4):
            statuses.append((await call(p)).status)
            await p.settled(exchanges=0)
    # 0.51 each; the third would need 2.01 of the 2.08 that are left, the fourth of 1.57.
    assert statuses == [200, 200, 200, 402]


async def test_a_hold_that_is_captured_for_less_gives_its_spending_back(shared):
    async def handler(x):
        x.hold(1_000_000)
        x.capture(100_000)
        await x.respond(200)

    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    shared.accounts.set_balance(ANN, "USD", 10_000_000)
    shared.accounts.set_limits(ANN, [(1_200_000, 3)])
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        assert [(await call(p)).status for _ in range(4)] == [200, 200, 200, 402]


async def test_a_client_that_leaves_owes_the_units_that_were_reported(shared):
    begun = asyncio.Event()

    async def handler(x):
        x.hold_units("pages", 3)
        await x.start(200)
        await x.write(b"one page")
        x.use_units("pages", 1)
        begun.set()
        await asyncio.get_running_loop().create_future()  # until it is cancelled

    shared.accounts.set_balance(ANN, "USD", 2_000_000)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        client = await p.client()
        await client.send("GET", "/200", {"X-Api-Key": "ann-key"})
        await begun.wait()
        await client.reset()
        await p.settled(exchanges=0)
    assert [each for each in uses(shared) if each[0]] == [
        ("pages", 1, 500_000, UsageFlag.USAGE_CAPTURED)
    ]


async def test_of_a_killed_worker_the_reported_units_are_due(shared):
    begun, go = asyncio.Event(), asyncio.Event()

    async def handler(x):
        x.hold_units("tokens", 1_000)
        x.use_units("tokens", 510)
        begun.set()
        await go.wait()
        await x.respond(200)

    shared.accounts.set_balance(ANN, "USD", 2_000_000)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        task = asyncio.create_task(call(p))
        await begun.wait()
        held = {each.record.meter: each.record for each in shared.money.open_holds()}
        tokens = held[stable_hash("tokens")]
        assert (tokens.held, tokens.amount) == (3_000, 1_500)  # amount: due, if it is killed now
        go.set()
        assert (await task).status == 200


async def test_mistakes_with_meters_are_told(shared):
    said = []

    def attempt(what, *args):
        try:
            what(*args)
        except (ValueError, RuntimeError) as error:
            said.append(str(error))

    async def handler(x):
        attempt(x.use_units, "tokens", 1)
        attempt(x.hold_units, "tokns", 1)
        attempt(x.hold_units, "tokens", 0)
        x.hold_units("tokens", 5)
        attempt(x.hold_units, "tokens", 5)
        x.use_units("tokens", 3)
        attempt(x.use_units, "tokens", -1)
        await x.respond(200)

    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    async with plane(shared, metered(), handlers={"test:handler": handler}) as p:
        assert (await call(p)).status == 200
    assert said == [
        "call hold_units('tokens', most) first",
        "no plan prices units of 'tokns' (plans[].price.per_unit); priced meters: pages, tokens",
        "0 units of 'tokens': give the most that the request can use, 1 or more",
        "units of 'tokens' are already held",
        "-1 units of 'tokens': used units cannot be negative",
    ]
