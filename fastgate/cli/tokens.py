"""tokens: who may use the control API; and tokens of callers that are revoked."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.keys import moment_of
from fastgate.cli.options import client_of, control_options
from fastgate.cli.revoked_tokens import revoke, revoked

TOKENS = "/v1/tokens"


@click.group(short_help="Manage tokens for the control API; revoke tokens of callers.")
def tokens() -> None:
    """Manage tokens for the control API, which needs the role admin; and revoke tokens that callers
    have of an issuer.

    The role `viewer` reads; `operator` also changes the configuration, consumers and keys, and
    drains the gateway; `admin` also manages tokens. The first admin token is in the file
    admin-token in the state directory.

    \b
    Examples:
      fastgate tokens create ci --role operator --expires 90d
      fastgate tokens list
      fastgate tokens delete tok_…
      printf %s "$TOKEN" | fastgate tokens revoke
    """


tokens.add_command(revoke)
tokens.add_command(revoked)


@tokens.command(short_help="Create a token.")
@click.argument("label")
@click.option(
    "--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer",
    show_default=True, help="What the token allows.",
)  # fmt: skip
@click.option(
    "--expires",
    metavar="WHEN",
    help="When it expires: after a duration (90d) or at a time (2027-01-01).",
)
@control_options
def create(
    label: str,
    role: str,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Create a token. LABEL is recorded as the author of the changes that are made with it.

    Only the token is printed to stdout. It is not shown again.

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
    """List the tokens that were created through the control API.

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
    output.table(heads, rows, "No tokens except the first one and the configuration's.")
    return OK


@tokens.command(short_help="Delete a token.")
@click.argument("token_id")
@control_options
def delete(token_id: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Delete a token; it is refused at once.

    \b
    Example:
      fastgate tokens delete tok_01h…
    """
    client_of(control, state_dir).call("DELETE", f"{TOKENS}/{quote(token_id, safe='')}")
    if as_json:
        output.print_json({"deleted": token_id})
    else:
        output.say(f"Token {token_id} is deleted.")
    return OK
