"""The README is true: its console blocks are run against a real gateway and compared.

A ```console block is a transcript: lines that begin with "$ " are commands, the others what they
print. All blocks are run in order, in one shell beside a demonstration, as a reader would. What
differs from run to run (ids, times, ports) is levelled on both sides before the comparison, and
nothing else is.

    python tests/test_readme.py     write what is printed now into the README; then read the diff
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gatewaykit import PATIENCE, PROJECT, Gateway, eventually

from fastgate.configfile import load

README = PROJECT / "README.md"
TEXTS = sorted([README, PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

LEVELS = (
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"-[0-9a-f]{16}-", "-SPAN-"),
    (r"\bfg_\w+", "KEY"),
    (r"\b(con|crd)_\w+", r"\1_ID"),
    (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", "DATE"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"127\.0\.0\.1:(?!808[01]\b)\d+", "127.0.0.1:PORT"),
    (r"(Content-Length|Retry-After): \d+", r"\1: N"),
    (r'(;t=|"retry_after":)\d+', r"\1N"),
    (r"Try again in \d+ seconds?", "Try again in N"),
    (r"\bcap=[\w-]+", "cap=CAP"),
    (r"curl/[\d.]+", "curl/VERSION"),
    (r"\d+ in, \d+ out", "N in, N out"),
    (r"\d+\.\d{2,}", "N"),
    (r"worker \d", "worker N"),
    (r"─+", "─"),
    (r"  +", "  "),
)


def blocks(language: str) -> list[str]:
    return [text for name, text in FENCE.findall(README.read_text()) if name == language]


def transcript() -> list[tuple[str, str]]:
    """Commands and what the README says they print."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def level(text: str) -> str:
    for pattern, instead in LEVELS:
        text = re.sub(pattern, instead, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run_all(commands: list[str], running: Gateway, key: str) -> list[str]:
    """What each command printed, on both streams, in one shell."""
    host, port = running.address()
    control = running.control.removeprefix("http://")
    fastgate = running.folder / "fastgate"
    fastgate.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastgate "$@"\n')
    fastgate.chmod(0o755)
    (running.folder / ".curlrc").write_text("silent\nshow-error\n")  # as on a terminal
    environment = {
        **os.environ,
        "PATH": f"{running.folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "CURL_HOME": str(running.folder),
        "COLUMNS": "120",
        "LC_ALL": "C.UTF-8",
        "KEY": key,
        "FASTGATE_STATE_DIR": str(running.state),
        "FASTGATE_CONTROL": running.control,
    }
    script = "exec 2>&1\n" + "".join(
        f"printf '\\n\\001\\n'\n{command}\n".replace("127.0.0.1:8080", f"{host}:{port}")
        for command in commands
    )
    ran = subprocess.run(
        ["bash", "-c", script], cwd=running.folder, env=environment, stdout=subprocess.PIPE,
        timeout=4 * PATIENCE, text=True, check=False,
    )  # fmt: skip
    text = ran.stdout.replace(f"{host}:{port}", "127.0.0.1:8080")
    return text.replace(control, "127.0.0.1:8081").split("\n\001\n")[1:]


def printed_now(folder: Path) -> list[tuple[str, str, str]]:
    """Each command, what the README says it prints, and what it does print."""
    expected = transcript()
    ports = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    running = Gateway(None, folder, arguments=ports)
    try:
        running.wait_serving()
        shown = folder / "stdout"
        key = eventually(
            lambda: re.search(r"X-Api-Key: (fg_\w+)", shown.read_text()), "the key is printed"
        )[1]
        printed = run_all([command for command, _ in expected], running, key)
    finally:
        running.stop()
    assert len(printed) == len(expected)
    return [(*both, output) for both, output in zip(expected, printed, strict=True)]


def test_the_transcript_is_what_happens(tmp_path: Path) -> None:
    found = printed_now(tmp_path)
    assert len(found) > 10
    for command, says, output in found:
        assert level(output) == level(says), command


def test_the_configuration_it_shows_is_valid(tmp_path: Path) -> None:
    (shown,) = blocks("yaml")
    path = tmp_path / "fastgate.yaml"
    path.write_text(shown)
    loaded = load(path, environ={"DEMO_KEY": "a-key-to-try-it-with"})
    assert [route.name for route in loaded.gateway.routes] == ["orders"]
    assert not loaded.warnings


def test_what_it_says_to_make_can_be_made() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z -]+):.*##", makefile, re.MULTILINE))
    known = {name for target in targets for name in target.split()}
    named = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks("sh")), re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z]+)`", README.read_text()))
    assert {"run", "test"} <= named <= known


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(text: Path) -> None:
    prose = FENCE.sub("", text.read_text())
    for target in LINK.findall(prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (text.parent / path).resolve() if path else text
        assert file.exists(), target
        assert file.is_relative_to(PROJECT), target
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


def test_the_index_of_the_documentation_has_every_page() -> None:
    index = (PROJECT / "docs" / "README.md").read_text()
    pages = {path.name for path in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {target for target in LINK.findall(index) if "/" not in target}


def write(folder: Path) -> None:
    """Put what is printed now into the README, where it says anything else."""
    text = README.read_text()
    for command, says, output in printed_now(folder):
        if level(output) != level(says):
            clean = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
            text = text.replace(f"$ {command}\n{says}\n", f"$ {command}\n{clean}\n", 1)
    README.write_text(text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
