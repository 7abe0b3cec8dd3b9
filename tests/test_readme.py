"""The README and the guides are true: their console blocks are run against a real gateway.

A ```console block is a transcript: lines that begin with "$ " are commands, the others what they
print. The blocks of a page are run in order, in one shell, as a reader would: beside the
demonstration, and below a page's first ```yaml block beside a gateway that serves it. What differs
from run to run (ids, times, ports) is made equal on both sides before the comparison, and nothing
else is.

    python tests/test_readme.py     write what is printed now into the pages; then read the diff
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gatewaykit import PATIENCE, PROJECT, Gateway, Upstream, eventually

from fastgate.config.file import load
from fastgate.demo.environment import free_port

README = PROJECT / "README.md"
GUIDE = PROJECT / "docs" / "getting-started.md"
PAGES = [README, GUIDE]
TEXTS = sorted([README, PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

LEVELS = (
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"-[0-9a-f]{16}-", "-SPAN-"),
    (r"\bfg_\w+", "KEY"),
    (r"\b(acc|con|crd)_\w+", r"\1_ID"),
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


def blocks(language: str, text: str) -> list[str]:
    return [block for name, block in FENCE.findall(text) if name == language]


def parts(page: Path) -> list[tuple[str | None, str]]:
    """A page's text, parted where the gateway changes: what it serves (None: the demonstration),
    and the text with the blocks that are run beside it."""
    text = page.read_text()
    (config,) = blocks("yaml", text)
    before, after = text.split(f"```yaml\n{config}```\n")
    return [(None, before), (config, after)]


def transcript(text: str) -> list[tuple[str, str]]:
    """Commands and what the text says they print."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks("console", text):
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


def start(config: str | None, folder: Path, upstream: str) -> tuple[Gateway, str]:
    """A gateway on free ports, and the key that a demonstration printed."""
    if config is None:
        ports = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
        running = Gateway(None, folder, arguments=ports).wait_serving()
        shown = folder / "stdout"
        found = eventually(
            lambda: re.search(r"X-Api-Key: (fg_\w+)", shown.read_text()), "the key is printed"
        )
        return running, found[1]
    own = config.replace("http://127.0.0.1:9000", upstream)
    own += 'listeners: [{name: public, bind: "127.0.0.1:0"}]\ncontrol: {bind: "127.0.0.1:0"}\n'
    return Gateway(own, folder).wait_serving(), ""


def printed_now(page: Path, folder: Path) -> list[tuple[str, str, str]]:
    """Each command, what the page says it prints, and what it does print."""
    found = []
    upstream = Upstream()
    try:
        for number, (config, text) in enumerate(parts(page)):
            expected = transcript(text)
            if not expected:
                continue
            place = folder / str(number)
            place.mkdir()
            running, key = start(config, place, upstream.url)
            try:
                running.api("/v1/accounts")  # which waits for the store
                printed = run_all([command for command, _ in expected], running, key)
            finally:
                running.stop()
            assert len(printed) == len(expected)
            found += [(*both, out) for both, out in zip(expected, printed, strict=True)]
    finally:
        upstream.stop()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_transcript_is_what_happens(page: Path, tmp_path: Path) -> None:
    found = printed_now(page, tmp_path)
    assert len(found) > 5
    for command, says, output in found:
        assert level(output) == level(says), command


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_configuration_it_shows_is_valid(page: Path, tmp_path: Path) -> None:
    (shown,) = blocks("yaml", page.read_text())
    path = tmp_path / "fastgate.yaml"
    path.write_text(shown)
    loaded = load(path, environ={"DEMO_KEY": "a-key-to-try-it-with"})
    assert len(loaded.gateway.routes) == 1
    assert not loaded.warnings


def test_the_readme_is_short() -> None:
    """A reader decides in a few minutes; what is longer belongs to a guide."""
    assert len(README.read_text().split()) <= 950


def test_the_commands_that_start_your_own_configuration_work(tmp_path: Path) -> None:
    """Those below the README's configuration, as they are but for the ports and the directory."""
    text = README.read_text()
    (config,) = blocks("yaml", text)
    setup, commands = blocks("sh", text)[-2:]
    folder = tmp_path / "shop"
    upstream = str(free_port())
    (tmp_path / "bin").mkdir()
    fastgate = tmp_path / "bin" / "fastgate"
    fastgate.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastgate "$@"\n')
    fastgate.chmod(0o755)
    config = config.replace("9000", upstream)
    config += 'listeners: [{name: public, bind: "127.0.0.1:0"}]\ncontrol: {bind: "127.0.0.1:0"}\n'
    script = "\n".join(
        (
            "set -e",
            setup.replace("$PWD/.venv", str(tmp_path)).replace("/tmp/shop", str(folder)),
            f"cat > fastgate.yaml <<'END'\n{config}END",
            commands.replace("9000", upstream),
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("FASTGATE_STATE_DIR", None)
    running = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = running.communicate(timeout=4 * PATIENCE)
    finally:
        os.killpg(running.pid, signal.SIGTERM)  # the gateway and the upstream
    assert (running.returncode, printed) == (0, "")
    assert "is ready" in (folder / "status.log").read_text()


def test_what_it_says_to_make_can_be_made() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z -]+):.*##", makefile, re.MULTILINE))
    known = {name for target in targets for name in target.split()}
    named = set(
        re.findall(r"^make ([a-z]+)", "\n".join(blocks("sh", README.read_text())), re.MULTILINE)
    )
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


def test_how_to_change_things_names_files_only_as_links() -> None:
    """So that the test above finds a file that was moved."""
    prose = LINK.sub("", (PROJECT / "docs" / "changing-things.md").read_text())
    assert re.findall(r"[\w./-]+\.(?:pyx?|pxd|pyi|md|toml|yaml)\b", prose) == []


def test_the_index_of_the_documentation_has_every_page() -> None:
    index = (PROJECT / "docs" / "README.md").read_text()
    pages = {path.name for path in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {target for target in LINK.findall(index) if "/" not in target}


def write(page: Path, folder: Path) -> None:
    """Put what is printed now into a page, where it says anything else."""
    text = page.read_text()
    for command, says, output in printed_now(page, folder):
        if level(output) != level(says):
            clean = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
            old = f"$ {command}\n{says}\n" if says else f"$ {command}\n"
            text = text.replace(old, f"$ {command}\n{clean}\n" if clean else f"$ {command}\n", 1)
    page.write_text(text)


if __name__ == "__main__":
    for shown in PAGES:
        with tempfile.TemporaryDirectory() as name:
            write(shown, Path(name))
