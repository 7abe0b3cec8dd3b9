"""tokens: who may use the control API."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import OK, output
from fastgate.cli.keys import moment_of
from fastgate.cli.options import client_of, control_options

TOKENS = "/v1/tokens"


@click.group(short_help="Manage tokens of the control API.")
def tokens() -> None:
    """Manage tokens of the control API; takes the role admin.

    `viewer` reads; `operator` also changes configuration, consumers and keys, and drains;
    `admin` also manages tokens. The first admin token is in the file admin-token of the state
    directory.

    \b
    Examples:
      fastgate tokens create ci --role operator --expires 90d
      fastgate tokens list
      fastgate tokens delete tok_…
    """


@tokens.command(short_help="Make a token.")
@click.argument("label")
@click.option(
    "--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer",
    show_default=True, help="What it may do.",
)  # fmt: skip
@click.option("--expires", metavar="WHEN", help="After a duration (90d) or at a time (2027-01-01).")
@control_options
def create(
    label: str,
    role: str,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Make a token, named LABEL, which becomes the author of what is done with it.

    The token alone goes to stdout, and is shown only then.

    \b
    Example:
      FASTGATE_TOKEN=$(fastgate tokens create ci --role operator)
    """
    body: dict[str, Any] = {"label": label, "role": role}
    if expires is not None:
        body["expires_at"] = moment_of(expires)
    data = client_of(control, state_dir).call("POST", TOKENS, body).data
    if as_json:
        output.print_json(data)
        return OK
    click.echo(f"Token {data['id']} with the role {role}. It is shown only now:", err=True)
    output.say(data["token"])
    return OK


@tokens.command("list", short_help="List tokens.")
@control_options
def list_(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List the tokens that were made through the control API.

    \b
    Example:
      fastgate tokens list
    """
    found = list(client_of(control, state_dir).pages(TOKENS, limit=500))
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            one["id"],
            one["label"],
            one["role"],
            f"{one['prefix']}…",
            one["created_by"],
            output.when(one["created"]),
            output.when(one["expires_at"]),
        )
        for one in found
    ]
    heads = ("id", "label", "role", "begins with", "made by", "created", "expires")
    output.table(heads, rows, "No tokens besides the first and the configuration's.")
    return OK


@tokens.command(short_help="Withdraw a token.")
@click.argument("token_id")
@control_options
def delete(token_id: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Withdraw a token; it is refused at once.

    \b
    Example:
      fastgate tokens delete tok_01h…
    """
    client_of(control, state_dir).call("DELETE", f"{TOKENS}/{quote(token_id, safe='')}")
    if as_json:
        output.print_json({"deleted": token_id})
    else:
        output.say(f"Token {token_id} is withdrawn.")
    return OK
