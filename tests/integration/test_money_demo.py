"""`fastgate demo payments`: the whole walk in one process tree, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gatewaykit import PATIENCE, PROJECT, eventually

from fastgate.demo.provider import create
from fastgate.errors import ConfigurationError

ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
COMMAND = [sys.executable, "-m", "fastgate", "demo", "payments"]


def test_it_walks_from_the_first_402_to_the_audit(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [*COMMAND, "--folder", str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "402 insufficient_balance",
        "The link says: everything is fine but the balance.",
        "Receipt INVR-",
        "PAYMENT-RESPONSE: transaction 0x",
        "402 payment_invalid",
        "19 calls served, then 402 insufficient_balance",
        "Balance low",
        "15 checks passed",
    ):
        assert words in done.stdout, done.stdout
    took = re.search(r"That took (\d+) s", done.stdout)
    assert took is not None
    log = (folder / "gateway.log").read_text()
    assert "Traceback" not in log, log
    assert " draining " in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    with (tmp_path / "out").open("wb") as out:
        running = subprocess.Popen(
            [*COMMAND, "--stay", "--folder", str(folder)],
            stdout=out,
            stderr=out,
            cwd=tmp_path,
            env=ENVIRONMENT,
        )
    try:
        said = tmp_path / "out"
        over = "It runs until Ctrl-C"
        eventually(lambda: over in said.read_text(), "the walk is over", 4 * PATIENCE)
        gateway = _child_of(running.pid)
        running.send_signal(number)
        assert running.wait(30) == 0, said.read_text()
        with pytest.raises(ProcessLookupError):
            os.kill(gateway, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        running.wait()


def _child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def test_play_money_is_for_the_demonstration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGATE_DEMO_PAY", raising=False)
    with pytest.raises(ConfigurationError, match="play money"):
        create(None)  # type: ignore[arg-type]
