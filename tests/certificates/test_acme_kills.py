"""What is left when an attempt ends between any two steps: by SIGKILL, or by a cancellation."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from acmekit import FakeClock, authority, settings, world
from cancelkit import cancelled_at
from pebblekit import Pebble, pebble

from fastgate.certificates.acme.order import Attempt

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """It looks at proofs. When the gateway has just been killed, there are none."""
    with pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """It accepts any proof, so no order ends because of a kill."""
    variables = {"PEBBLE_VA_ALWAYS_VALID": "1"}
    with pebble(tmp_path_factory.mktemp("pebble"), variables) as running:
        yield running


def kills(running: Pebble, folder: Path, challenge: str, every: int = 1) -> list[Any]:
    ca = folder / "ca.pem"
    ca.write_bytes(running.ca)
    ports = [str(running.http_port), str(running.tls_port)]
    arguments = [str(folder), *ports, running.directory, str(ca), challenge, str(every)]
    ran = subprocess.run(
        [sys.executable, "acmekills.py", *arguments],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE.parent.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) > 40 / every  # the steps were found
    for row in rows:
        assert row["seen"][-1][2], row  # there is a certificate in the end
    return rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_step_loses_no_order_that_is_on_disk(
    trusting: Pebble, tmp_path: Path
) -> None:
    lost = []
    for row in kills(trusting, tmp_path, "http-01"):
        for (before, placed, issued), (after, _, _) in itertools.pairwise(row["seen"]):
            if placed or issued:
                assert after == before, row
        orders = row["seen"][-1][0]
        assert orders <= 3  # two kills
        if orders > 1:
            lost.append(row["at"])
    # Only around the request that places it: the kill comes before its address is written.
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert len(lost) < 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_while_the_authority_looks_at_the_proof(plain: Pebble, tmp_path: Path) -> None:
    """The order has failed then, and another one is placed by the same attempt."""
    for row in kills(plain, tmp_path, "tls-alpn-01", every=3):
        assert row["seen"][-1][0] <= 3


@pytest.mark.parametrize("authority_of", ["trusting", "plain"])
async def test_a_cancellation_at_any_await(
    request: pytest.FixtureRequest, tmp_path: Path, authority_of: str
) -> None:
    """All objects live on, and a call that was begun is completed."""
    running: Pebble = request.getfixturevalue(authority_of)
    clock, at, fired = FakeClock(), 0, True
    while fired:
        kind = ("http-01", "tls-alpn-01")[at % 2]
        folder = tmp_path / str(at)
        folder.mkdir()
        async with world(running, folder, clock) as one:
            await one.service.reload(settings(authority(running, challenge=kind)))
            await clock.idle()
            keeper = one.service._kept["shop"].keeper
            attempt = Attempt(keeper.wanted, keeper._client, keeper._common)
            fired = await cancelled_at(at, attempt.run(None))
            assert not one.proofs.shown
            await keeper._client.call(lambda: None)  # what had begun is done
            placed, before = one.storage.order("shop") is not None, running.orders
            await one.service.renew("shop", wait=True)
            assert one.service.pair("shop") == one.on_disk()
            new = running.orders - before
            if authority_of == "trusting":
                assert new == (0 if placed else 1)
            else:
                assert new <= 1  # the proof was withdrawn before the authority looked
        at += 1
    assert at > 5
