"""The round trip through a Python handler, on a running gateway: what Python adds to a request.

Two routes of one gateway with one worker answer the same five bytes: one from the snapshot
(never leaving C), one from a handler. One connection asks them in turn; the difference of the
two is the upcall: suspended, task made, handler run, answer queued, taken up again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import generator
from benchmarks.compare.gateway import FastGate
from benchmarks.compare.machine import Placement, available_cores, place
from benchmarks.compare.subjects import Setup, Unavailable, free_port, release_port
from benchmarks.micro.conftest import Measure

ROOT = Path(__file__).parents[2]
HANDLER = "benchmarks.micro.handlers:hello"


class WithHandler(FastGate):
    """FastGate with a route answered by C and one answered by Python."""

    def document(self, setup: Setup) -> dict[str, Any]:
        hello = {"status": 200, "headers": {"Content-Type": "text/plain"}, "body": "hello"}
        return {
            "version": 1,
            "workers": 1,
            "listeners": [{"name": "public", "bind": f"127.0.0.1:{setup.port}"}],
            "routes": [
                {"name": "c", "path": "/{rest*}", "respond": hello},
                {"name": "python", "path": "/python", "handler": HANDLER},
            ],
            "control": {"bind": f"127.0.0.1:{setup.spare}"},
        }

    def environment(self) -> dict[str, str]:
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        return {"PYTHONPATH": os.pathsep.join([str(ROOT), *inherited])}


Gateway = tuple[int, Placement]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    subject = WithHandler()
    try:
        subject.version()
    except Unavailable as e:
        pytest.skip(str(e))
    placement = place(available_cores())
    assert placement
    ports = free_port(), free_port()
    setup = Setup(
        port=ports[0], backend=0, folder=tmp_path_factory.mktemp("gateway"), spare=ports[1]
    )
    with subject.start(setup, placement.proxy):
        yield setup.port, placement
    release_port(*ports)


def mean_ns(gateway: Gateway, path: str, connections: int) -> float:
    """Nanoseconds of the worker's time and the wire's for each request, closed loop."""
    port, placement = gateway
    plan = generator.Plan(
        port=port, path=path, connections=connections, duration=0.5, warmup=0.1, spin=False
    )
    outcome = generator.run(plan, placement.load)
    assert set(outcome.statuses) == {"200"}, json.dumps(outcome.statuses)
    assert not outcome.failed
    return outcome.latency.mean if connections == 1 else 1e9 * outcome.window_s / outcome.responses


@pytest.mark.parametrize("path", ["/static", "/python"])
def test_round_trip_on_one_connection(measure: Measure, gateway: Gateway, path: str) -> None:
    measure(lambda: mean_ns(gateway, path, 1), rounds=5)


@pytest.mark.parametrize("path", ["/static", "/python"])
def test_time_a_request_with_64_connections(measure: Measure, gateway: Gateway, path: str) -> None:
    measure(lambda: mean_ns(gateway, path, 64), rounds=5)


def test_upcall_adds(measure: Measure, gateway: Gateway) -> None:
    """The difference of the two under load, in one round: what an upcall costs the worker."""

    def difference() -> float:
        return mean_ns(gateway, "/python", 64) - mean_ns(gateway, "/static", 64)

    measure(difference, rounds=5)
