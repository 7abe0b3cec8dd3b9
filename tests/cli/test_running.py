"""Which gateway a command speaks to: the one that runs with the state directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgate import settings


def write(state: Path, pid: int, control: str) -> None:
    state.mkdir(exist_ok=True)
    running = {"pid": pid, "generation": 1, "listeners": {}, "control": control}
    (state / settings.RUNNING).write_text(json.dumps(running))


def gone() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def alone(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway whose address no variable tells."""
    monkeypatch.delenv("FASTGATE_CONTROL")
    return gateway


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_address_comes_from_the_state_directory(
    cli: Any, alone: Any, tmp_path: Path, scheme: str
) -> None:
    write(tmp_path / "state", os.getpid(), scheme + alone.control.removeprefix("http://"))
    ran = cli("consumers", "list", "--state-dir", str(tmp_path / "state"))
    assert "No token was found" in ran.err  # it was reached; the directory has no token


def test_of_the_directory_beside_the_configuration(cli: Any, alone: Any, tmp_path: Path) -> None:
    write(tmp_path / settings.STATE_DIR, os.getpid(), alone.control)
    assert cli("consumers", "list").code == 0


def test_what_is_given_comes_first(
    cli: Any, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / settings.STATE_DIR, os.getpid(), "127.0.0.1:1")
    assert cli("consumers", "list").code == 3
    assert cli("consumers", "list", "--control", alone.control).code == 0
    monkeypatch.setenv("FASTGATE_CONTROL", alone.control)
    assert cli("consumers", "list").code == 0


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the default address."""
    setting = settings.BY_NAME["control"]._replace(default="http://127.0.0.1:1")
    monkeypatch.setitem(settings.BY_NAME, "control", setting)


@pytest.mark.usefixtures("nothing_there")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "control": "a"}', '{"pid": 1}'])
def test_a_file_that_says_nothing_is_as_none(cli: Any, tmp_path: Path, text: str) -> None:
    state = tmp_path / settings.STATE_DIR
    state.mkdir()
    (state / settings.RUNNING).write_text(text)
    ran = cli("status")
    assert ran.code == 3
    assert "No gateway runs with the state directory .fastgate. Start it, or name" in ran.err


@pytest.mark.usefixtures("nothing_there")
def test_a_gateway_that_has_ended_is_named(cli: Any, tmp_path: Path) -> None:
    pid = gone()
    write(tmp_path / settings.STATE_DIR, pid, "127.0.0.1:1")
    ran = cli("status")
    assert ran.code == 3
    assert f"the state directory .fastgate (process {pid}) no longer runs" in ran.err
    assert "--state-dir or --control" in ran.err
