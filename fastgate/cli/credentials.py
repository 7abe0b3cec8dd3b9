"""credentials: what proves that a request is a consumer's, beside API keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.consumers import path_of
from fastgate.cli.exit_codes import OK
from fastgate.cli.keys import moment_of
from fastgate.cli.options import client_of, control_options, overlap_option
from fastgate.config import references

_who = click.argument("consumer", metavar="CONSUMER")
_which = click.argument("credential_id", metavar="CREDENTIAL_ID")
_label = click.option("--label", default="", metavar="TEXT", help="A note for people.")
_expires = click.option(
    "--expires",
    metavar="WHEN",
    help="When it expires: after a duration (90d) or at a time (2027-01-01).",
)


@click.group(short_help="Manage subjects, certificates and users of consumers.")
def credentials() -> None:
    """Manage what proves that a request is a consumer's: subjects of tokens, client certificates,
    users of HTTP Basic. API keys have a group of their own, `fastgate keys`.

    CONSUMER is an id or a name, CREDENTIAL_ID is an id from `fastgate credentials list`.

    \b
    Examples:
      fastgate credentials list "Acme Web"
      fastgate credentials subject "Acme Web" corp build-server
      fastgate credentials certificate "Acme Web" client.pem
      fastgate credentials basic "Acme Web" acme
      fastgate credentials revoke "Acme Web" crd_…
    """


def _path(consumer: str, credential_id: str = "") -> str:
    base = f"{path_of(consumer)}/credentials"
    return f"{base}/{quote(credential_id, safe='')}" if credential_id else base


def about_text(credential: dict[str, Any]) -> str:
    """What a credential is, in one cell of a table."""
    about = credential["about"]
    if credential["kind"] == "subject":
        return f"{about['issuer']}: {about['subject']}"
    if credential["prefix"]:
        return " ".join([*about.values(), f"{credential['prefix']}…"])
    return " ".join(about.values())


@credentials.command("list", short_help="List a consumer's credentials.")
@_who
@control_options
def list_(consumer: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List a consumer's credentials of all kinds, oldest first, including revoked ones.

    \b
    Example:
      fastgate credentials list "Acme Web"
    """
    found = list(client_of(control, state_dir).pages(_path(consumer), limit=500))
    if as_json:
        output.print_json(found)
        return OK
    colours = {"active": "green", "revoked": "red", "expired": "yellow"}
    rows = [
        (
            one["id"],
            one["kind"],
            about_text(one),
            output.colour(one["state"], colours[one["state"]]),
            one["label"],
            one["source"],
            output.when(one["created"]),
            output.when(one["expires_at"]),
        )
        for one in found
    ]
    heads = ("id", "kind", "what", "state", "label", "source", "created", "expires")
    output.table(heads, rows, "No credentials yet.")
    return OK


def _add(
    consumer: str, body: dict[str, Any], expires: str | None, at: tuple[str | None, str | None]
) -> dict[str, Any]:
    """Create a credential; `at`: which gateway."""
    if expires is not None:
        body["expires_at"] = moment_of(expires)
    data: dict[str, Any] = client_of(*at).call("POST", _path(consumer), body).data
    return data


def _print_added(data: dict[str, Any], as_json: bool) -> int:
    """A new credential; a new secret is the only text on stdout, so it can be piped."""
    if as_json:
        output.print_json(data)
    elif "secret" in data:
        click.echo(
            f"Credential {data['id']} of {data['consumer']}. The secret of "
            f"{data['about']['user']} is shown only now:",
            err=True,
        )
        output.say(data["secret"])
    else:
        output.say(f"Credential {data['id']} of {data['consumer']}: {about_text(data)}")
    return OK


@credentials.command(short_help="Let a subject of an issuer be a consumer.")
@_who
@click.argument("issuer", metavar="ISSUER")
@click.argument("name", metavar="SUBJECT")
@_label
@_expires
@control_options
def subject(
    consumer: str,
    issuer: str,
    name: str,
    label: str,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Let a subject of an issuer be a consumer: requests with its tokens are the consumer's.

    ISSUER is a name of `issuers`; SUBJECT is what its tokens have in the claim that the issuer's
    `consumer` names (`sub`, unless it says otherwise).

    \b
    Example:
      fastgate credentials subject "Acme Web" corp build-server
    """
    body = {"kind": "subject", "issuer": issuer, "subject": name, "label": label}
    return _print_added(_add(consumer, body, expires, (control, state_dir)), as_json)


@credentials.command(short_help="Let a client certificate be a consumer.")
@_who
@click.argument("certificate", metavar="FILE|PIN")
@_label
@_expires
@control_options
def certificate(
    consumer: str,
    certificate: str,
    label: str,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Let a client certificate be a consumer. FILE has the certificate in PEM form; only its public
    key is used, so a certificate that is renewed with the same key needs nothing. A PIN, as
    `fastgate certificates pin` prints it, is the same.

    \b
    Example:
      fastgate credentials certificate "Acme Web" client.pem
    """
    body: dict[str, Any] = {"kind": "certificate", "label": label}
    if certificate.startswith("sha256/"):
        body["pin"] = certificate
    else:
        body["pin"] = pins_in(certificate)[0]
    return _print_added(_add(consumer, body, expires, (control, state_dir)), as_json)


def pins_in(file: str) -> list[str]:
    """The pins of the certificates in a file. Raises BadParameter."""
    from fastgate.certificates.pem import PemError
    from fastgate.certificates.pins import pins_of

    try:
        return pins_of(Path(file).read_bytes(), file)
    except PemError as error:
        raise click.BadParameter(f"{error}. {error.hint}".strip(), param_hint="FILE") from None
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None


@credentials.command(short_help="Give a consumer a user of HTTP Basic.")
@_who
@click.argument("user", metavar="USER")
@click.option(
    "--import",
    "imported",
    is_flag=True,
    help="Read the secret from standard input, instead of creating one.",
)
@_label
@_expires
@control_options
def basic(
    consumer: str,
    user: str,
    imported: bool,
    label: str,
    expires: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Give a consumer a user of HTTP Basic. The secret is created, and shown once; only its digest
    is stored. Only the secret is printed to stdout.

    \b
    Examples:
      fastgate credentials basic "Acme Web" acme
      printf %s "$SECRET" | fastgate credentials basic "Acme Web" acme --import
    """
    body: dict[str, Any] = {"kind": "basic", "user": user, "label": label}
    if imported:
        if sys.stdin.isatty():
            secret = click.prompt("Secret", hide_input=True, err=True)
        else:
            secret = sys.stdin.readline().rstrip("\r\n")
        body["secret"] = references.escaped(secret)
    return _print_added(_add(consumer, body, expires, (control, state_dir)), as_json)


@credentials.command(short_help="Replace the secret of a user.")
@_who
@_which
@overlap_option("secret")
@control_options
def rotate(
    consumer: str,
    credential_id: str,
    overlap: int,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Replace the secret of a user of HTTP Basic with a new one, which is shown once.

    A subject or a certificate has no secret: add the new one, and revoke the old one.

    \b
    Example:
      fastgate credentials rotate "Acme Web" crd_01h… --overlap 1d
    """
    path = f"{_path(consumer, credential_id)}/rotate"
    answer = client_of(control, state_dir).call("POST", path, {"overlap": overlap})
    return _print_added(answer.data, as_json)


@credentials.command(short_help="Revoke a credential.")
@_who
@_which
@control_options
def revoke(
    consumer: str, credential_id: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Revoke a credential. Every worker refuses it when the command returns.

    A subject or a certificate can be added again later, also to another consumer.

    \b
    Example:
      fastgate credentials revoke "Acme Web" crd_01h…
    """
    data = client_of(control, state_dir).call("DELETE", _path(consumer, credential_id)).data
    if as_json:
        output.print_json(data)
    else:
        output.say(f"Credential {credential_id} is revoked.")
    return OK
