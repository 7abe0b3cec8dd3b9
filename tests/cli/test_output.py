"""How output looks: words stay whole at any width, and colors are for those who want them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Gateway

from fastgate import settings
from fastgate.cli import output

COMMANDS = [
    ("status",), ("consumers", "list"), ("tokens", "list"), ("keys", "list", "demo"),
    ("revisions", "list"),
]  # fmt: skip


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_word_is_broken(
    cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, command: Any, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    wide = cli(*command)
    assert wide.code == 0, wide.err
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = cli(*command)
    missing = set(wide.out.replace("─", " ").split()) - set(narrow.out.split())
    assert not {word for word in missing if word != "0.0"}


def test_status_fits_a_terminal_of_80_columns(
    cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heading = next(line for line in cli("status").out.splitlines() if line.startswith("worker"))
    assert heading.split() == (
        ["worker", "pid", "state", "clients", "in", "flight", "pooled", "memory", "restarts"]
    )


def test_a_row_is_a_block_where_a_table_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    output.table(("name", "digest"), [("a", "0123456789abcdef"), ("b", None)], "none")
    assert capsys.readouterr().out == (
        "name    a\ndigest  0123456789abcdef\n\nname    b\ndigest  -\n"
    )


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        ({"NO_COLOR": ""}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, True),
    ],
)
def test_who_wants_colors(environ: dict[str, str], wanted: bool | None) -> None:
    assert settings.color(environ) is wanted


@pytest.mark.parametrize("document", ["version: 1", "version: 2"])
@pytest.mark.parametrize(
    ("environ", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_no_color_is_honored_on_a_terminal(
    tmp_path: Path, document: str, environ: dict[str, str], colored: bool
) -> None:
    (tmp_path / "fastgate.yaml").write_text(document)
    assert (b"\x1b[" in on_a_terminal(["check"], tmp_path, environ)) is colored


def on_a_terminal(arguments: list[str], folder: Path, environ: dict[str, str]) -> bytes:
    """What a command prints on a terminal, both streams."""
    ours, theirs = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgate", *arguments],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env={**inherited, "TERM": "xterm", **environ},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    process.wait(60)
    return said
