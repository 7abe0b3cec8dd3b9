"""The root command: what it lists, how it fails, how quick it is to load."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from conftest import Cli

from fastgate.cli.app import ENTRIES, root
from fastgate.cli.output import table


def every(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from every(inner, click.Context(inner, context, name))
    else:
        yield context.command_path, command


ROOT = click.Context(root, info_name="fastgate", **root.context_settings)
COMMANDS = dict(every(root, ROOT))


def test_the_help_lists_every_command(cli: Cli) -> None:
    ran = cli("--help")
    assert ran.code == 0
    for name, entry in ENTRIES.items():
        assert f"\n  {name} " in ran.out
        assert entry.short in ran.out


@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = root.get_command(ROOT, name)
    assert command is not None
    assert command.name == name
    first = (command.help or "").strip().partition(".")[0].replace("\n", " ")
    assert command.short_help in (None, ENTRIES[name].short)
    assert ENTRIES[name].short.rstrip(".").split()[0] == first.split()[0]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_help_teaches(cli: Cli, path: str) -> None:
    ran = cli(*path.split()[1:], "--help")
    assert ran.code == 0
    command = COMMANDS[path]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            assert parameter.help or parameter.show_default, f"{path} {parameter.opts}"
    assert "fastgate" in (command.help or "") or path.endswith((" version", " run")), path


@pytest.mark.parametrize("path", COMMANDS)
def test_json_everywhere_that_there_is_data(path: str) -> None:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    prints_as_is = {"run", "schema", "completion", "payments"}
    assert ("--json" in options) != (path.split()[-1] in prints_as_is)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["check", "--nope"], "No such option"),
        (["keys", "revoke", "demo"], "Missing argument"),
        (["explain"], "Missing argument"),
        (["completion", "tcsh"], "is not one of"),
    ],
)
def test_wrong_use_exits_2_and_says_where_help_is(
    cli: Cli, arguments: list[str], words: str
) -> None:
    ran = cli(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert words in ran.err
    assert "--help'" in ran.err


def test_errors_are_json_where_results_are(cli: Cli) -> None:
    ran = cli("check", "missing.yaml", "--json")
    assert (ran.code, ran.out) == (4, "")
    (fault,) = json.loads(ran.err)["error"]["errors"]
    assert fault["file"] == "missing.yaml"
    ran = cli("keys", "revoke", "--json")
    assert (ran.code, json.loads(ran.err)["error"]["kind"]) == (2, "usage")


def test_no_gateway_exits_3_and_says_what_to_set(cli: Cli) -> None:
    ran = cli("status", "--control", "http://127.0.0.1:1")
    assert ran.code == 3
    assert "FASTGATE_CONTROL" in ran.err


def test_nothing_asked_for_is_the_help_and_no_error_message(cli: Cli) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: fastgate")


def test_version(cli: Cli) -> None:
    assert cli("--version").out == cli("version").out
    found = cli.done("version")
    assert list(found) == ["version", "python", "uvloop", "openssl", "system", "machine"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["openssl"])
    assert f"OpenSSL {found['openssl']}" in cli("--version").out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fastgate.cli.app import execute; execute(['--help']); "
        "print([m for m in ('rich', 'yaml', 'msgspec', 'litestar', 'sqlalchemy', 'uvloop', "
        "'asyncio', 'http.client') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "fastgate", "version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("fastgate ")


@pytest.mark.parametrize("unbuffered", ["", "1"])  # which hides a broken pipe from the writer
def test_a_reader_that_has_enough_is_no_error(unbuffered: str) -> None:
    command = f"{sys.executable} -m fastgate schema | head -n 1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "{\n"


class Unread(io.StringIO):
    def write(self, text: str) -> int:
        if text:
            raise BrokenPipeError
        return 0


def test_a_table_says_that_its_reader_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Unread())
    with pytest.raises(BrokenPipeError):
        table(["name"], [["one"]], "none")
