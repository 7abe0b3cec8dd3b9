"""What `why` says is what the data plane does: random plans, limits, holds and states, both asked.

Each case asks for a diagnosis first and then makes the request, through a real engine; the
verdicts, and the numbers of the refusal, have to agree. FASTGATE_DRYRUN_CASES sets how many cases
are tried (`make explanations`: 10^5); the tests try a few hundred.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import orjson
from enginekit import Plane
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastgate._core.exchange.dry_run import DryRun, Outcome
from fastgate._core.money.money_map import MoneyMap
from fastgate._core.money.wallet import ANY, Accounts
from fastgate._core.reason import Reason
from fastgate._core.shared.cells import limit_key_py
from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.credentials import key_digest
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import LimitKind, LimitScope, Snapshot, stable_hash
from fastgate.billing.diagnosis.diagnosis import Diagnosis, Question, diagnose
from fastgate.billing.diagnosis.evidence import (
    AccountFacts,
    ConsumerFacts,
    DryRunQuery,
    InvoiceFacts,
    KeyFacts,
    ProviderFacts,
    RouteFacts,
    SubscriptionFacts,
    route_facts,
)
from fastgate.billing.x402.refused_payments import RefusedPayment
from fastgate.errors import REASON_BY_CODE, reason_code
from fastgate.model.codec import decode
from fastgate.model.gateway import Gateway
from fastgate.model.overrides import overridable

CASES = int(os.environ.get("FASTGATE_DRYRUN_CASES", "1000"))
STEPS = 100  # cases to a configuration
LOCALHOST = bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1])
PERIODS = ("day", "month", "year")
PAYERS = {"ann": 3, "bob": 4}
CONSUMERS = ("ann", "bob", "cy")
ROUTES = ("free", "paid", "own", "open", "sold")

# ---- configurations -----------------------------------------------------------------------

amounts = st.sampled_from(["0 USD", "0.01 USD", "0.25 USD", "1 USD", "2 EUR"])
dollars = st.sampled_from(["0 USD", "0.01 USD", "0.25 USD", "1 USD"])
periods = st.sampled_from(PERIODS)


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    by = draw(
        st.lists(
            st.sampled_from(["consumer", "address", "credential", "route"]),
            min_size=1,
            max_size=2,
            unique=True,
        )
    )
    rate, burst = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    found = {"by": by, "rate": f"{rate}/d", "burst": burst}
    return {**found, "name": "named"} if draw(st.booleans()) else found


@st.composite
def quotas(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "period": draw(periods),
        "requests": draw(st.integers(1, 5)),
        "then": draw(st.sampled_from(["refuse", "offer_upgrade"])),
    }


@st.composite
def prices(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["each", "included", "tiers"]))
    if kind == "each":
        found: dict[str, Any] = {"per_request": draw(dollars)}
    elif kind == "included":
        overage = draw(st.sampled_from(["0.01 USD", "0.25 USD", "1 USD"]))
        found = {"included": draw(st.integers(1, 3)), "overage": overage}
    else:
        first, more = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        found = {
            "tiers": [
                {"up_to": first, "price": draw(dollars)},
                {"up_to": first + more, "price": draw(dollars)},
                {"price": draw(dollars)},
            ]
        }
    return {**found, "period": draw(periods)}


@st.composite
def plans(draw: st.DrawFn, name: str) -> dict[str, Any]:
    plan: dict[str, Any] = {"name": name}
    if draw(st.booleans()):
        plan["price"] = draw(prices())
    if draw(st.booleans()):
        plan["limits"] = [{**draw(limits()), "by": ["consumer"]}]
    if draw(st.booleans()):
        plan["quotas"] = [draw(quotas())]
    return plan


AUTH = {"api_key": {"header": "X-Api-Key"}}
MAYBE = {"api_key": {"header": "X-Api-Key", "optional": True}}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    def route(name: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"name": name, "path": f"/{name}", **more}
        if draw(st.integers(0, 3)) == 0:
            found["limits"] = [draw(limits())]
        if draw(st.integers(0, 3)) == 0:
            found["concurrency"] = {"max": draw(st.integers(1, 2)), "by": ["consumer"]}
        if draw(st.integers(0, 11)) == 0:
            allow = draw(st.sampled_from(["127.0.0.1", "192.0.2.1"]))
            found["maintenance"] = {"allow": [allow]}
        return found

    answer = {"respond": {"status": 200, "body": "x"}}
    document: dict[str, Any] = {
        "upstreams": [{"name": "u", "targets": ["http://127.0.0.1:1"]}],
        "services": [{"name": "s", "upstream": "u"}],
        "plans": [
            draw(plans("one")),
            {**draw(plans("two")), **({"services": ["s"]} if draw(st.booleans()) else {})},
        ],
        "routes": [
            route("free", auth=AUTH, **answer),
            route("paid", auth=AUTH, price=draw(amounts), **answer),
            # A service's own subscription; its upstream is not there, which is not about money.
            route("own", auth=AUTH, service="s", price=draw(amounts)),
            route("open", auth=MAYBE, price=draw(amounts), **answer),
            route("sold", auth=AUTH, **answer),
        ],
        "consumers": [
            {"name": name, **({"plan": draw(st.sampled_from(["one", "two"]))} if mine else {})}
            for name in CONSUMERS
            for mine in [draw(st.booleans())]
        ],
    }
    if "named" in overridable(decode({"version": 1, **document})):
        for consumer in document["consumers"]:
            if draw(st.booleans()):
                own = {"rate": f"{draw(st.integers(1, 6))}/d", "burst": draw(st.integers(1, 6))}
                consumer["limits"] = {"named": own}
    return document


# ---- what happens before a request --------------------------------------------------------

MICROS = (-1, 0, 1, 9_999, 10_000, 250_000, 260_000, 1_000_000, 5_000_000)
REFUSING = (
    *[0] * 15,
    int(Reason.PAYMENT_FAILED),
    int(Reason.SUBSCRIPTION_EXPIRED),
    int(Reason.SUBSCRIPTION_PAUSED),
)
CALLERS = (*CONSUMERS, *CONSUMERS, "nobody", "unknown")


class Dice:
    """Draws what happens. (From a seed of hypothesis: drawing each number by itself takes longer
    than the request.)"""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def case(self) -> tuple[list[tuple[Any, ...]], str, str]:
        """What happens before a request, who makes it, on which route."""
        changes = [self.change() for _ in range(self.random.randrange(4))]
        return changes, self.pick(CALLERS), self.pick(ROUTES)

    def change(self) -> tuple[Any, ...]:
        payer, consumer = self.pick(sorted(PAYERS)), self.pick(CONSUMERS)
        services = [one for one in ("any", "s") if self.random.random() < 0.5]
        return self.pick(
            (
                ("balance", payer, self.pick(MICROS)),
                ("hold", payer, self.pick(MICROS), self.random.randrange(3)),
                ("settle", self.random.random() < 0.5),
                ("access", payer, self.pick(REFUSING)),
                (
                    "subscribe",
                    payer,
                    [(one, self.pick(("one", "two")), self.pick(REFUSING)) for one in services],
                ),
                ("limits", payer, [self.cap() for _ in range(self.random.randrange(3))]),
                ("key", consumer, self.cap(), self.cap(), self.random.randrange(50)),
                ("busy", consumer, self.pick(ROUTES)),
                ("idle",),
            )
        )

    def cap(self) -> tuple[int, int]:
        """Micro-units and a period; (0, 0): no limit, 0 of a period: nothing may be spent."""
        none = (0, 0)
        amounts = (10_000, 250_000, 1_500_000)
        some = self.pick((*amounts, *amounts, 0)), self.pick((3, 4, 6))
        return self.pick((none, some))


class World:
    """A plane, everything its answers depend on, and the evidence of a diagnosis."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.segment = Segment.create(
            2,
            limiter_cells=2**10,
            quota_cells=2**10,
            concurrency_cells=64,
            targets=8,
            route_rows=8,
            log_records=64,
            accounts=16,
        )
        self.money = MoneyMap.create(None, 2, holds=64, ring=2**10)
        self.money.bind(self.segment)
        self.money.begin(0)
        self.money.begin(1)
        self.accounts = Accounts(self.segment, self.money)
        for slot in PAYERS.values():
            self.accounts.put(slot, 100 + slot, ["USD", "EUR"])
        self.gateway: Gateway = decode({"version": 1, **document})
        self.plane = Plane(
            document,
            keys={f"{name}-key": name for name in CONSUMERS},
            segment=self.segment,
            money=self.money,
            accounts=PAYERS,
        )
        self.running = Concurrency(self.segment, 1)
        self.entered: list[int] = []
        self.holds: list[Any] = []

    @property
    def snapshot(self) -> Snapshot:
        return self.plane.snapshot

    # ---- changing

    def change(self, what: str, *more: Any) -> None:
        getattr(self, f"_{what}")(*more)

    def _balance(self, who: str, micros: int) -> None:
        self.accounts.credit(PAYERS[who], micros - self.accounts.balance(PAYERS[who], "USD"), "USD")

    def _hold(self, who: str, micros: int, due: int) -> None:
        if micros > 0 and (hold := self.money.hold(1, PAYERS[who], micros, wallet=0)) is not None:
            hold.due(micros * due // 2)
            self.holds.append(hold)

    def _settle(self, charged: bool) -> None:
        if self.holds:
            hold = self.holds.pop()
            if charged:
                hold.capture(hold.held)
            else:
                hold.release()

    def _access(self, who: str, reason: int) -> None:
        self.accounts.set_access(PAYERS[who], reason)

    def _subscribe(self, who: str, entries: list[tuple[str, str, int]]) -> None:
        slots = self.plane.slots
        self.accounts.set_subscriptions(
            PAYERS[who],
            [
                (ANY if service == "any" else slots.services[service], slots.plans[plan], reason)
                for service, plan, reason in entries
            ],
        )

    def _limits(self, who: str, limits: list[tuple[int, int]]) -> None:
        self.accounts.set_limits(PAYERS[who], [one for one in limits if one[1]])

    def _key(self, name: str, consumer: tuple[int, int], key: tuple[int, int], state: int) -> None:
        """Caps of a consumer and its key; some keys are expired or revoked, consumers suspended."""
        plan = self.plane.plan_of(name)
        row = self.plane.index.set_consumer(
            name,
            identity=stable_hash(name),
            name=name,
            plan_name=plan or "",
            spending=consumer,
            suspended=state == 1,
            **({} if plan is None else {"plan": self.plane.slots.plans[plan]}),
            **self.plane.payer_of(name),
        )
        digest = key_digest(f"{name}-key")
        self.plane.index.put(
            digest,
            row,
            identity=stable_hash(f"key of {name}"),
            spending=key,
            expires_at=int(time.time()) - 5 if state == 2 else 0,
        )
        if state == 3:
            self.plane.index.revoke(digest)

    def _busy(self, name: str, route: str) -> None:
        """A request of the consumer is in progress, in the other worker."""
        record = self.snapshot.route(self.snapshot.routes().index(route))
        for limit in record["limits"]:
            if limit["kind"] == LimitKind.LIMIT_CONCURRENCY:
                assert limit["scope"] == LimitScope.BY_CONSUMER
                key = limit_key_py(limit["identity"], consumer=stable_hash(name))
                if self.running.enter(key, limit["amount"])[0]:
                    self.entered.append(key)

    def _idle(self) -> None:
        if self.entered:
            self.running.leave(self.entered.pop())

    # ---- the evidence

    def key(self, digest: bytes) -> KeyFacts | None:
        found = self.plane.index.find_digest(digest)
        if found is None:
            return None
        return KeyFacts(id="key", consumer=found.consumer.id, expires_at=1, revoked_at=1)

    def consumer(self, ident: str) -> ConsumerFacts | None:
        if ident not in CONSUMERS:
            return None
        account = ident if ident in PAYERS else None
        plan = self.plane.plan_of(ident)
        return ConsumerFacts(id=ident, name=ident, account=account, plan=plan)

    def consumer_by_hash(self, identity: int) -> ConsumerFacts | None:
        return None

    def plans(self) -> frozenset[str]:
        return frozenset({"one", "two"})

    def currency(self) -> str:
        return "USD"

    def route(self, name: str, service: str | None = None) -> RouteFacts | None:
        return route_facts(self.gateway, name)

    def decide(self, asked: DryRunQuery) -> Outcome:
        names = self.snapshot.routes()
        route = names.index(asked.route) if asked.route is not None else -1
        run = DryRun(self.segment, self.money, self.snapshot, route=route, address=LOCALHOST)
        if asked.digest is not None:
            self.outcome = run.of_key(self.plane.index, asked.digest)
        else:
            self.outcome = run.of_nobody()
        return self.outcome

    def providers(self) -> list[ProviderFacts]:
        return []

    def refused_payment(self, request: str) -> RefusedPayment | None:
        return None

    async def account(self, ident: str) -> AccountFacts | None:
        return AccountFacts(id=ident, name=ident)

    async def subscriptions(self, account: str) -> list[SubscriptionFacts]:
        return []

    async def invoices(self, account: str) -> list[InvoiceFacts]:
        return []


async def explained(world: World, who: str, route: str) -> tuple[Outcome, Diagnosis]:
    digest = None if who == "nobody" else key_digest(f"{who}-key")
    question = Question(digest=digest, route=route)
    found = await diagnose(question, world, now=datetime.now(UTC))
    return world.outcome, found


UPSTREAM = "upstream_connect_failed"  # nothing listens behind the route with a service


async def play(document: dict[str, Any], seed: int) -> None:
    world, dice = World(document), Dice(seed)
    async with world.plane as plane:
        client = await plane.client()
        for _ in range(STEPS):
            changes, who, route = dice.case()
            for change in changes:
                world.change(*change)
            before = memory(world)
            outcome, found = await explained(world, who, route)
            assert memory(world) == before  # nothing was changed by asking
            headers = {} if who == "nobody" else {"X-Api-Key": f"{who}-key"}
            reply = await client.request("GET", f"/{route}", headers)
            code = "" if reply.status == 200 else orjson.loads(reply.body)["reason"]
            code = "" if code == UPSTREAM else code
            said = (who, route, outcome, found.summary)
            COUNTED[code] += 1
            assert (found.reason or "") == code, said
            assert found.served == (code == ""), said
            assert reason_code(outcome.reason) == code, said
            if code:
                numbers_agree(orjson.loads(reply.body), outcome, found)
        while world.holds:
            world.holds.pop().release()


def memory(world: World) -> tuple[Any, ...]:
    accounts = tuple(world.accounts.get(slot) for slot in PAYERS.values())
    return accounts, len(world.money.open_holds())


def numbers_agree(problem: dict[str, Any], outcome: Outcome, found: Diagnosis) -> None:
    """The numbers of a refusal are those of its explanation."""
    code = problem["reason"]
    assert REASON_BY_CODE[code].status == problem["status"]
    if code == "maintenance":  # it is not about the caller: no check explains it
        assert (found.cause, found.summary) == (None, REASON_BY_CODE[code].text)
        return
    step = next(one for one in found.steps if one.reason == code)
    assert step.check == found.cause
    assert step.result == "failed"
    if code in ("insufficient_balance", "hold_in_flight"):
        assert problem["balance"] == amount(outcome.available)
        assert problem["required"] == amount(outcome.price)
        assert problem["currency"] == outcome.currency
    if code == "spending_limit_reached":
        assert problem["limit_of"] == outcome.spender == step.numbers["of"]
        assert problem["required"] == amount(outcome.price)
        assert problem["limit"] in {amount(one.limit) for one in outcome.spending}
    if code in ("rate_limited", "quota_exhausted", "quota_exhausted_upgrade"):
        refused = [one for one in outcome.limits if reason_code(one.reason) == code]
        assert (problem["policy"], problem["limit"]) in {(one.name, one.amount) for one in refused}
    if code == "not_subscribed" and "plan" in problem:
        assert problem["plan"] == outcome.plan


def amount(micros: int) -> str:
    whole, rest = divmod(abs(micros), 1_000_000)
    text = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
    return f"-{text}" if micros < 0 else text


COUNTED: Counter[str] = Counter()
"""Cases by the reason with which the data plane refused them; "": served."""


@settings(
    max_examples=max(1, CASES // STEPS),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=CASES <= 1000,
    database=None,
    phases=[Phase.generate],
)
@given(configurations(), st.integers(0, 2**64 - 1))
def test_the_explanation_is_what_the_data_plane_does(document: dict[str, Any], seed: int) -> None:
    asyncio.run(play(document, seed))


def test_all_the_cases_were_tried() -> None:
    assert COUNTED.total() >= max(1, CASES // STEPS) * STEPS
    print(f"\n{COUNTED.total()} cases without a difference: {dict(COUNTED.most_common())}")
    common = {
        "",
        "insufficient_balance",
        "rate_limited",
        "credential_unknown",
        "subscription_paused",
        "maintenance",
    }
    assert common <= COUNTED.keys()
