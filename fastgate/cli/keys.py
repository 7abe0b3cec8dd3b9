"""keys: API keys of consumers. A key is shown once, when it is created."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.consumers import path_of
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import client_of, control_options, overlap_option
from fastgate.config import references

_who = click.argument("consumer", metavar="CONSUMER")
_which = click.argument("key_id", metavar="KEY_ID")


@click.group(short_help="Issue, list and revoke API keys.")
def keys() -> None:
    """Issue, list, rotate and revoke API keys of consumers.

    A key is shown once, when it is created; only its digest is stored. CONSUMER is an id or a
    name, KEY_ID is an id from `fastgate keys list`.

    \b
    Examples:
      fastgate keys create "Acme Web" --label "their website"
      fastgate keys list "Acme Web"
      fastgate keys rotate "Acme Web" crd_… --overlap 1d
      fastgate keys revoke "Acme Web" crd_…
    """


def _path(consumer: str, key_id: str = "") -> str:
    base = f"{path_of(consumer)}/credentials"
    return f"{base}/{quote(key_id, safe='')}" if key_id else base


def moment_of(text: str) -> str:
    """`text`, a duration from now or a point in time, as RFC 3339. Raises BadParameter."""
    from fastgate.model.units import Duration
    from fastgate.model.values import Moment

    try:
        after = timedelta(seconds=Duration.parse(text).seconds)
    except ValueError:
        try:
            return str(Moment.parse(text))
        except ValueError as error:
            raise click.BadParameter(f"{error}, or a duration such as '90d'") from None
    return (datetime.now(UTC) + after).isoformat(timespec="seconds").replace("+00:00", "Z")


def _print_new(data: dict[str, Any], as_json: bool) -> int:
    """A new key: the only text on stdout, so it can be piped."""
    if as_json:
        output.print_json(data)
        return OK
    expires = f", until {output.when(data['expires_at'])}" if data["expires_at"] else ""
    click.echo(f"Key {data['id']} for {data['consumer']}{expires}. It is shown only now:", err=True)
    output.say(data["key"])
    return OK


@keys.command(short_help="Create a key for a consumer.")
@_who
@click.option(
    "--label", default="", metavar="TEXT", help="A note for people, such as where the key is used."
)
@click.option(
    "--expires",
    metavar="WHEN",
    help="When it expires: after a duration (90d) or at a time (2027-01-01).",
)
@click.option(
    "--environment", metavar="NAME", help="A word that is part of the key, such as live or test."
)
@control_options
def create(
    consumer: str,
    label: str,
    expires: str | None,
    environment: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Create a key for a consumer. It works on every worker when the command returns.

    Only the key is printed to stdout; messages go to stderr.

    \b
    Examples:
      fastgate keys create "Acme Web" --label "their website" --expires 90d
      KEY=$(fastgate keys create demo)
    """
    body: dict[str, Any] = {"label": label}
    if expires is not None:
        body["expires_at"] = moment_of(expires)
    if environment is not None:
        body["environment"] = environment
    answer = client_of(control, state_dir).call("POST", _path(consumer), body)
    return _print_new(answer.data, as_json)


@keys.command("import", short_help="Import a key from another gateway.")
@_who
@click.option(
    "--label", default="", metavar="TEXT", help="A note for people, such as where the key is used."
)
@control_options
def import_(
    consumer: str, label: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Import a key that a consumer has from another gateway. The key is read from standard input.

    \b
    Example:
      printf %s "$OLD_KEY" | fastgate keys import "Acme Web" --label "from the old gateway"
    """
    if sys.stdin.isatty():
        key = click.prompt("Key", hide_input=True, err=True)
    else:
        key = sys.stdin.readline().rstrip("\r\n")
    body = {"label": label, "key": references.escaped(key)}
    data = client_of(control, state_dir).call("POST", _path(consumer), body).data
    if as_json:
        output.print_json(data)
    else:
        output.say(f"Key {data['id']} of {data['consumer']} is in place.")
    return OK


@keys.command("list", short_help="List a consumer's keys.")
@_who
@control_options
def list_(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List a consumer's keys, oldest first, including revoked ones. Other credentials are in
    `fastgate credentials list`.

    \b
    Example:
      fastgate keys list "Acme Web"
    """
    every = client_of(control, state_dir).pages(_path(consumer), limit=500)
    found = [one for one in every if one["kind"] == "key"]
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    return OK


def _print(found: list[dict[str, Any]]) -> None:
    colours = {"active": "green", "revoked": "red", "expired": "yellow"}
    rows = [
        (
            one["id"],
            f"{one['prefix']}…" if one["prefix"] else "-",
            output.colour(one["state"], colours[one["state"]]),
            one["label"],
            one["source"],
            output.when(one["created"]),
            output.when(one["expires_at"]),
        )
        for one in found
    ]
    heads = ("id", "begins with", "state", "label", "source", "created", "expires")
    output.table(heads, rows, "No keys yet. To create one: fastgate keys create")


@keys.command(short_help="Replace a key with a new one.")
@_who
@_which
@overlap_option("key")
@control_options
def rotate(
    consumer: str,
    key_id: str,
    overlap: int,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Replace a key with a new one, which is shown once. The old key stops working at once, or
    after --overlap.

    \b
    Example:
      fastgate keys rotate "Acme Web" crd_01h… --overlap 1d
    """
    path = f"{_path(consumer, key_id)}/rotate"
    answer = client_of(control, state_dir).call("POST", path, {"overlap": overlap})
    return _print_new(answer.data, as_json)


@keys.command(short_help="Revoke a key.")
@_who
@_which
@control_options
def revoke(
    consumer: str, key_id: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Revoke a key. Every worker refuses it when the command returns. This cannot be undone.

    \b
    Example:
      fastgate keys revoke "Acme Web" crd_01h…
    """
    data = client_of(control, state_dir).call("DELETE", _path(consumer, key_id)).data
    if as_json:
        output.print_json(data)
    else:
        output.say(f"Key {key_id} is revoked.")
    return OK
