"""Commands that need no gateway: check, diff of files, schema, hash, new-key, completion."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from conftest import Cli

from fastgate.model.keys import is_key
from fastgate.model.values import KeyDigest

GOOD = """\
version: 1
upstreams: [{name: app, targets: "http://127.0.0.1:9000"}]
services: [{name: app, upstream: app}]
routes: [{name: all, path: "/{rest*}", service: app}]
"""
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_check(cli: Cli) -> None:
    Path("fastgate.yaml").write_text(GOOD)
    ran = cli("check")
    assert (ran.code, ran.out) == (0, "Valid: 1 listener, 1 route, 1 service, 1 upstream.\n")
    assert cli.done("check")["counts"]["routes"] == 1


def test_check_of_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("version: 1\nrutes: []\n"))
    ran = cli("check", "-")
    assert ran.code == 4
    assert "<stdin>:2: rutes: unknown key 'rutes'. Did you mean 'routes'?" in ran.err


def test_check_also_compiles(cli: Cli) -> None:
    """Two routes for the same requests are valid one by one; the compiler names both."""
    Path("a.yaml").write_text(
        GOOD.replace("routes: [", 'routes: [{name: two, path: "/{a*}", respond: 204}, ')
    )
    ran = cli("check", "a.yaml")
    assert ran.code == 4
    assert "a.yaml:4" in ran.err
    assert "two" in ran.err
    assert "all" in ran.err


def test_warnings_fail_only_when_asked(cli: Cli) -> None:
    Path("a.yaml").write_text(GOOD + "policies: [{name: unused}]\n")
    ran = cli("check", "a.yaml")
    assert ran.code == 0
    assert "nothing names it" in ran.err
    assert cli("check", "a.yaml", "--strict").code == 1
    assert cli.done("check", "a.yaml")["warnings"][0]["line"] == 5


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*ml")), ids=lambda path: path.name)
def test_the_examples_are_valid(cli: Cli, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_KEY", "demo-key-1")
    monkeypatch.syspath_prepend(EXAMPLES)
    ran = cli("check", str(path), "--strict")
    assert ran.code == 0, ran.err


def test_diff_of_two_files(cli: Cli) -> None:
    Path("a.yaml").write_text(GOOD)
    Path("b.json").write_text(json.dumps({"version": 1}))
    ran = cli("diff", "a.yaml", "b.json")
    assert ran.code == 0
    assert [line.partition(":")[0] for line in ran.out.splitlines()] == [
        "- upstreams[app]",
        "- services[app]",
        "- routes[all]",
    ]
    assert cli("diff", "a.yaml", "a.yaml", "--exit-code").code == 0
    assert cli("diff", "a.yaml", "b.json", "--exit-code").code == 1


def test_schema(cli: Cli) -> None:
    assert cli("schema").data["$defs"]["Route"]


def test_hash(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a-key-in-clear\n"))
    assert cli("hash").out.strip() == str(KeyDigest.of("a-key-in-clear"))
    ran = cli("hash", "short")
    assert ran.code == 2
    assert "8 to 512" in ran.err


def test_new_key(cli: Cli) -> None:
    made = cli.done("new-key", "--environment", "test")
    assert is_key(made["key"])
    assert made["key"].startswith("fg_test_")
    assert made["digest"] == str(KeyDigest.of(made["key"]))
    assert cli("new-key", "--environment", "Not Good").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(cli: Cli, shell: str) -> None:
    ran = cli("completion", shell)
    assert ran.code == 0
    assert f"_FASTGATE_COMPLETE={shell}_complete" in ran.out


def test_completion_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import get_completion_class

    from fastgate.cli.app import root

    kind = get_completion_class("bash")
    assert kind is not None
    found = kind(root, {}, "fastgate", "_FASTGATE_COMPLETE").get_completions(["keys"], "re")
    assert [item.value for item in found] == ["revoke"]
