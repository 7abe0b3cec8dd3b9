"""report: usage and cost, as a table, CSV or JSON."""

from __future__ import annotations

from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.money import shown
from fastgate.cli.options import client_of, control_options

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command(short_help="Report usage and its cost.")
@click.option(
    "--by", default="account", metavar="LIST",
    help="Group by these, separated by commas: day, account, consumer, credential, route, service, "
        "plan, "
    "meter. Default: account.",
)  # fmt: skip
@click.option("--since", type=DAY, help="From this day (UTC).")
@click.option("--until", type=DAY, help="Up to and including this day (UTC).")
@click.option("--account", metavar="ID", help="Only this account, by id or name.")
@click.option("--consumer", metavar="ID", help="Only this consumer, by id or name.")
@click.option("--route", metavar="NAME", help="Only this route.")
@click.option("--plan", metavar="NAME", help="Only this plan.")
@click.option("--meter", metavar="NAME", help="Only this meter's units.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; amounts in micro-units.")
@control_options
def report(
    by: str,
    since: Any,
    until: Any,
    account: str | None,
    consumer: str | None,
    route: str | None,
    plan: str | None,
    meter: str | None,
    as_csv: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Report usage and its cost over a period, in groups.

    \b
    Examples:
      fastgate report --by account,route --since 2026-11-01
      fastgate report --by day,consumer --account Acme --csv > november.csv
    """
    query = {
        "group_by": by,
        "since": since.date().isoformat() if since else None,
        "until": until.date().isoformat() if until else None,
        "account": account,
        "consumer": consumer,
        "route": route,
        "plan": plan,
        "meter": meter,
    }
    client = client_of(control, state_dir)
    if as_csv:
        click.echo(client.get("/v1/reports/usage", **query, format="csv"), nl=False)
        return OK
    data = client.get("/v1/reports/usage", **query)
    if as_json:
        output.print_json(data)
        return OK
    rows = [[_cell(row, name) for name in data["columns"]] for row in data["rows"]]
    output.table(data["columns"], rows, "No usage in this period.")
    return OK


def _cell(row: dict[str, Any], name: str) -> Any:
    if name == "amount":
        return shown(row["amount"])
    return row.get(name)
