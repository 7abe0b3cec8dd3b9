"""ledger: the books, and the proof that they are right."""

from __future__ import annotations

from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.money import account_argument, shown
from fastgate.cli.options import client_of, control_options

AUDIT_TIMEOUT = 3600.0  # seconds; every usage record is read


@click.group(short_help="Show and audit the ledger.")
def ledger() -> None:
    """Show and audit the ledger.

    \b
    Examples:
      fastgate ledger audit
      fastgate ledger entries Acme
      fastgate ledger usage Acme
    """


@ledger.command(short_help="Audit the ledger.")
@click.option(
    "--providers", is_flag=True,
    help="Also ask the payment providers: each payment of the last 30 days, and their balance.",
)  # fmt: skip
@control_options
def audit(providers: bool, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Audit the ledger: every entry adds up to zero, every charge has its usage, every payment,
    refund, invoice and credit note has its entry, and the wallets in shared memory agree with the
    ledger. Safe to run under traffic.

    With --providers, also compare the ledger with what each payment provider reports: its
    balance, its payouts and its fees, by currency.

    Exits 0 if every check passes, and 1 if not.

    \b
    Example:
      fastgate ledger audit
      fastgate ledger audit --providers
    """
    path = "/v1/ledger/audit?providers=true" if providers else "/v1/ledger/audit"
    data = client_of(control, state_dir, timeout=AUDIT_TIMEOUT).get(path)
    passed = all(check["passed"] for check in data["checks"])
    if as_json:
        output.print_json({**data, "passed": passed})
        return OK if passed else FAILED
    rows = [
        (
            check["name"],
            output.colour("passed", "green") if check["passed"] else output.colour("FAILED", "red"),
            ", ".join(f"{name} {value}" for name, value in check["numbers"].items()),
        )
        for check in data["checks"]
    ]
    output.table(("check", "", "counted"), rows, "")
    for check in data["checks"]:
        for finding in check["findings"]:
            output.say(f"{check['name']}: {finding}")
        for note in check["notes"]:
            output.say(f"{check['name']}: {note}")
    output.say("The books are right." if passed else "The books are NOT right.")
    return OK if passed else FAILED


@ledger.command(short_help="List the entries of an account.")
@account_argument
@click.option("--currency", metavar="CODE", help="Only this wallet.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, help="How many to list. Default: 50."
)
@control_options
def entries(
    account: str,
    currency: str | None,
    limit: int,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """List the entries of an account with their postings, newest first.

    \b
    Example:
      fastgate ledger entries Acme --limit 20
    """
    client = client_of(control, state_dir)
    found = client.get("/v1/ledger", account=account, currency=currency, limit=limit)["items"]
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            one["number"],
            output.when(one["created"]),
            one["kind"],
            shown(one["amount"], one["currency"]),
            _postings(one),
            one["reference"] or one["note"],
            one["id"],
        )
        for one in found
    ]
    heads = ("number", "time", "kind", "amount", "postings", "reference", "id")
    output.table(heads, rows, "No entries.")
    return OK


def _postings(entry: dict[str, Any]) -> str:
    return ", ".join(f"{book} {shown(micros)}" for book, micros in entry["postings"].items())


@ledger.command("x402", short_help="List payments with x402.")
@click.option(
    "--doubtful",
    is_flag=True,
    help="Only payments whose outcome is unknown.",
)
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, help="How many to list. Default: 50."
)
@click.option("--owed", is_flag=True, help="Only payments that were made but not served.")
@control_options
def paid_x402(
    doubtful: bool,
    owed: bool,
    limit: int,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """List payments for single requests with x402, in no particular order. Their entries belong to
    the account x402; the currency is the token, by network and contract. A payment that is
    "unknown" is not in the ledger: look up its payer on the network, and record the result with
    `fastgate ledger x402-decide`. An "owed" payment was made but not served.

    \b
    Examples:
      fastgate ledger x402 --doubtful
      fastgate ledger x402 --owed
      fastgate ledger entries x402
    """
    client = client_of(control, state_dir)
    which = {name: "true" for name, on in (("doubtful", doubtful), ("owed", owed)) if on}
    found = client.get("/v1/ledger/x402", **which, limit=limit)["items"]
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            output.when(one["paid_at"]),
            one["state"] + (" (presumed)" if one["presumed"] else ""),
            shown(one["amount"], one["asset_name"]),
            one["currency"],
            one["route"],
            one["payer"],
            one["reference"],
            one["id"],
        )
        for one in found
    ]
    heads = ("time", "state", "amount", "token", "route", "payer", "transaction", "id")
    output.table(heads, rows, "No payments with x402.")
    return OK


@ledger.command("x402-decide", short_help="Record the outcome of a payment with x402.")
@click.argument("payment")
@click.argument("outcome", type=click.Choice(["paid", "unpaid", "refunded", "kept"]))
@click.option("--transaction", default="", help="The transaction on the network.")
@control_options
def decide_x402(
    payment: str,
    outcome: str,
    transaction: str,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Say what became of a payment with x402, by the id that `fastgate ledger x402` shows.

    The outcome of an "unknown" payment is "paid" (it is then owed to its payer) or "unpaid". The
    outcome of an "owed" payment is "refunded" (you have sent it back on the network) or "kept" (as
    revenue). It is booked once.

    \b
    Examples:
      fastgate ledger x402-decide 5f0c... paid --transaction 0x9d1e...
      fastgate ledger x402-decide 5f0c... refunded
    """
    body = {"outcome": outcome, "reference": transaction}
    client = client_of(control, state_dir)
    data = client.call("POST", f"/v1/ledger/x402/{payment}", body).data
    if as_json:
        output.print_json(data)
    else:
        output.say(f"The payment is {data['state']}.")
    return OK


@ledger.command(short_help="List the usage of an account.")
@account_argument
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, help="How many to list. Default: 50."
)
@control_options
def usage(
    account: str, limit: int, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """List the usage of an account, request by request, newest first.

    \b
    Example:
      fastgate ledger usage Acme
    """
    from fastgate.cli.money import path_of

    found = client_of(control, state_dir).get(f"{path_of(account)}/usage", limit=limit)["items"]
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            output.when(one["time"]),
            one["route"],
            one["consumer"],
            one["status"],
            shown(one["amount"], one["currency"]),
            "recovered" if one["recovered"] else ("free" if one["free"] else ""),
            one["request"],
        )
        for one in found
    ]
    heads = ("time", "route", "consumer", "status", "amount", "", "request")
    output.table(heads, rows, "Nothing used yet.")
    return OK


@ledger.command(short_help="Show usage that is not in the ledger yet.")
@control_options
def pipeline(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show usage that is not in the ledger yet: in shared memory and in the spool.

    Exits 1 if it cannot be written.

    \b
    Example:
      fastgate ledger pipeline
    """
    data = client_of(control, state_dir).get("/v1/ledger/pipeline")
    if as_json:
        output.print_json(data)
    else:
        output.table(("what", "count"), [(k, v) for k, v in data.items() if k != "problem"], "")
        if data["problem"]:
            output.say(f"It waits: {data['problem']}")
    return FAILED if data["problem"] else OK
