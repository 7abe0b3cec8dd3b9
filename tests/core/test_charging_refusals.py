"""What refusals of paid requests say: what is held, what is owed, how many units would fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from chargingkit import ANN, BOB, SharedMoney, call, config, plane, reason
from enginekit import Backend, Seen

from fastgate._core.money.wallet import ANY
from fastgate._core.reason import Reason


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


async def test_money_that_requests_in_progress_hold_is_waited_for(shared, backend):
    shared.accounts.set_balance(ANN, "USD", 250_000)
    async with plane(shared, config(backend)) as p:
        hold = shared.money.hold(0, ANN, 200_000)
        refused = await call(p)
        problem = orjson.loads(refused.body)
        assert (refused.status, problem["reason"]) == (429, "hold_in_flight")
        assert refused.headers["retry-after"] == "1"
        assert (problem["balance"], problem["held"], problem["required"]) == ("0.05", "0.2", "0.25")
        assert problem["retry"] == "after_delay"
        assert [one["action"] for one in problem["remedies"]] == ["wait", "top_up"]
        hold.due(1)  # owed by now: it will not come back, so waiting does not help
        assert reason(await call(p)) == "insufficient_balance"
        hold.due(0)
        assert reason(await call(p)) == "hold_in_flight"
        hold.release()
        assert (await call(p)).status == 200


async def test_money_that_others_hold_is_not_waited_for(shared, backend):
    shared.accounts.set_balance(ANN, "USD", 50_000)
    shared.accounts.set_balance(BOB, "USD", 1_000_000)
    async with plane(shared, config(backend)) as p:
        others = [shared.money.hold(0, BOB, 200_000, wallet=1) for _ in range(3)]
        assert reason(await call(p)) == "insufficient_balance"
        for hold in others:
            hold.release()


async def test_a_refused_subscription_says_what_is_owed(shared, backend):
    async with plane(shared, config(backend)) as p:
        plan = p.slots.plans["flat-rate"]
        ended = 1_795_000_000
        shared.accounts.set_subscriptions(ANN, [(ANY, plan, Reason.SUBSCRIPTION_PAST_DUE, ended)])
        shared.accounts.set_bill(ANN, ("INV-2026-000007", 50_000_000, "EUR", 1_790_000_000))
        problem = orjson.loads((await call(p)).body)
        assert problem["plan"] == "flat-rate"
        assert (problem["amount_due"], problem["currency"]) == ("50", "EUR")
        assert problem["invoice"] == "INV-2026-000007"
        assert problem["due_at"] == "2026-09-21T14:13:20Z"
        assert problem["ended_at"] == "2026-11-18T11:06:40Z"
        assert "Invoice INV-2026-000007 for 50 EUR was due on 21 September" in problem["detail"]
        shared.accounts.set_bill(ANN, None)
        problem = orjson.loads((await call(p)).body)
        assert not {"amount_due", "currency", "invoice", "due_at"} & problem.keys()


async def test_units_that_do_not_fit_say_how_many_would(shared):
    async def handler(x):
        x.hold_units("tokens", int(x.query))
        await x.respond(200)

    shared.accounts.set_balance(ANN, "USD", 1_000_000)
    document = config(None, service=None, handler="test:handler", price=None)
    document["routes"][0] = {k: v for k, v in document["routes"][0].items() if v is not None}
    per_unit = [{"meter": "tokens", "price": "3 USD", "per": 1000}]
    document["plans"].append({"name": "metered", "price": {"per_unit": per_unit}})
    document["consumers"][0]["plan"] = "metered"
    async with plane(shared, document, handlers={"test:handler": handler}) as p:
        refused = await call(p, "/units?400")
        problem = orjson.loads(refused.body)
        assert (refused.status, problem["reason"]) == (402, "insufficient_balance")
        assert (problem["meter"], problem["units"]) == ("tokens", 400)
        assert problem["units_available"] == 333
        assert [one["action"] for one in problem["remedies"]] == ["top_up", "reduce"]
        assert (await call(p, "/units?333")).status == 200
        assert (await call(p, "/units?334")).status == 402
        shared.accounts.set_balance(ANN, "USD", 0)
        problem = orjson.loads((await call(p, "/units?1")).body)
        assert problem["units_available"] == 0
        assert [one["action"] for one in problem["remedies"]] == ["top_up"]
