"""tokens revoke, tokens revoked: tokens of callers that are refused before they expire."""

from __future__ import annotations

import sys
from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.keys import moment_of
from fastgate.cli.options import client_of, control_options


@click.command(short_help="Revoke a token of a caller.")
@click.option("--issuer", metavar="NAME", help="With --jti: whose token it is.")
@click.option("--jti", metavar="ID", help="The token's id, instead of the token.")
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the token expires: after a duration (1h) or at a time. Needed with --jti, and for "
    "tokens that are no JWT.",
)
@control_options
def revoke(
    issuer: str | None,
    jti: str | None,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Revoke a token of a caller: every worker refuses it when the command returns, until it has
    expired. This cannot be undone.

    The token is read from standard input, never from the arguments, which other users of the
    machine can see. Only a digest of it is stored. To delete a token of the control API, use
    `fastgate tokens delete`.

    \b
    Examples:
      printf %s "$TOKEN" | fastgate tokens revoke
      fastgate tokens revoke --issuer corp --jti 7f3a… --expires 1h
    """
    if (jti is None) is not (issuer is None):
        raise click.UsageError("--issuer and --jti belong together.")
    body: dict[str, Any] = {"issuer": issuer, "jti": jti} if jti is not None else {}
    if jti is None:
        if sys.stdin.isatty():
            body["token"] = click.prompt("Token", hide_input=True, err=True)
        else:
            body["token"] = sys.stdin.readline().strip()
    if expires is not None:
        body["expires_at"] = moment_of(expires)
    data = client_of(control, state_dir).call("POST", "/v1/tokens/revoke", body).data
    if as_json:
        output.print_json(data)
    else:
        output.say(
            f"{data['id']}: revoked, and forgotten when the token has expired, "
            f"at {output.when(data['expires_at'])}."
        )
    return OK


@click.command(short_help="List the revoked tokens of callers.")
@control_options
def revoked(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List the tokens of callers that are revoked and have not expired. What a token says about
    itself was not verified.

    \b
    Example:
      fastgate tokens revoked
    """
    found = list(client_of(control, state_dir).pages("/v1/tokens/revoked", limit=500))
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            one["id"],
            ", ".join(f"{name} {value}" for name, value in one["about"].items()),
            one["revoked_by"],
            output.when(one["created"]),
            output.when(one["expires_at"]),
        )
        for one in found
    ]
    heads = ("id", "token", "revoked by", "revoked", "expires")
    output.table(heads, rows, "No token is revoked.")
    return OK
