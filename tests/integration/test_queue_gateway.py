"""Limits of requests at a target, and their queue, on a real gateway with several workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from conftest import StartGateway
from gatewaykit import Answer, Gateway, Upstream, eventually, fetch


def limited(upstream: Upstream, most: int, **more: Any) -> dict[str, Any]:
    return {
        "upstreams": [{"name": "app", "targets": [upstream.url], "max_connections": most, **more}],
        "services": [{"name": "app", "upstream": "app"}],
        "routes": [{"name": "all", "path": "/{rest*}", "service": "app"}],
    }


def value(gateway: Gateway, name: str) -> float:
    """The sum of a metric over its labels."""
    text = gateway.api("/metrics").body.decode()
    lines = (line for line in text.splitlines() if line.startswith((name + "{", name + " ")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def asking(gateway: Gateway, path: str, answers: list[Answer | OSError]) -> threading.Thread:
    def run() -> None:
        try:
            answers.append(fetch(gateway.address(), path))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def is_at(gateway: Gateway, name: str, wanted: float) -> Callable[[], bool]:
    return lambda: value(gateway, name) == wanted


IN_FLIGHT, QUEUE = "fastgate_target_in_flight", "fastgate_upstream_queue"


def test_limit_and_queue_count_over_all_workers(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(limited(upstream, 2, queue={"max": 6, "timeout": "1m"}), workers=2)
    answers: list[Answer | OSError] = []
    threads = [asking(running, "/hold", answers) for _ in range(8)]
    eventually(is_at(running, QUEUE, 6), "six wait")
    assert value(running, IN_FLIGHT) == 2
    assert len(upstream.seen) == 2
    refused = fetch(running.address(), "/x")
    assert (refused.status, b"overloaded" in refused.body) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    assert value(running, "fastgate_upstream_queued_total") == 6
    assert value(running, "fastgate_upstream_queue_refused_total") == 1
    upstream.release()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers if isinstance(answer, Answer)] == [200] * 8
    assert value(running, IN_FLIGHT) == value(running, QUEUE) == 0


def test_a_worker_that_dies_frees_its_places(gateway: StartGateway, upstream: Upstream) -> None:
    running = gateway(limited(upstream, 2, queue={"max": 6, "timeout": "1m"}), workers=2)
    answers: list[Answer | OSError] = []
    threads = [asking(running, "/hold", answers) for _ in range(4)]
    eventually(is_at(running, QUEUE, 2), "two wait")
    for name in ("fg-worker-0", "fg-worker-1"):
        running.kill(name)
    for thread in threads:
        thread.join(60)
    eventually(is_at(running, IN_FLIGHT, 0), "no place is taken")
    assert value(running, QUEUE) == 0
    eventually(lambda: fetch(running.address(), "/x").status == 200, "it is served")
