"""The guide to validation: what it says to write is what works, and what it shows is the answer."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml
from gatewaykit import PROJECT, Gateway

Start = Callable[..., Gateway]
GUIDE = (PROJECT / "docs" / "validation.md").read_text()
CONFIG, DESCRIPTION = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)[:2]
COMMAND = re.findall(r"```sh\n(.*?)```", GUIDE, re.S)[0]
ANSWER = json.loads(re.findall(r"```json\n(.*?)```", GUIDE, re.S)[0])


def test_the_refusal_of_the_guide(gateway: Start, tmp_path: Path) -> None:
    path = tmp_path / "openapi.yaml"
    path.write_text(DESCRIPTION)
    config = yaml.safe_load(CONFIG)
    assert config["services"][0].pop("validate") == path.name
    config["services"][0]["validate"] = str(path)
    running = gateway(config)
    host, port = running.address()
    command = COMMAND.replace("localhost:8080", f"{host}:{port}")
    said = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    answer = json.loads(said.stdout)
    assert answer.pop("instance")[:-32] == ANSWER["instance"][:-32]
    assert answer == {name: value for name, value in ANSWER.items() if name != "instance"}
    assert list(answer) == [name for name in ANSWER if name != "instance"]
