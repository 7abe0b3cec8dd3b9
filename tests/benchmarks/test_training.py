"""The traffic of a trained build: every request comes back as it should, and is logged."""

from __future__ import annotations

import pytest

from benchmarks.training import CONNECTIONS, REQUESTS, train


@pytest.mark.parametrize("tls", [False, True])
def test_every_request_is_answered_as_it_should(tls: bool) -> None:
    rounds = 3 * len(REQUESTS)  # each request three times on each connection
    count = rounds * CONNECTIONS
    assert train(count, tls=tls) == (count, 0)
