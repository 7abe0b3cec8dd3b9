"""Routing on random paths, compiling a configuration, installing a snapshot."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pytest

from benchmarks.micro.conftest import Measure
from benchmarks.workload import routes, shuffled_paths

snapshot = pytest.importorskip("fastgate._core.snapshot.snapshot", reason="the core is not built")
route_bench = pytest.importorskip(
    "fastgate._core.testing.route_bench", reason="the core is not built"
)
compiler = pytest.importorskip("fastgate.config.compiler", reason="the core is not built")
codec = pytest.importorskip("fastgate.model.codec", reason="the model is not there")

MANY = 100_000
LOOKUPS = 200_000
# core.md: 150 ns at 10 routes, 300 ns at 100,000.
BUDGETS = {1: 150, 10: 150, 1000: 300, MANY: 300}

pytestmark = pytest.mark.timeout(300)


def document(count: int) -> dict[str, Any]:
    """A configuration of `count` routes to one service."""
    return {
        "version": 1,
        "upstreams": [{"name": "backend", "targets": [{"url": "http://127.0.0.1:9000"}]}],
        "services": [{"name": "backend", "upstream": "backend"}],
        "routes": [
            {"name": made.name, "path": made.pattern, "service": "backend"}
            for made in routes(count)
        ],
    }


@cache
def gateway(count: int) -> Any:
    """The configuration as structs."""
    return codec.decode(document(count))


def compiled(count: int) -> int:
    """The image of it: a descriptor, for the caller to close."""
    image = compiler.compile_gateway(
        gateway(count), generation=1, slots=compiler.SlotBook(), addresses={}
    )
    return int(image.fd)


@pytest.mark.parametrize("count", [1, 10, 1000, MANY])
def test_route(measure: Measure, count: int) -> None:
    fd = compiled(count)
    try:
        opened = snapshot.Snapshot(fd)
        paths = [path.encode() for path in shuffled_paths(routes(count), LOOKUPS)]

        def look_up() -> float:
            ns, found = route_bench.bench_find(opened, paths)
            assert found == LOOKUPS
            return float(ns)

        measure(look_up, operations=LOOKUPS, budget_ns=BUDGETS[count])
    finally:
        os.close(fd)


def test_decode_100000_routes(measure: Measure) -> None:
    made = document(MANY)
    measure(lambda: bool(codec.decode(made)), rounds=3)


def test_compile_100000_routes(measure: Measure) -> None:
    gateway(MANY)
    measure(lambda: os.close(compiled(MANY)), budget_ns=2e9, rounds=3)


def test_install_100000_routes(measure: Measure) -> None:
    fd = compiled(MANY)
    try:
        measure(lambda: snapshot.Snapshot(fd).bytes, budget_ns=1e6, rounds=20)
    finally:
        os.close(fd)
