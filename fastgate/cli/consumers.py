"""consumers: who may call, and how much of their limits is left."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import client_of, control_options

CONSUMERS = "/v1/consumers"

_who = click.argument("consumer", metavar="CONSUMER")


def path_of(consumer: str) -> str:
    """The API's path of a consumer, by id or name."""
    return f"{CONSUMERS}/{quote(consumer, safe='')}"


@click.group(short_help="Manage consumers: who may call.")
def consumers() -> None:
    """Manage consumers: applications, teams or customers that may call.

    Changes take effect on every worker at once. Consumers that come from the configuration are
    changed there. CONSUMER is an id or a name.

    \b
    Examples:
      fastgate consumers create "Acme Web" --plan starter
      fastgate keys create "Acme Web"
      fastgate consumers limits "Acme Web"
      fastgate consumers suspend "Acme Web"
    """


@consumers.command("list", short_help="List consumers.")
@control_options
@click.option("--plan", metavar="NAME", help="Only consumers on this plan.")
def list_(control: str | None, state_dir: str | None, as_json: bool, plan: str | None) -> int:
    """List consumers: first those from the configuration, then the others, oldest first.

    \b
    Example:
      fastgate consumers list --plan starter
    """
    client = client_of(control, state_dir)
    found = list(client.pages(CONSUMERS, limit=500, plan=plan))
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    return OK


def _print(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["id"],
            one["name"],
            one["plan"],
            output.colour("suspended", "red") if one["suspended"] else "active",
            one["source"],
            output.when(one["created"]),
        )
        for one in found
    ]
    heads = ("id", "name", "plan", "state", "source", "created")
    output.table(heads, rows, "No consumers yet. To create one: fastgate consumers create NAME")


def _show(data: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(data)
    else:
        _print([data])
    return OK


@consumers.command(short_help="Create a consumer.")
@click.argument("name")
@click.option("--plan", metavar="NAME", help="Its plan.")
@click.option("--account", metavar="ID", help="Who pays: an account's id or name.")
@control_options
def create(
    name: str,
    plan: str | None,
    account: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Create a consumer. It can call once it has a key: see `fastgate keys create`.

    \b
    Example:
      fastgate consumers create "Acme Web" --plan starter
    """
    body = {"name": name, "plan": plan, "account": account}
    return _show(client_of(control, state_dir).call("POST", CONSUMERS, body).data, as_json)


@consumers.command(short_help="Show a consumer.")
@_who
@control_options
def show(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show a consumer.

    \b
    Example:
      fastgate consumers show "Acme Web" --json
    """
    return _show(client_of(control, state_dir).get(path_of(consumer)), as_json)


@consumers.command(short_help="Change a consumer's plan.")
@_who
@click.argument("plan")
@control_options
def plan(
    consumer: str, plan: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Change a consumer's plan ("none" removes it). The change takes effect at once.

    \b
    Example:
      fastgate consumers plan "Acme Web" business
    """
    change = {"plan": None if plan == "none" else plan}
    return _change(consumer, change, control, state_dir, as_json)


@consumers.command(short_help="Suspend a consumer.")
@_who
@control_options
def suspend(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Suspend a consumer: its requests are refused with 403 consumer_suspended.

    \b
    Example:
      fastgate consumers suspend "Acme Web"
    """
    return _change(consumer, {"suspended": True}, control, state_dir, as_json)


@consumers.command(short_help="Resume a suspended consumer.")
@_who
@control_options
def resume(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Resume a suspended consumer: it can call again.

    \b
    Example:
      fastgate consumers resume "Acme Web"
    """
    return _change(consumer, {"suspended": False}, control, state_dir, as_json)


def _change(
    consumer: str, change: dict[str, Any], control: str | None, state_dir: str | None, as_json: bool
) -> int:
    client = client_of(control, state_dir)
    answer = client.call("PATCH", path_of(consumer), change, headers={"If-Match": "*"})
    return _show(answer.data, as_json)


@consumers.command(short_help="Give a consumer its own numbers for a limit.")
@_who
@click.argument("limit")
@click.option("--rate", metavar="RATE", help="For a rate limit: the rate, such as 500/s.")
@click.option(
    "--burst", type=int, metavar="N", help="With --rate: how many requests may come at once."
)
@click.option("--requests", type=int, metavar="N", help="For a quota: requests per period.")
@click.option(
    "--max", "most", type=int, metavar="N", help="For a concurrency limit: requests in progress."
)
@click.option("--remove", is_flag=True, help="Go back to the limit's own numbers.")
@control_options
def override(
    consumer: str,
    limit: str,
    rate: str | None,
    burst: int | None,
    requests: int | None,
    most: int | None,
    remove: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Give a consumer its own numbers for a limit, by the limit's name.

    They replace those of the route, service, plan or policy for this consumer, at once. The limit
    needs a name and must count by consumer or credential. See `fastgate consumers limits`.

    \b
    Examples:
      fastgate consumers override "Acme Web" burst --rate 500/s --burst 1000
      fastgate consumers override "Acme Web" monthly --requests 1000000
      fastgate consumers override "Acme Web" burst --remove
    """
    given = {"rate": rate, "burst": burst, "requests": requests, "max": most}
    own = {name: value for name, value in given.items() if value is not None}
    if bool(own) == remove:
        raise click.UsageError("Give the numbers, or --remove.")
    client = client_of(control, state_dir)
    found = client.call("GET", path_of(consumer))
    others = {name: one for name, one in found.data["limits"].items() if name != limit}
    change = {"limits": others if remove else {**others, limit: own}}
    etag = {"If-Match": found.headers["etag"]}
    return _show(client.call("PATCH", path_of(consumer), change, headers=etag).data, as_json)


@consumers.command(short_help="Delete a consumer and its keys.")
@_who
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@control_options
def delete(
    consumer: str, yes: bool, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Delete a consumer and its keys, which are refused at once. This cannot be undone.

    \b
    Example:
      fastgate consumers delete "Acme Web" --yes
    """
    client = client_of(control, state_dir)
    if not yes:
        click.confirm(f"Delete {consumer!r} and all its keys?", abort=True, err=True)
    client.call("DELETE", path_of(consumer))
    if as_json:
        output.print_json({"deleted": consumer})
    else:
        output.say(f"Deleted {consumer}.")
    return OK


@consumers.command(short_help="Show how much of its limits a consumer has used.")
@_who
@control_options
def limits(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show how much of its rate limits and quotas a consumer has used, and what is left.

    \b
    Example:
      fastgate consumers limits "Acme Web"
    """
    client = client_of(control, state_dir)
    data = client.get(f"/v1/limits/{quote(consumer, safe='')}")
    if as_json:
        output.print_json(data)
        return OK
    rows = [
        (
            one["limit"],
            f"{one['kind']} (own)" if one["own"] else one["kind"],
            one["by"],
            one["route"],
            one["used"],
            one["amount"],
            output.colour("0", "red") if one["remaining"] == 0 else one["remaining"],
            output.when(one["resets_at"]),
        )
        for one in data["items"]
    ]
    output.say(f"{data['name']} ({data['consumer']}), plan {data['plan'] or 'none'}")
    heads = ("limit", "kind", "by", "route", "used", "of", "left", "resets")
    output.table(heads, rows, "No limit or quota applies to this consumer.")
    return OK
