"""wallets: the balances of accounts, and how they change."""

from __future__ import annotations

from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.client import Client
from fastgate.cli.exit_codes import OK
from fastgate.cli.money import (
    account_argument,
    headers,
    key_option,
    path_of,
    reference_options,
    shown,
)
from fastgate.cli.options import client_of, control_options


@click.group(short_help="Show, credit and limit the wallets of accounts.")
def wallets() -> None:
    """Show, credit and limit the wallets of accounts.

    A credit applies to the next request. Entries are never changed: a mistake is corrected by
    another entry. ACCOUNT is an id or a name; AMOUNT includes its currency.

    \b
    Examples:
      fastgate wallets show Acme
      fastgate wallets credit Acme "20 EUR" --reference "transfer 4711"
      fastgate wallets refund Acme "0.50 EUR" --note "slow on Tuesday"
      fastgate wallets recharge Acme --below "5 EUR" --amount "20 EUR" --cap "100 EUR"
    """


@wallets.command(short_help="Show an account's wallets.")
@account_argument
@control_options
def show(account: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show an account's wallets: the balance, the amount held by requests, and the ledger's
    balance.

    \b
    Example:
      fastgate wallets show Acme
    """
    data = client_of(control, state_dir).get(f"{path_of(account)}/wallets")
    if as_json:
        output.print_json(data)
    else:
        _print(data["items"])
    return OK


def _print(items: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["currency"],
            output.colour(shown(one["available"]), "green" if one["available"] > 0 else "red"),
            shown(one["in_flight"]),
            shown(one["balance"]),
            shown(one["promotional"]),
            shown(one["held"]),
            shown(one["overdraft"]),
            shown(one["credited"]),
            shown(one["captured"]),
        )
        for one in items
    ]
    heads = ("currency", "available", "in flight", "in the ledger", "promotional", "set aside",
             "overdraft", "paid in", "used")  # fmt: skip
    output.table(heads, rows, "No wallet yet. To open one: fastgate wallets credit")


def _booked(data: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(data)
        return OK
    entry = data["entry"]
    what = "Booked" if data["fresh"] else "Booked before, nothing done"
    amount = shown(entry["amount"], entry["currency"])
    output.say(f"{what}: {entry['kind']} of {amount}, entry {entry['id']}.")
    output.say(f"Available now: {data['wallet']['text']}.")
    return OK


def _post(client: Client, account: str, what: str, body: Any, key: str | None) -> dict[str, Any]:
    path = f"{path_of(account)}/{what}"
    answer = client.call("POST", path, body, headers=headers(key))
    data: dict[str, Any] = answer.data
    if answer.headers.get("idempotency-replayed") == "true":
        data["fresh"] = False
    return data


@wallets.command(short_help="Credit a wallet.")
@account_argument
@click.argument("amount")
@click.option(
    "--promotional", is_flag=True, help="A gift from the operator: spent first and never paid out."
)
@click.option("--tax", metavar="AMOUNT", help="Tax that was paid in addition.")
@reference_options
@key_option
@control_options
def credit(
    account: str,
    amount: str,
    promotional: bool,
    tax: str | None,
    reference: str,
    note: str,
    key: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Credit a wallet, for a payment that arrived by other means, or as a gift (--promotional).

    \b
    Examples:
      fastgate wallets credit Acme "20 EUR" --reference "transfer 4711" --key transfer-4711
      fastgate wallets credit Acme "5 EUR" --promotional --note "welcome"
    """
    body = {
        "amount": amount,
        "kind": "promotional" if promotional else "payment",
        "reference": reference,
        "note": note,
        "tax": tax,
    }
    return _booked(_post(client_of(control, state_dir), account, "credits", body, key), as_json)


@wallets.command(short_help="Refund usage to a wallet.")
@account_argument
@click.argument("amount")
@reference_options
@key_option
@control_options
def refund(
    account: str,
    amount: str,
    reference: str,
    note: str,
    key: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Refund usage to a wallet, up to the amount that was charged.

    \b
    Example:
      fastgate wallets refund Acme "0.50 EUR" --note "slow on Tuesday"
    """
    body = {"amount": amount, "reference": reference, "note": note}
    return _booked(_post(client_of(control, state_dir), account, "refunds", body, key), as_json)


@wallets.command(short_help="Reverse an entry.")
@account_argument
@click.argument("entry", metavar="ENTRY")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@control_options
def reverse(
    account: str, entry: str, yes: bool, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Reverse an entry with another entry. The balance may become negative.

    \b
    Example:
      fastgate wallets reverse Acme "pay:manual:transfer 4711"
    """
    if not yes:
        click.confirm(f"Reverse {entry}?", abort=True, err=True)
    client = client_of(control, state_dir)
    return _booked(_post(client, account, "corrections", {"reverses": entry}, None), as_json)


@wallets.command(short_help="Create a page for a payment.")
@account_argument
@click.argument("amount")
@click.option(
    "--return-url",
    required=True,
    metavar="URL",
    help="The URL to which the payer returns afterwards.",
)
@control_options
def topup(
    account: str,
    amount: str,
    return_url: str,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Create a page at the payment provider where the amount can be paid into the wallet.

    \b
    Example:
      fastgate wallets topup Acme "20 EUR" --return-url https://acme.example/done
    """
    body = {"amount": amount, "return_url": return_url}
    client = client_of(control, state_dir)
    data = client.call("POST", f"{path_of(account)}/top-ups", body).data
    if as_json:
        output.print_json(data)
    else:
        output.say(data["url"])
    return OK


@wallets.command(short_help="Set up automatic recharge.")
@account_argument
@click.option("--below", metavar="AMOUNT", help="Recharge if the balance falls below this.")
@click.option(
    "--amount", metavar="AMOUNT", help="The amount of each recharge; no fractions of a cent."
)
@click.option("--cap", metavar="AMOUNT", help="The maximum in a calendar month.")
@click.option("--off", is_flag=True, help="Turn it off.")
@control_options
def recharge(
    account: str,
    below: str | None,
    amount: str | None,
    cap: str | None,
    off: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Set up or show automatic recharge of a wallet from the saved payment method.

    \b
    Examples:
      fastgate wallets recharge Acme --below "5 EUR" --amount "20 EUR" --cap "100 EUR"
      fastgate wallets recharge Acme
      fastgate wallets recharge Acme --off
    """
    client, path = client_of(control, state_dir), f"{path_of(account)}/recharge"
    given = [below, amount, cap]
    if off:
        data = client.call("DELETE", path).data
    elif any(given):
        if not all(given):
            raise click.UsageError("Give --below, --amount and --cap together.")
        body = {"threshold": below, "amount": amount, "monthly_cap": cap}
        data = client.call("PUT", path, body).data
    else:
        data = client.get(path)
    if as_json:
        output.print_json(data)
        return OK
    currency = data["currency"]
    state = "on" if data["enabled"] else f"off{': ' + data['stopped'] if data['stopped'] else ''}"
    output.say(
        f"Automatic recharge is {state}: {shown(data['amount'], currency)} when below "
        f"{shown(data['threshold'], currency)}, at most {shown(data['cap'], currency)} a month; "
        f"{shown(data['spent'], currency)} this month."
    )
    return OK


@wallets.command(short_help="Show or change a spending limit.")
@account_argument
@click.argument("amount", required=False)
@click.option(
    "--period", type=click.Choice(["day", "week", "month", "year"]), default="month",
    help="The calendar period (UTC). Default: month.",
)  # fmt: skip
@click.option("--none", "lift", is_flag=True, help="No limit, even if one is configured.")
@click.option("--clear", is_flag=True, help="Return to the configured limit.")
@control_options
def limit(
    account: str,
    amount: str | None,
    period: str,
    lift: bool,
    clear: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Show or change how much an account may spend in a period. With "0 EUR" it may spend
    nothing.

    \b
    Examples:
      fastgate wallets limit Acme "100 EUR" --period month
      fastgate wallets limit Acme
      fastgate wallets limit Acme --none
      fastgate wallets limit Acme --clear
    """
    client, path = client_of(control, state_dir), f"{path_of(account)}/spending-limit"
    if (amount is not None) + lift + clear > 1:
        raise click.UsageError("Give one of AMOUNT, --none and --clear.")
    if clear:
        data = client.call("DELETE", path).data
    elif amount is not None or lift:
        data = client.call("PUT", path, {"amount": amount, "period": period}).data
    else:
        data = client.get(path)
    if as_json:
        output.print_json(data)
    elif data["limit"] is None:
        output.say("No spending limit.")
    else:
        output.say(
            f"{shown(data['spent'])} of {shown(data['limit'])} are spent; it resets at "
            f"{output.when(data['resets_at'])}."
        )
    return OK
