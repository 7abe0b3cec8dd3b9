"""accounts: who pays."""

from __future__ import annotations

from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.money import account_argument, path_of
from fastgate.cli.options import client_of, control_options

ACCOUNTS = "/v1/accounts"


@click.group(short_help="Manage accounts: who pays.")
def accounts() -> None:
    """Manage accounts: companies, teams or customers that pay.

    An account has consumers, which call; wallets and subscriptions, which pay for the calls; and
    e-mail addresses, which get notices. ACCOUNT is an id or a name.

    \b
    Examples:
      fastgate accounts create "Acme"
      fastgate consumers create "Acme Web" --account Acme
      fastgate wallets credit Acme "20 EUR" --reference "transfer 4711"
    """


@accounts.command("list", short_help="List accounts.")
@control_options
def list_(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List accounts, oldest first.

    \b
    Example:
      fastgate accounts list
    """
    found = list(client_of(control, state_dir).pages(ACCOUNTS, limit=500))
    return _print(found, found, as_json)


def _print(found: list[dict[str, Any]], data: Any, as_json: bool) -> int:
    if as_json:
        output.print_json(data)
    else:
        rows = [(one["id"], one["name"], output.when(one["created"])) for one in found]
        empty = "No accounts yet. To create one: fastgate accounts create NAME"
        output.table(("id", "name", "created"), rows, empty)
    return OK


@accounts.command(short_help="Create an account.")
@click.argument("name")
@control_options
def create(name: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Create an account.

    \b
    Example:
      fastgate accounts create "Acme"
    """
    made = client_of(control, state_dir).call("POST", ACCOUNTS, {"name": name}).data
    return _print([made], made, as_json)


@accounts.command(short_help="Show or change billing settings.")
@account_argument
@click.option(
    "--email", "emails", multiple=True, help="Send notices to this address. May be repeated."
)
@click.option("--zone", metavar="NAME", help="Its time zone, such as Europe/Berlin.")
@click.option(
    "--low-balance", type=int, metavar="MICROS", help="Send a notice if a balance falls below this."
)
@control_options
def billing(
    account: str,
    emails: tuple[str, ...],
    zone: str | None,
    low_balance: int | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Show or change the billing settings of an account.

    \b
    Examples:
      fastgate accounts billing Acme
      fastgate accounts billing Acme --email finance@acme.example --zone Europe/Berlin
    """
    client = client_of(control, state_dir)
    given = {"emails": list(emails) or None, "zone": zone, "low_balance": low_balance}
    changes = {name: value for name, value in given.items() if value is not None}
    path = f"{path_of(account)}/billing"
    data = client.call("PATCH", path, changes).data if changes else client.get(path)
    if as_json:
        output.print_json(data)
    else:
        rows = [(name, output.cell_text(value)) for name, value in data.items()]
        output.table(("what", "is"), rows, "")
    return OK
