"""check, diff, apply, reload, schema: the configuration document from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastgate import settings
from fastgate.cli import output
from fastgate.cli.client import Client
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import client_of, control_options, json_option
from fastgate.errors import ConfigurationError

if TYPE_CHECKING:
    from fastgate.config.diff import Change
    from fastgate.config.file import Loaded
    from fastgate.model.gateway import Gateway

CONFIG = "/v1/config"

_file = click.argument("file", required=False, metavar="[FILE]")


def _load(file: str | None) -> Loaded:
    from fastgate.config.file import load

    return load(settings.value_of("config", file))


@click.command(short_help="Check a configuration.")
@_file
@json_option
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option(
    "--no-files",
    is_flag=True,
    help="Do not read certificates, keys and descriptions of APIs: they are elsewhere.",
)
def check(file: str | None, as_json: bool, strict: bool, no_files: bool) -> int:
    """Check a configuration.

    Reads and compiles FILE as the gateway would (default: fastgate.yaml; "-": standard input), and
    changes nothing. Certificates, keys, secrets of issuers and descriptions of APIs are read too.
    Exits 0 if it is valid and 4 if not. Handlers are not imported: only a worker can check that.

    \b
    Examples:
      fastgate check
      fastgate check production.yaml --strict --no-files
      render-config | fastgate check - --json
    """
    loaded = _load(file)
    more = _compile(loaded)
    gateway = loaded.gateway
    doubts = [] if no_files else _files(loaded)
    if not no_files:
        _descriptions(loaded)
    if as_json:
        output.print_json(
            {
                "valid": True,
                "digest": loaded.digest,
                "warnings": [
                    *(output.fault_data(one) for one in (*loaded.warnings, *doubts)),
                    *({"message": text} for text in more),
                ],
                "counts": _counts(gateway),
            }
        )
    else:
        for warning in (*loaded.warnings, *doubts, *more):
            click.echo(f"{click.style('Warning:', fg='yellow')} {warning}", err=True)
        counted = ", ".join(output.plural(n, name) for name, n in _counts(gateway).items() if n)
        output.say(f"{click.style('Valid', fg='green')}: {counted or 'nothing but defaults'}.")
    return FAILED if strict and (loaded.warnings or doubts or more) else OK


def _files(loaded: Loaded) -> list[ConfigurationError]:
    """Read certificates, keys, authorities, and what issuers have in files; returns what is
    doubtful. Raises ConfigurationError for what cannot be used or is out of date."""
    from fastgate.model.resolve_tls import needs_keyring

    gateway = loaded.gateway
    if not needs_keyring(gateway):
        return []
    import time

    from fastgate.certificates.judge import doubts, out_of_date
    from fastgate.certificates.material import NOTHING, problems, refresh

    found = refresh(gateway, NOTHING)
    errors = problems(gateway, found) or out_of_date(gateway, found, time.time())
    warnings = [] if errors else doubts(gateway, found)
    if gateway.issuers:
        from fastgate.issuers import files

        read = files.refresh(gateway, {})
        errors += files.problems(gateway, read)
        warnings += files.remarks(gateway, read)
    for each in (*errors, *warnings):
        loaded.locate(each)
    if errors:
        errors[0].others = tuple(errors[1:])
        raise errors[0]
    return warnings


def _descriptions(loaded: Loaded) -> None:
    """Read the descriptions that requests are validated against. Raises ConfigurationError."""
    from fastgate.validation.load import load

    try:
        load(loaded.gateway)
    except ConfigurationError as error:
        raise loaded.locate(error) from None


def _counts(gateway: Gateway) -> dict[str, int]:
    return {
        "listeners": len(gateway.listeners),
        "routes": len(gateway.routes),
        "services": len(gateway.services),
        "upstreams": len(gateway.upstreams),
        "plans": len(gateway.plans),
        "policies": len(gateway.policies),
        "consumers": len(gateway.consumers),
    }


def _compile(loaded: Loaded) -> list[str]:
    """The last validation: conflicts of routes and other errors that only the compiler finds. Names
    are not resolved. Returns warnings that loading did not have."""
    from fastgate.config.compiler import compile_gateway
    from fastgate.config.slots import SlotBook
    from fastgate.model.check import warnings

    try:
        compiled = compile_gateway(loaded.gateway, generation=1, slots=SlotBook(), addresses={})
    except ConfigurationError as error:
        raise loaded.locate(error) from None
    known = {str(warning) for warning in warnings(loaded.gateway)}
    return [text for text in compiled.warnings if text not in known]


@click.command(short_help="Compare configurations.")
@click.argument("file", required=False, metavar="[FILE]")
@click.argument("other", required=False, metavar="[OTHER]")
@control_options
@click.option("--exit-code", is_flag=True, help="Exit 1 if there are differences.")
def diff(
    file: str | None,
    other: str | None,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
    exit_code: bool,
) -> int:
    """Compare configurations: the running one with FILE, or FILE with OTHER.

    Shows what would change: "-" is only in the first, "+" only in the second. Order, the spelling
    of units, and defaults make no difference.

    \b
    Examples:
      fastgate diff                       running gateway -> fastgate.yaml
      fastgate diff new.yaml              running gateway -> new.yaml
      fastgate diff old.yaml new.yaml     old.yaml -> new.yaml
    """
    from fastgate.config.diff import diff as compare

    if other is not None:
        changes = compare(_load(file).gateway, _load(other).gateway)
    else:
        loaded = _load(file)
        changes = _against_running(client_of(control, state_dir, file), loaded.gateway)
    print_changes(changes, as_json)
    return FAILED if exit_code and changes else OK


def _against_running(client: Client, gateway: Gateway) -> list[Change]:
    """What applying would change. The API leaves out `store`, masks passwords, escapes what looks
    like a reference, and shows digests of keys only in part to those who may not change them; so
    it is here for both sides."""
    from fastgate.config.diff import diff_data
    from fastgate.config.references import escaped
    from fastgate.model.codec import encode, redact

    now = client.get(CONFIG)
    wanted = escaped(redact(encode(gateway)))
    wanted.pop("store", None)
    if "…" in str(now):
        now, wanted = _cut(now), _cut(wanted)
    return diff_data(now, wanted)


def _cut(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _cut(entry) for key, entry in data.items()}
    if isinstance(data, list):
        return [_cut(entry) for entry in data]
    return data[:15] if isinstance(data, str) and data.startswith("sha256:") else data


def print_changes(changes: list[Change], as_json: bool) -> None:
    """Differences, one per line."""
    if as_json:
        import msgspec

        output.print_json(msgspec.to_builtins(changes))
        return
    if not changes:
        output.say("No difference.")
    for change in changes:
        if change.kind == "added":
            click.secho(f"+ {change.path}: {_short(change.after)}", fg="green")
        elif change.kind == "removed":
            click.secho(f"- {change.path}: {_short(change.before)}", fg="red")
        else:
            values = f"{_short(change.before)} -> {_short(change.after)}"
            click.secho(f"~ {change.path}: {values}", fg="yellow")


def _short(value: Any) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."


@click.command(short_help="Apply a configuration.")
@_file
@control_options
@click.option("--dry-run", is_flag=True, help="Validate and compare; change nothing.")
def apply(
    file: str | None, control: str | None, state_dir: str | None, as_json: bool, dry_run: bool
) -> int:
    """Apply a configuration to the running gateway, without losing a request.

    FILE is checked here, sent to the gateway and compiled there. The command returns when every
    worker serves it. If anything is wrong, nothing changes. References such as ${NAME} are
    resolved here, not by the gateway.

    \b
    Examples:
      fastgate apply --dry-run
      fastgate apply fastgate.yaml
      FASTGATE_CONTROL=unix:/run/fastgate.sock fastgate apply new.yaml --json
    """
    from fastgate.config.references import escaped
    from fastgate.model.codec import encode

    loaded = _load(file)
    client = client_of(control, state_dir, file)
    # Replaces only the configuration that was read a moment ago, so no change in between is lost.
    etag = client.call("GET", CONFIG).headers.get("etag", "*")
    answer = client.call(
        "PUT",
        CONFIG,
        escaped(encode(loaded.gateway)),
        query={"dry_run": True} if dry_run else None,
        headers={"If-Match": etag},
    ).data
    print_applied(answer, as_json)
    return OK


def print_applied(answer: dict[str, Any], as_json: bool) -> None:
    """The result of a change of the configuration."""
    if as_json:
        output.print_json(answer)
        return
    import msgspec

    from fastgate.config.diff import Change

    print_changes(msgspec.convert(answer["changes"], list[Change]), False)
    if answer["dry_run"]:
        output.say("Valid. Nothing was changed (--dry-run).")
    else:
        revision = f", revision {answer['revision']}" if answer.get("revision") else ""
        output.say(f"Every worker serves generation {answer['generation']}{revision}.")
    if dropped := answer.get("dropped"):
        output.say("The file has changed. It undoes these changes that were made through the API:")
        print_changes(msgspec.convert(dropped, list[Change]), False)
    if pending := answer.get("pending_restart"):
        output.say(f"Pending a restart of the gateway: {', '.join(pending)}.")


@click.command(short_help="Reload the configuration file.")
@control_options
def reload(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Reload the configuration file, as SIGHUP does, and report the result.

    The gateway reads the file that it was started with. If the file is invalid, nothing changes,
    and the command prints the errors and exits 4.

    \b
    Example:
      fastgate reload && fastgate status
    """
    answer = client_of(control, state_dir).call("POST", f"{CONFIG}/reload").data
    print_applied(answer, as_json)
    return OK


@click.command(short_help="Print the configuration's JSON Schema.")
def schema() -> int:
    """Print the configuration's JSON Schema, for editors.

    \b
    Example:
      fastgate schema > fastgate.schema.json
      # then, as the first line of fastgate.yaml:
      # yaml-language-server: $schema=fastgate.schema.json
    """
    from fastgate.model.schema import json_schema

    output.print_json(json_schema())
    return OK
