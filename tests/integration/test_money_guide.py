"""docs/getting-paid.md does what it says: its configuration is used and its commands are run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from calendarkit import steady_zone
from gatewaykit import PATIENCE, PROJECT

from fastgate.demo.environment import free_port

GUIDE = PROJECT / "docs" / "getting-paid.md"


def test_the_commands_of_the_guide_work(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    for port in ("8080", "8081", "9000"):
        text = re.sub(rf"(?<=[: ]){port}\b", str(free_port()), text)
    text = text.replace("\nbilling:\n", f"\nbilling:\n  time_zone: {steady_zone()}\n")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (configuration,) = (block for block in blocks if "version:" in block)
    (tmp_path / "fastgate.yaml").write_text(configuration)
    control = re.search(r'control: \{bind: "([^"]+)"', configuration)
    assert control is not None
    script = "set -euo pipefail\n" + "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "fastgate"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastgate "$@"\n')
    command.chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "FASTGATE_STATE_DIR": str(tmp_path / "state"),
        "COLUMNS": "200",
    }
    running = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = running.communicate(timeout=4 * PATIENCE)
    finally:
        os.killpg(running.pid, signal.SIGTERM)  # the gateway and the upstream of this run
    assert running.returncode == 0, said
    assert said.count("sunny") == 4
    assert "Booked before, nothing done" in said
    assert "The books are right." in said
    assert (tmp_path / "usage.csv").read_text().count("Acme Web") >= 1


def test_every_link_of_the_guides_leads_somewhere() -> None:
    for name in ("getting-paid.md", "money-operations.md"):
        for link in re.findall(r"\]\(([^)#]+)", (PROJECT / "docs" / name).read_text()):
            assert (PROJECT / "docs" / link).exists(), link
