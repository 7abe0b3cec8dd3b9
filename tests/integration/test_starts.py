"""The control API comes up at every start, however busy the machine, and comes back.

FASTGATE_STARTS starts (`make starts`: 200), on one processor beside two busy loops, where the
imports of several threads meet most often. FASTGATE_START_S: the API must answer so many seconds
after the start of the process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gatewaykit import PATIENCE, Gateway, Upstream, eventually, fetch, proxying

Start = Callable[..., Gateway]
STARTS = int(os.environ.get("FASTGATE_STARTS", "2"))
LIMIT_S = float(os.environ.get("FASTGATE_START_S", str(PATIENCE)))
BUSY = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


@pytest.fixture
def busy_core() -> Iterator[None]:
    """Pin this process, and what it starts, to one processor with two busy loops."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    lasts = 60 + STARTS * (LIMIT_S + 10)
    loops = [subprocess.Popen([sys.executable, "-c", BUSY.format(lasts)]) for _ in range(2)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
        os.sched_setaffinity(0, before)


def answers(running: Gateway) -> bool:
    """Whether the control API answers; shows the log when the gateway has ended."""
    assert running.process.poll() is None, running.log_text()
    if "control" not in running.running:
        return False
    host, _, port = running.running["control"].rpartition(":")
    try:
        return fetch((host, int(port)), "/healthz", patience=1.0).status == 200
    except OSError:
        return False


@pytest.mark.timeout(60 + STARTS * 80)
def test_the_control_api_answers_after_each_start(
    busy_core: None, upstream: Upstream, tmp_path: Path
) -> None:
    took = []
    for _ in range(STARTS):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        began = time.monotonic()
        running = Gateway(proxying(upstream), tmp_path, workers=2)
        try:
            eventually(lambda r=running: answers(r), "the control API answers")  # type: ignore[misc]
            took.append(time.monotonic() - began)
            log = running.log_text()
            assert "starting it again" not in log, log
        finally:
            assert running.stop() == 0
        running.log.unlink()
    took.sort()
    print(f"{STARTS} starts: median {took[len(took) // 2]:.2f} s, longest {took[-1]:.2f} s")
    assert took[-1] <= LIMIT_S


def test_an_api_that_could_not_start_is_started_again(
    gateway: Start, upstream: Upstream, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "admin-token").symlink_to("admin-token")  # a loop: neither read nor written
    running = gateway(proxying(upstream), state=state)
    eventually(lambda: running.said("the control API ended"), "it says why")
    assert "the admin token cannot be created" in running.log_text()
    assert fetch(running.address(), "/").status == 200
    (state / "admin-token").unlink()
    assert running.api("/v1/status").json["ready"] is True
