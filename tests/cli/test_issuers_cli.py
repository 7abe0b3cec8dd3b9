"""Issuers from the command line: listed, refreshed, and checked with their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli, Gateway
from providerkit import SigningKey

CONFIG = """\
version: 1
issuers:
  - {{name: svc, issuer: svc, keys: "path:{keys}"}}
  - {{name: shared, issuer: shared, secret: "env:SHARED"}}
"""


def test_list(cli: Cli, gateway: Gateway) -> None:
    ran = cli("issuers", "list")
    assert ran.code == 1  # one has no keys
    corp, broken, svc = ran.out.splitlines()[2:5]
    for text in ("corp", "https://id.example.com", "discovery", "ok", "2026-09-21 15:13:20Z"):
        assert text in corp
    assert "missing" in broken
    assert "path:/etc/svc.json" in svc
    assert "broken: it answered 503. No keys are known, so its tokens are refused." in ran.err
    assert "broken: the key 'e' is for encryption" in ran.err
    listed = cli("issuers", "list", "--json")
    assert (listed.code, [each["name"] for each in listed.data]) == (1, ["corp", "broken", "svc"])


def test_list_where_all_is_well(
    cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = gateway.world.control
    well = [each for each in control.issuers() if each.state == "ok"]
    monkeypatch.setattr(control, "issuers", lambda: well)
    assert cli("issuers", "list").code == 0
    monkeypatch.setattr(control, "issuers", list)
    ran = cli("issuers", "list")
    assert (ran.code, ran.out) == (0, "The configuration has no issuers.\n")


def test_keys(cli: Cli, gateway: Gateway) -> None:
    ran = cli("issuers", "list", "--keys")
    first, second = ran.out.splitlines()[2:4]
    for text in ("corp", "k1", "RSA 2048", "RS256"):
        assert text in first
    assert "svc" in second


def test_refresh(cli: Cli, gateway: Gateway) -> None:
    ran = cli("issuers", "refresh", "corp")
    assert (ran.code, ran.out) == (0, "corp: 1 key, fetched again at 2026-09-21 15:13:20Z\n")
    assert cli.done("issuers", "refresh", "corp")["name"] == "corp"
    assert gateway.world.control.refreshed == ["corp", "corp"]
    failed = cli("issuers", "refresh", "broken")
    assert (failed.code, "it answered 503" in failed.err) == (1, True)
    assert cli("issuers", "refresh", "a/b").code == 1


# ---- check ------------------------------------------------------------------------------


def write(tmp_path: Path, *keys: dict[str, object]) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": list(keys)}))
    Path("fastgate.yaml").write_text(CONFIG.format(keys=file))


def test_check_reads_keys_and_secrets(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED", "s" * 32)
    write(tmp_path, SigningKey("a").jwk(), SigningKey("b").jwk(use="enc"))
    ran = cli("check")
    assert ran.code == 0
    assert "the key 'b' is for encryption" in ran.err
    assert "fastgate.yaml:3" in ran.err
    assert cli("check", "--strict").code == 1


def test_check_says_everything_that_cannot_be_used(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED", "too-short")
    write(tmp_path, SigningKey("a").jwk(use="enc"))
    ran = cli("check")
    assert ran.code == 4
    assert "issuers[0].keys" in ran.err
    assert "it has no key that can be used" in ran.err
    assert "issuers[1].secret" in ran.err
    assert "needs at least 32" in ran.err
    assert "too-short" not in ran.err
    assert "fastgate.yaml:4" in ran.err
    assert cli("check", "--no-files").code == 0
