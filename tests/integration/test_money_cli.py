"""The commands of money against a real gateway, from an account to its audited books."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from conftest import StartGateway
from gatewaykit import PROJECT, Gateway, Upstream, fetch
from paidkit import paid_config, settled

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def paid(gateway: StartGateway, upstream: Upstream) -> Gateway:
    plans = [
        {"name": "business", "price": {"per_request": "0.01 USD"}},
        {"name": "large", "price": {"per_request": "0.002 USD", "flat": "10 USD"}},
        {"name": "huge", "price": {"per_request": "0.001 USD", "flat": "50 USD"}},
    ]
    running = gateway(paid_config(upstream, plans=plans))
    assert running.api("/v1/accounts").status == 200  # the store is there: commands do not wait
    return running


@pytest.fixture
def run(paid: Gateway) -> Run:
    """Run a command line in a process of its own; exit code and JSON (or text)."""

    def execute(*arguments: str, text: bool = False, stdin: str = "") -> tuple[int, Any]:
        command = [sys.executable, "-m", "fastgate", *arguments]
        if "simulate" not in arguments:
            command += ["--control", paid.control, "--state-dir", str(paid.state)]
        if not text:
            command.append("--json")
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=paid.folder,
            env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", "COLUMNS": "220"},
            timeout=60,
        )
        assert done.returncode in (0, 1), done.stderr
        if text or not done.stdout:
            return done.returncode, done.stdout or done.stderr
        return done.returncode, json.loads(done.stdout)

    return execute


def done(result: tuple[int, Any]) -> Any:
    code, data = result
    assert code == 0, data
    return data


def test_from_an_account_to_audited_books(paid: Gateway, run: Run) -> None:
    account = done(run("accounts", "create", "Acme"))["id"]
    done(run("accounts", "billing", "Acme", "--email", "a@acme.example"))
    done(run("consumers", "create", "Acme Web", "--account", "Acme"))
    key = done(run("keys", "create", "Acme Web"))["key"]
    headers = {"X-Api-Key": key}

    code, why = run("why", "-", "--route", "paid", stdin=f"{key}\n")
    assert (code, why["reason"]) == (1, "insufficient_balance")
    refused = fetch(paid.address(), "/", headers=headers)
    assert refused.status == 402
    ident = refused.json["instance"]
    explained = done(run("explain", ident))
    assert explained["diagnosis"]["cause"] == "balance"
    assert "Top up" in done(run("explain", ident, text=True))

    first = done(run("wallets", "credit", "Acme", "0.03 USD", "--key", "t1", "--reference", "t1"))
    again = done(run("wallets", "credit", "Acme", "0.03 USD", "--key", "t1", "--reference", "t1"))
    assert (first["fresh"], first["entry"]["id"]) == (True, "pay:manual:t1")
    assert again["entry"] == first["entry"]
    assert done(run("why", "Acme Web", "--consumer", "--route", "paid"))["served"]
    assert [fetch(paid.address(), "/", headers=headers).status for _ in range(2)] == [200, 200]
    settled(paid)
    done(run("wallets", "refund", "Acme", "0.01 USD", "--note", "slow"))
    (wallet,) = done(run("wallets", "show", "Acme"))["items"]
    assert (wallet["available"], wallet["captured"]) == (20_000, 10_000)
    kinds = [entry["kind"] for entry in done(run("ledger", "entries", "Acme"))]
    assert kinds.count("charge") >= 1
    assert kinds[0] == "refund"
    assert len(done(run("ledger", "usage", "Acme"))) == 2
    done(run("wallets", "reverse", "Acme", "pay:manual:t1", "--yes"))
    assert done(run("ledger", "x402")) == done(run("ledger", "x402", "--doubtful")) == []
    assert done(run("ledger", "entries", "x402")) == []
    assert done(run("ledger", "audit"))["passed"]
    assert "The books are right." in done(run("ledger", "audit", text=True))
    assert done(run("ledger", "pipeline"))["problem"] is None

    report = done(run("report", "--by", "account,route"))
    (row,) = report["rows"]
    assert (row["account"], row["route"], row["requests"], row["amount"]) == (
        account, "paid", 2, 20_000,
    )  # fmt: skip
    (line,) = csv.DictReader(
        io.StringIO(done(run("report", "--by", "consumer", "--csv", text=True)))
    )
    assert (line["label"], line["amount"]) == ("Acme Web", "20000")
    assert "0.02" in done(run("report", text=True))


def test_spending_limits(paid: Gateway, run: Run) -> None:
    done(run("accounts", "create", "Acme"))
    assert "No spending limit" in done(run("wallets", "limit", "Acme", text=True))
    set_to = done(run("wallets", "limit", "Acme", "1 USD", "--period", "day"))
    assert (set_to["limit"], set_to["own"]) == (1_000_000, True)
    assert "0.00 of 1.00" in done(run("wallets", "limit", "Acme", text=True))
    assert done(run("wallets", "limit", "Acme", "--clear"))["limit"] is None


def test_subscriptions(paid: Gateway, run: Run) -> None:
    done(run("accounts", "create", "Acme"))
    made = done(run("subscriptions", "create", "Acme", "business"))
    assert (made["state"], made["reason"]) == ("active", None)
    changed = done(run("subscriptions", "plan", made["id"], "large"))
    assert changed["subscription"]["plan"] == "large"
    assert changed["document"]["kind"] == "invoice"
    (invoice,) = done(run("subscriptions", "invoices", "Acme"))
    assert invoice["number"] == changed["document"]["number"]
    assert len(done(run("dunning", "show", "Acme"))) == 1
    settled = done(run("subscriptions", "pay", invoice["number"], "--reference", "transfer 1"))
    assert settled["status"] == "paid"
    assert run("subscriptions", "void", invoice["number"])[0] == 1  # paid is paid
    changed = done(run("subscriptions", "plan", made["id"], "huge"))
    given_up = changed["document"]["number"]
    said = done(run("subscriptions", "void", given_up, text=True))
    assert said.startswith(f"{given_up} for ")
    assert said.endswith(": void.\n")
    assert done(run("subscriptions", "pause", made["id"]))["reason"] == "subscription_paused"
    assert done(run("subscriptions", "resume", made["id"]))["reason"] is None
    assert done(run("subscriptions", "cancel", made["id"]))["cancel_at_period_end"]
    shown = done(run("subscriptions", "show", made["id"]))
    assert shown["history"][0][1] == "created"
    assert len(done(run("subscriptions", "list", "--account", "Acme"))) == 1
    assert made["id"] in done(run("subscriptions", "list", text=True))


def test_a_life_is_played_in_advance(paid: Gateway, run: Run) -> None:
    timeline = done(
        run(
            "dunning", "simulate", str(paid.config), "--plan", "large",
            "--outcomes", "ok,later,ok", "--days", "45", "--begins", "2026-11-01",
        )
    )  # fmt: skip
    charges = [one["what"] for one in timeline if one["kind"] == "charge"]
    assert charges[:3] == ["ok", "later", "ok"]
    assert any(one["what"] == "payment.recovered" for one in timeline)
