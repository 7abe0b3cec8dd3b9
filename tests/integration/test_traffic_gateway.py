"""What routes do with their traffic, through whole gateways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from gatewaykit import PATIENCE, Gateway, Upstream, fetch, proxying

Start = Callable[..., Gateway]


def cli(gateway: Gateway, *arguments: str) -> str:
    """What a command says about this gateway; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "fastgate", *arguments, "--state-dir", str(gateway.state)],
        capture_output=True, text=True, cwd=gateway.folder, timeout=PATIENCE, check=False,
        env={**os.environ, "FASTGATE_TOKEN": gateway.token},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def problem(gateway: Gateway, path: str) -> Any:
    answer = fetch(gateway.address(), path)
    assert answer.status == 503
    return json.loads(answer.body)


# ---- maintenance -------------------------------------------------------------------------


def test_maintenance_is_switched_without_the_file_and_survives_a_restart(
    gateway: Start, upstream: Upstream
) -> None:
    config = proxying(
        upstream, {"name": "all", "path": "/{rest*}"}, {"name": "orders", "path": "/orders"}
    )
    running = gateway(config)
    assert fetch(running.address(), "/orders").status == 200
    cli(running, "maintenance", "on", "orders", "--message", "Back at noon.", "--retry-after", "2m")
    for _ in range(8):  # every worker refuses
        answer = fetch(running.address(), "/orders")
        assert (answer.status, answer.headers["retry-after"]) == (503, "120")
    assert problem(running, "/orders")["message"] == "Back at noon."
    assert fetch(running.address(), "/other").status == 200

    state, file = running.state, running.config.read_text()
    running.stop()
    again = gateway(file, state=state)
    assert problem(again, "/orders")["message"] == "Back at noon."
    cli(again, "maintenance", "on", "--all", "--message", "All of it.")
    assert problem(again, "/other")["message"] == "All of it."
    cli(again, "maintenance", "off", "--all")
    cli(again, "maintenance", "off", "orders")
    assert {fetch(again.address(), path).status for path in ("/orders", "/other")} == {200}
    assert again.config.read_text() == file
    metrics = again.api("/metrics").body.decode()
    assert 'route="orders",status="503",reason="maintenance"' in metrics
