"""issuers: the issuers of tokens of a gateway and their keys."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import client_of, control_options

_COLORS = {"ok": "green", "stale": "yellow"}


@click.group(short_help="Show the issuers of tokens, and fetch their keys.")
def issuers() -> None:
    """Show the issuers of tokens, and fetch their keys.

    \b
    Examples:
      fastgate issuers list
      fastgate issuers list --keys
      fastgate issuers refresh corp
    """


@issuers.command("list", short_help="List the issuers of the gateway.")
@click.option("--keys", is_flag=True, help="List their keys instead.")
@control_options
def list_(keys: bool, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List the issuers of tokens: where their keys are from, when they were fetched, what is wrong.

    Exits 1 if the keys of one are not known, could not be fetched, or cannot be read.

    \b
    Examples:
      fastgate issuers list
      fastgate issuers list --keys
    """
    items = client_of(control, state_dir).get("/v1/issuers")["items"]
    if as_json:
        output.print_json(items)
    elif keys:
        _print_keys(items)
    else:
        _print_list(items)
    return FAILED if any(each["state"] != "ok" for each in items) else OK


def _print_list(items: list[dict[str, Any]]) -> None:
    now = time.time()
    rows = [
        (
            each["name"],
            each["issuer"],
            each["source"],
            len(each["keys"]),
            _ago(each["fetched"], now),
            output.when(each["next_fetch"]),
            output.colour(each["state"], _COLORS.get(each["state"], "red")),
        )
        for each in items
    ]
    heads = ("name", "issuer", "source", "keys", "fetched", "next fetch", "state")
    output.table(heads, rows, "The configuration has no issuers.")
    for each in items:
        if each["problem"]:
            _say("Problem:", "red", f"{each['name']}: {each['problem']}. {_effect(each)}")
        for note in each["notes"]:
            _say("Note:", "yellow", f"{each['name']}: {note}")


def _print_keys(items: list[dict[str, Any]]) -> None:
    now = time.time()
    rows = [
        (
            each["name"],
            key["kid"] or "-",
            key["kind"],
            key["algorithms"],
            _ago(key["since"], now),
        )
        for each in items
        for key in each["keys"]
    ]
    output.table(("issuer", "key", "type", "algorithms", "known for"), rows, "No keys are known.")


def _say(label: str, colour: str, text: str) -> None:
    click.echo(f"{click.style(label, fg=colour)} {text}", err=True)


def _effect(issuer: dict[str, Any]) -> str:
    if issuer["state"] == "missing":
        return "No keys are known, so its tokens are refused."
    return "The last good keys stay in use."


def _ago(unix: int | None, now: float) -> str:
    """How long ago something was: "5 s", "12 min", "3 h", "4 d"."""
    if unix is None:
        return "-"
    passed = max(0, int(now - unix))
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= 2 * seconds:
            return f"{passed // seconds} {unit}"
    return f"{passed} s"


@issuers.command(short_help="Fetch the keys of an issuer now.")
@click.argument("name")
@control_options
def refresh(name: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Fetch the keys of an issuer now.

    Keys are fetched by themselves when they are due, and when a token has an unknown key. This is
    for a key that must not be accepted any longer, or after a fault is fixed.

    \b
    Examples:
      fastgate issuers refresh corp
    """
    client = client_of(control, state_dir)
    found = client.call("POST", f"/v1/issuers/{quote(name, safe='')}/refresh").data
    if as_json:
        output.print_json(found)
    else:
        count = len(found["keys"])
        again = output.when(found["next_fetch"])
        output.say(f"{name}: {count} {'key' if count == 1 else 'keys'}, fetched again at {again}")
    return OK
