"""maintenance: close routes for a while, and open them again."""

from __future__ import annotations

from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.configure import print_applied
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import client_of, control_options

MAINTENANCE = "/v1/maintenance"


@click.group(short_help="Close routes for maintenance, and open them again.")
def maintenance() -> None:
    """Close routes for maintenance, and open them again, while the gateway runs.

    Requests to a closed route are refused with 503 `maintenance`, before their caller is looked
    up; requests in progress are completed. Such a change is a revision and survives a restart, like
    every change that is made through the control API.

    \b
    Examples:
      fastgate maintenance on orders --message "We are back at 10:00 UTC." --allow 10.0.0.0/8
      fastgate maintenance off orders
      fastgate maintenance list
    """


_routes = click.argument("routes", nargs=-1, metavar="[ROUTE]...")
_all = click.option("--all", "whole", is_flag=True, help="The whole gateway instead of routes.")
_dry_run = click.option("--dry-run", is_flag=True, help="Validate and compare; change nothing.")


@maintenance.command(short_help="Close routes.")
@_routes
@_all
@click.option("--message", help="For callers, in the refusal: why, and until when.")
@click.option("--retry-after", metavar="DURATION", help="When they should try again, such as 10m.")
@click.option("--allow", multiple=True, metavar="NETWORK", help="Whose requests pass all the same.")
@control_options
@_dry_run
def on(
    routes: tuple[str, ...],
    whole: bool,
    message: str | None,
    retry_after: str | None,
    allow: tuple[str, ...],
    control: str | None,
    state_dir: str | None,
    as_json: bool,
    dry_run: bool,
) -> int:
    """Close routes, or all of them with --all.

    What is not given stays as it was configured. Returns when every worker refuses requests.

    \b
    Examples:
      fastgate maintenance on orders invoices --retry-after 10m
      fastgate maintenance on --all --message "We are back at 10:00 UTC." --allow 10.0.0.0/8
    """
    change: dict[str, Any] = {"enabled": True}
    if message is not None:
        change["message"] = message
    if retry_after is not None:
        change["retry_after"] = retry_after
    if allow:
        change["allow"] = list(allow)
    return _switch(routes, whole, change, control, state_dir, as_json, dry_run)


@maintenance.command(short_help="Open routes again.")
@_routes
@_all
@control_options
@_dry_run
def off(
    routes: tuple[str, ...],
    whole: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
    dry_run: bool,
) -> int:
    """Open routes again. With --all: end the maintenance of the whole gateway.

    Routes that were closed by name stay closed after --all, and the other way round. Message and
    addresses are kept for the next time.

    \b
    Examples:
      fastgate maintenance off orders invoices
      fastgate maintenance off --all
    """
    return _switch(routes, whole, {"enabled": False}, control, state_dir, as_json, dry_run)


def _switch(
    routes: tuple[str, ...],
    whole: bool,
    change: dict[str, Any],
    control: str | None,
    state_dir: str | None,
    as_json: bool,
    dry_run: bool,
) -> int:
    if whole == bool(routes):
        raise click.UsageError("Name routes, or give --all for the whole gateway.")
    body = {"gateway": change} if whole else {"routes": dict.fromkeys(routes, change)}
    client = client_of(control, state_dir)
    query = {"dry_run": True} if dry_run else None
    print_applied(client.call("PATCH", MAINTENANCE, body, query=query).data, as_json)
    return OK


@maintenance.command("list", short_help="Show what is closed.")
@control_options
def list_(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show what is closed for maintenance, and what has been.

    \b
    Example:
      fastgate maintenance list
    """
    data = client_of(control, state_dir).get(MAINTENANCE)
    if as_json:
        output.print_json(data)
        return OK
    rows = [_row(name, one) for name, one in data["routes"].items()]
    if data["gateway"] is not None:
        rows.insert(0, _row("(all routes)", data["gateway"]))
    heads = ("route", "state", "retry after", "allowed", "message")
    output.table(heads, rows, "Nothing is closed for maintenance.")
    return OK


def _row(name: str, one: dict[str, Any]) -> tuple[Any, ...]:
    state = output.colour("closed", "red") if one["enabled"] else "open"
    open_ = one.get("except") or []
    shown = f"{name}, except {', '.join(open_)}" if open_ else name
    wait, allow = one.get("retry_after", "5m"), ", ".join(one.get("allow", []))
    return shown, state, wait, allow or "-", one.get("message", "-")
