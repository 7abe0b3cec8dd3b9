"""Commands that speak to a gateway, against the real control API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Gateway

from fastgate.model.codec import decode, encode
from fastgate.model.values import KeyDigest


@pytest.fixture
def config(gateway: Gateway, tmp_path: Path) -> dict[str, Any]:
    """The document that is served, also as fastgate.yaml."""
    data: dict[str, Any] = encode(gateway.world.control.gateway)
    write(data)
    return data


def write(data: dict[str, Any]) -> None:
    Path("fastgate.yaml").write_text(json.dumps(data))


def test_status(cli: Cli, gateway: Gateway) -> None:
    ran = cli("status")
    assert ran.code == 0
    assert "is ready, generation 1" in ran.out
    assert "4000" in ran.out
    assert "8.6 MiB" in ran.out
    assert cli.done("status")["workers"][0]["pid"] == 4000


def test_status_that_is_not_ready_exits_1_and_says_why(cli: Cli, gateway: Gateway) -> None:
    gateway.world.control.reasons = ["worker 1 serves generation 0"]
    ran = cli("status")
    assert ran.code == 1
    assert "worker 1 serves generation 0" in ran.out


def test_diff_against_what_is_served(cli: Cli, config: dict[str, Any]) -> None:
    assert cli("diff").out == "No difference.\n"
    config["routes"][0]["methods"] = ["GET", "POST"]
    write(config)
    ran = cli("diff")
    assert (ran.code, ran.out) == (0, "+ routes[read].methods[1]: POST\n")
    assert cli("diff", "--exit-code").code == 1
    assert cli("diff", "--json").data[0]["path"] == "routes[read].methods[1]"


def test_a_viewer_sees_no_difference_in_digests_that_are_cut(
    cli: Cli, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTGATE_TOKEN", "grafana-token-1")
    assert cli("diff").out == "No difference.\n"


def test_apply(cli: Cli, gateway: Gateway, config: dict[str, Any]) -> None:
    config["drain_timeout"] = "5s"
    write(config)
    dry = cli("apply", "--dry-run")
    assert dry.code == 0
    assert "Nothing was changed" in dry.out
    assert gateway.world.control.generation == 1
    ran = cli("apply")
    assert ran.code == 0, ran.err
    assert "+ drain_timeout: 5s" in ran.out
    assert "generation 2" in ran.out
    assert str(gateway.world.control.gateway.drain_timeout) == "5s"
    assert cli.done("apply")["generation"] == 2


def test_a_file_from_elsewhere_is_applied_with_the_token_that_is_here(
    cli: Cli, gateway: Gateway, config: dict[str, Any]
) -> None:
    Path("staged").mkdir()
    Path("staged/new.yaml").write_text(json.dumps({**config, "drain_timeout": "7s"}))
    ran = cli("apply", "staged/new.yaml")
    assert ran.code == 0, ran.err
    assert "+ drain_timeout: 7s" in ran.out


def test_apply_says_what_the_gateway_finds_wrong(
    cli: Cli, gateway: Gateway, config: dict[str, Any]
) -> None:
    from fastgate.errors import ApplyError, ConfigurationError

    config["drain_timeout"] = "5s"
    write(config)
    gateway.world.control.refuse = ConfigurationError("two routes are the same", "routes[1]")
    ran = cli("apply")
    assert ran.code == 4
    assert "routes[1]: two routes are the same" in ran.err
    ran = cli("apply", "--json")
    assert json.loads(ran.err)["error"]["errors"][0]["path"] == "routes[1]"
    gateway.world.control.refuse = ApplyError("worker 0 did not take it")
    ran = cli("apply")
    assert ran.code == 1
    assert "worker 0 did not take it" in ran.err


def test_maintenance(cli: Cli, gateway: Gateway) -> None:
    assert cli("maintenance", "list").out == "Nothing is closed for maintenance.\n"
    ran = cli("maintenance", "on", "read", "--message", "Back soon.", "--allow", "10.0.0.0/8")
    assert ran.code == 0, ran.err
    assert "+ routes[read].maintenance" in ran.out
    assert "Every worker serves generation 2" in ran.out
    (route,) = [one for one in gateway.world.control.gateway.routes if one.name == "read"]
    assert route.maintenance is not None
    assert (route.maintenance.enabled, route.maintenance.message) == (True, "Back soon.")
    shown = cli("maintenance", "list").out
    assert "read" in shown
    assert "closed" in shown
    assert "10.0.0.0/8" in shown
    dry = cli("maintenance", "off", "read", "--dry-run")
    assert "Nothing was changed" in dry.out
    assert cli("maintenance", "off", "read").code == 0
    (route,) = [one for one in gateway.world.control.gateway.routes if one.name == "read"]
    assert route.maintenance is not None
    assert (route.maintenance.enabled, route.maintenance.message) == (False, "Back soon.")
    assert "open" in cli("maintenance", "list").out


def test_maintenance_of_the_whole_gateway(cli: Cli, gateway: Gateway) -> None:
    assert cli("maintenance", "on", "--all", "--retry-after", "10m").code == 0
    whole = gateway.world.control.gateway.maintenance
    assert whole is not None
    assert str(whole.retry_after) == "10m"
    assert "(all routes)" in cli("maintenance", "list").out
    assert cli.done("maintenance", "list")["gateway"]["enabled"] is True
    assert cli.done("maintenance", "off", "--all")["maintenance"]["gateway"]["enabled"] is False


def test_maintenance_of_what_is_said_clearly(cli: Cli, gateway: Gateway) -> None:
    for wrong in (("on",), ("off", "read", "--all"), ("on", "read", "--all")):
        ran = cli("maintenance", *wrong)
        assert ran.code == 2
        assert "Name routes, or give --all" in ran.err
    ran = cli("maintenance", "on", "raed")
    assert ran.code == 1
    assert "Did you mean 'read'?" in ran.err


def test_reload(cli: Cli, gateway: Gateway) -> None:
    from fastgate.errors import ConfigurationError

    ran = cli("reload")
    assert ran.code == 0
    assert "Every worker serves generation 2" in ran.out
    gateway.world.control.file = ConfigurationError("broken", "routes", 7, file="/etc/gw.yaml")
    ran = cli("reload")
    assert ran.code == 4
    assert "/etc/gw.yaml:7: routes: broken" in ran.err
    ran = cli("reload", "--json")
    assert json.loads(ran.err)["error"]["errors"][0]["file"] == "/etc/gw.yaml"


def test_what_waits_for_a_restart_and_what_a_file_drops_is_said(
    cli: Cli, gateway: Gateway, config: dict[str, Any]
) -> None:
    config["workers"] = 7
    write(config)
    assert "Pending a restart of the gateway: workers." in cli("apply").out
    assert cli.done("apply")["pending_restart"] == ["workers"]
    gateway.world.control.file = decode({**config, "workers": "auto", "drain_timeout": "9s"})
    ran = cli("reload")
    assert "undoes these changes that were made through the API:\n+ workers: 7\n" in ran.out, (
        ran.out
    )
    assert "Pending" not in ran.out


def test_revisions(cli: Cli, gateway: Gateway, config: dict[str, Any]) -> None:
    for timeout in ("5s", "6s"):
        config["drain_timeout"] = timeout
        write(config)
        cli.done("apply")
    found = cli.done("revisions", "list")
    newest, before = found[0]["number"], found[1]["number"]
    assert "admin" in cli("revisions", "list").out
    assert cli("revisions", "diff", str(newest)).out == "~ drain_timeout: 5s -> 6s\n"
    shown = cli("revisions", "show", str(before))
    assert "drain_timeout: 5s" in shown.out
    ran = cli("revisions", "rollback", str(before))
    assert ran.code == 0, ran.err
    assert "~ drain_timeout: 6s -> 5s" in ran.out
    assert cli("revisions", "show", "99").code == 1


def test_consumers_and_keys(cli: Cli, gateway: Gateway) -> None:
    made = cli.done("consumers", "create", "Acme Web", "--plan", "free")
    assert made["plan"] == "free"
    ran = cli("keys", "create", "Acme Web", "--label", "site", "--expires", "90d")
    key = ran.out.strip()
    assert gateway.world.reason_for(key) == 0
    assert "shown only now" in ran.err
    (listed,) = cli.done("keys", "list", "Acme Web")
    assert listed["label"] == "site"
    assert listed["expires_at"]
    assert key not in cli("keys", "list", "Acme Web").out
    ran = cli("keys", "rotate", "Acme Web", listed["id"], "--overlap", "1h")
    second = ran.out.strip()
    assert (gateway.world.reason_for(key), gateway.world.reason_for(second)) == (0, 0)
    assert cli("keys", "revoke", "Acme Web", listed["id"]).code == 0
    assert gateway.world.reason_for(key) not in (0, None)
    assert gateway.world.reason_for(second) == 0
    assert "suspended" in cli("consumers", "suspend", "Acme Web").out
    assert gateway.world.reason_for(second) != 0
    assert "active" in cli("consumers", "resume", "Acme Web").out
    assert cli.done("consumers", "plan", "Acme Web", "none")["plan"] is None
    names = [one["name"] for one in cli.done("consumers", "list")]
    assert names == ["demo", "Acme Web"]
    assert "free-of-demo" in cli("consumers", "limits", "demo").out
    assert cli("consumers", "delete", "Acme Web", "--yes").code == 0
    assert cli("consumers", "show", "Acme Web").code == 1


def test_a_key_from_elsewhere(cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    cli.done("consumers", "create", "moved")
    monkeypatch.setattr("sys.stdin", io.StringIO("key-of-the-old-gateway\n"))
    assert cli("keys", "import", "moved").code == 0
    assert gateway.world.reason_for("key-of-the-old-gateway") == 0


def test_tokens(cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cli("tokens", "create", "ci", "--role", "viewer").out.strip()
    (listed,) = cli.done("tokens", "list")
    assert listed["label"] == "ci"
    with monkeypatch.context() as patch:
        patch.setenv("FASTGATE_TOKEN", token)
        assert cli("status").code == 0
        ran = cli("reload")
        assert ran.code == 1
        assert "needs the role operator" in ran.err
    assert cli("tokens", "delete", listed["id"]).code == 0
    monkeypatch.setenv("FASTGATE_TOKEN", token)
    assert cli("status").code == 1


REQUEST = {
    "id": "0af7651916cd43dd8448eb211c80319c", "time": "2026-11-20T12:00:00.000000Z",
    "outcome": "refused", "status": 429, "reason": "rate_limited", "fault": None,
    "client": "127.0.0.1", "port": 5000, "method": "GET", "host": "api.example.com",
    "path": "/orders/7", "route": "read", "consumer": "demo", "target": None, "limit": "burst",
    "attempts": 0, "bytes_in": 100, "bytes_out": 300, "duration_us": 42, "upstream_us": 0,
    "trace": None, "worker": 1, "generation": 3,
    "phases": [{"name": "read_head", "start_us": 0, "duration_us": 30},
               {"name": "admit", "start_us": 30, "duration_us": 12}],
}  # fmt: skip


def test_explain(cli: Cli, gateway: Gateway) -> None:
    gateway.world.control.requests[REQUEST["id"]] = REQUEST
    ran = cli("explain", f"urn:fastgate:request:{REQUEST['id']}")
    assert ran.code == 0, ran.err
    for words in ("GET /orders/7", "refused, 429", "Too many requests.", "burst", "admit", "0.030"):
        assert words in ran.out
    assert "127.0.0.1:5000\n" in ran.out
    assert cli.done("explain", str(REQUEST["id"]))["reason"] == "rate_limited"
    over_tls = {**REQUEST, "tls": True, "client_certificate": True}
    gateway.world.control.requests[REQUEST["id"]] = over_tls
    ran = cli("explain", str(REQUEST["id"]))
    assert "127.0.0.1:5000, over TLS, with a client certificate\n" in ran.out
    assert cli("explain", "f" * 32).code == 1
    assert cli("explain", "nonsense").code == 2


def test_drain_asks_first(cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert cli("drain").code == 1
    assert not gateway.world.control.drained
    assert cli("drain", "--yes").code == 0
    assert gateway.world.control.drained


def test_lists_are_read_to_their_end(cli: Cli, gateway: Gateway) -> None:
    from fastgate.cli.options import client_of

    for number in range(7):
        cli.done("consumers", "create", f"c{number}")
    client = client_of(None, None)
    names = [one["name"] for one in client.pages("/v1/consumers", limit=3)]
    assert names == ["demo", *(f"c{number}" for number in range(7))]


def test_no_token_and_a_wrong_one(
    cli: Cli, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = cli("status", "--state-dir", str(tmp_path / "elsewhere"))
    assert ran.code == 1
    assert "Set FASTGATE_TOKEN" in ran.err
    monkeypatch.setenv("FASTGATE_TOKEN", "wrong-token")
    ran = cli("status", "--json")
    assert ran.code == 1
    assert json.loads(ran.err)["error"]["problem"]["reason"] == "unauthenticated"


def test_the_digest_of_a_seed_key_is_what_is_served(gateway: Gateway) -> None:
    served = encode(gateway.world.control.gateway)["consumers"][0]["keys"]
    assert served == [str(KeyDigest.of("demo-key-0123456789"))]
