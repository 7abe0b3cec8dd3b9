"""The traffic of a trained build: every request comes back as it should, and is logged."""

from __future__ import annotations

from benchmarks.training import CONNECTIONS, REQUESTS, train


def test_every_request_is_answered_as_it_should() -> None:
    rounds = 3 * len(REQUESTS)  # each request three times on each connection
    count = rounds * CONNECTIONS
    assert train(count) == (count, 0)
