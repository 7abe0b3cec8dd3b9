"""The fuzzer of connections runs, briefly, from a fixed seed; and everybody takes part."""

from __future__ import annotations

import re

import fuzz_connections
import pytest
from fuzz_connections import COUNTED, EPOCH, Run, fuzz, main


async def test_fuzz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_connections, "EPOCH", 1500)
    seen = await fuzz(6000, 120, 7)
    assert seen["wild clients"] + seen["tame clients"] == 6000
    taking_part = (*COUNTED, "reloads", "silences", *(f"answers {n}xx" for n in range(1, 6)))
    assert {
        name: seen[name] for name in taking_part if seen[name] < (name != "silences") * 9 + 1
    } == {}


async def test_a_wrong_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a handler that damages what it echoes: who asked, all it sent, and how to run it again."""

    async def damaged(x) -> None:
        await x.respond(200, None, bytes(len(x.body)))

    monkeypatch.setattr(fuzz_connections, "echo", damaged)
    with pytest.raises(AssertionError) as failure:
        await fuzz(EPOCH, 120, 7)
    assert f"seed 7, epoch 0 of {EPOCH} connections" in failure.value.__notes__
    said = capfd.readouterr().err
    (number,) = re.findall(r"^tame client (\d+): a wrong echo$", said, re.MULTILINE)
    assert re.search(
        rf"^tame client {number} sent '.*POST /echo/\d+/\d+ HTTP/1.1", said, re.MULTILINE
    )


async def test_who_waits_for_ever_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody polls the engine: in the end all who may take part are tame, and wait."""
    monkeypatch.setattr(fuzz_connections, "polled", lambda engine: None)
    with pytest.raises(AssertionError):
        await fuzz(EPOCH, 120, 7)
    said = capfd.readouterr().err
    assert re.search(r"^tame client \d+: it waits for ever$", said, re.MULTILINE)


async def test_what_is_left_behind_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_connections, "SETTLES_S", 0.5)
    monkeypatch.setattr(Run, "alive", lambda self: {"buffers": 1})
    with pytest.raises(AssertionError, match=r"left behind: \{'buffers': 1\}"):
        await fuzz(20, 120, 5)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--connections", "20", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("seed 1\n20 connections, ")
    assert main(["--connections", "20", "--seed", "1", "--epoch", "3"]) == 0
    assert "20 connections, " in capsys.readouterr().out


def test_processes_share_the_connections(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--connections", "50", "--processes", "2", "--seed", "1"]) == 0
    said = capfd.readouterr().out
    assert sorted(re.findall(r"^seed (\d+)$", said, re.MULTILINE)) == ["1", "2"]
    assert said.count("25 connections, ") == 2
