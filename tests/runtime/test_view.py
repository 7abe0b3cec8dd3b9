"""What the API shows of shared memory: workers, readiness, what limits have left."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from fastgate._core.shared.cells import limit_key_py
from fastgate._core.shared.concurrency import Concurrency
from fastgate._core.shared.limiter import LimiterTable
from fastgate._core.shared.quota import QuotaTable
from fastgate._core.shared.segment import Segment
from fastgate._core.snapshot.snapshot import Snapshot, stable_hash
from fastgate.config.compiler import compile_gateway
from fastgate.config.slots import SlotBook
from fastgate.identity.overrides import rows
from fastgate.model import codec
from fastgate.runtime.control import view


@pytest.fixture
def segment() -> Segment:
    return Segment.create(2)


def serve(segment: Segment, index: int, generation: int) -> None:
    segment.worker_started(index, os.getpid())
    row = segment.worker_row(index)
    row.generation = generation
    row.state = 2
    row.heartbeat_ns = time.monotonic_ns()


def test_ready_is_when_a_worker_serves_the_newest_and_none_an_older_one(segment: Segment) -> None:
    assert view.readiness(segment).reasons[0] == "no configuration is served yet"
    segment.generation = 3
    assert not view.readiness(segment).ready, "no worker serves"
    serve(segment, 0, 3)
    found = view.readiness(segment)
    assert (found.ready, found.reasons) == (True, ["worker 1 is being started"])
    serve(segment, 1, 2)
    found = view.readiness(segment)
    assert (found.ready, found.reasons) == (False, ["worker 1 serves generation 2, not 3"])
    segment.worker_row(1).generation = 3
    found = view.readiness(segment)
    assert (found.ready, found.generation, found.reasons) == (True, 3, [])


def test_a_worker_without_a_heartbeat_is_named_and_the_others_are_enough(segment: Segment) -> None:
    segment.generation = 3
    serve(segment, 0, 3)
    serve(segment, 1, 2)  # nobody gets the old configuration of one that serves nobody
    long_ago = time.monotonic_ns() - int((view.AWAY_S + 1) * 1e9)
    segment.worker_row(1).heartbeat_ns = long_ago
    found = view.readiness(segment)
    assert (found.ready, found.reasons) == (True, ["worker 1 has had no heartbeat for 3 s"])
    segment.worker_row(0).heartbeat_ns = long_ago
    assert not view.readiness(segment).ready, "nobody serves"
    serve(segment, 0, 3)
    segment.draining = 1
    found = view.readiness(segment)
    assert (found.ready, found.reasons[0]) == (False, "the gateway is draining")


def test_workers_are_shown_as_their_rows_say(segment: Segment) -> None:
    serve(segment, 0, 5)
    row = segment.worker_row(0)
    row.connections, row.in_flight, row.upstream_idle = 7, 2, 3
    first, second = view.workers(segment)
    assert (first.pid, first.state, first.generation) == (os.getpid(), "serving", 5)
    assert (first.connections, first.in_flight, first.upstream_idle) == (7, 2, 3)
    assert first.memory > 1 << 20
    assert (second.pid, second.state, second.memory) == (0, "down", 0)


DOCUMENT: dict[str, Any] = {
    "version": 1,
    "upstreams": [{"name": "app", "targets": ["http://127.0.0.1:9"]}],
    "services": [{"name": "app", "upstream": "app"}],
    "plans": [
        {
            "name": "starter",
            "limits": [{"by": "consumer", "rate": "10/s", "burst": 20, "name": "burst"}],
            "quotas": [{"by": "consumer", "period": "year", "requests": 100, "name": "yearly"}],
        }
    ],
    "routes": [
        {
            "name": "orders",
            "path": "/orders",
            "service": "app",
            "auth": {"api_key": {"header": "X-Api-Key"}},
            "quotas": [
                {"by": ["consumer", "route"], "period": "year", "requests": 5, "name": "orders"},
                {"by": "address", "period": "year", "requests": 9, "name": "by-address"},
            ],
            "concurrency": [{"by": "consumer", "max": 4, "name": "parallel"}],
            "limits": [{"by": ["consumer", "header:X-Tenant"], "rate": "5/s", "name": "tenant"}],
        }
    ],
}


def test_limits_show_what_is_left_of_what_the_workers_count(segment: Segment) -> None:
    slots = SlotBook()
    compiled = compile_gateway(codec.decode(DOCUMENT), generation=1, slots=slots, addresses={})
    snapshot = Snapshot(compiled.fd)
    os.close(compiled.fd)
    consumer = stable_hash("c_1")
    route = snapshot.route(0)
    by_name = {limit["name"]: limit for limit in route["limits"]}
    plan = snapshot.plan(slots.plans["starter"])
    in_plan = {limit["name"]: limit for limit in plan["limits"]}

    now = int(time.time())
    quotas, rates = QuotaTable(segment), LimiterTable(segment)
    orders = by_name[b"orders"]
    key = limit_key_py(orders["identity"], consumer=consumer, route=route["identity"])
    for _ in range(2):
        assert quotas.take(key, orders["period"], now, 5).allowed
    parallel = by_name[b"parallel"]
    Concurrency(segment, 1).enter(limit_key_py(parallel["identity"], consumer=consumer), 4)
    burst = in_plan[b"burst"]
    rates.take(
        limit_key_py(burst["identity"], consumer=consumer),
        time.monotonic_ns(), burst["interval_ns"], burst["tolerance_ns"], 20,
    )  # fmt: skip

    uses = {
        use.limit: use
        for use in view.LimitsView(segment).of(snapshot, "c_1", slots.plans["starter"])
    }
    assert set(uses) == {"orders", "parallel", "burst", "yearly"}
    assert (uses["orders"].used, uses["orders"].remaining, uses["orders"].route) == (2, 3, "orders")
    assert uses["orders"].by == ["route", "consumer"]
    assert uses["orders"].resets_at > now
    assert (uses["parallel"].kind, uses["parallel"].used) == ("concurrency", 1)
    assert uses["burst"].kind == "rate"
    assert uses["burst"].amount == 20
    assert uses["burst"].remaining < 20
    assert (uses["yearly"].used, uses["yearly"].remaining, uses["yearly"].route) == (0, 100, None)

    numbers = {"yearly": {"requests": 500}, "parallel": {"max": 9}, "burst": {"rate": "100/s"}}
    own = {
        use.limit: use
        for use in view.LimitsView(segment).of(
            snapshot, "c_1", slots.plans["starter"], rows(numbers)
        )
    }
    assert {name for name, use in own.items() if use.own} == set(numbers)
    assert (own["yearly"].amount, own["yearly"].remaining) == (500, 500)
    assert (own["parallel"].amount, own["parallel"].used) == (9, 1)
    assert own["burst"].amount == 100
    assert (own["orders"].amount, own["orders"].used) == (5, 2)

    others = view.LimitsView(segment).of(snapshot, "c_2", None)
    assert {use.limit: use.used for use in others} == {"orders": 0, "parallel": 0}


def test_a_route_with_several_paths_is_shown_once(segment: Segment) -> None:
    (route,) = DOCUMENT["routes"]
    document = {**DOCUMENT, "routes": [{**route, "path": None, "paths": ["/a", "/b/{id}"]}]}
    compiled = compile_gateway(codec.decode(document), generation=1, slots=SlotBook(), addresses={})
    snapshot = Snapshot(compiled.fd)
    os.close(compiled.fd)
    uses = view.LimitsView(segment).of(snapshot, "c_1", None)
    assert sorted(use.limit for use in uses) == ["orders", "parallel"]
