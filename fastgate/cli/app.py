"""The root command, its lazily loaded subcommands, and errors turned into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from fastgate import settings
from fastgate.cli.exit_codes import FAILED, INVALID, OK, UNREACHABLE, USAGE
from fastgate.errors import ConfigurationError, FastGateError, UnreachableError


class Entry(NamedTuple):
    """A subcommand that is not imported yet."""

    place: str
    """module:attribute."""
    short: str
    """The first sentence of its help, so that listing commands imports none of them."""


COMMANDS: dict[str, dict[str, Entry]] = {
    "Run": {
        "run": Entry("fastgate.cli.run:run", "Start the gateway."),
        "demo": Entry("fastgate.cli.demo:demo", "Run a demonstration on this machine."),
    },
    "Configure": {
        "check": Entry("fastgate.cli.configure:check", "Check a configuration."),
        "diff": Entry("fastgate.cli.configure:diff", "Compare configurations."),
        "apply": Entry("fastgate.cli.configure:apply", "Apply a configuration."),
        "reload": Entry("fastgate.cli.configure:reload", "Reload the configuration file."),
        "revisions": Entry(
            "fastgate.cli.revisions:revisions", "List, compare and restore earlier configurations."
        ),
        "schema": Entry("fastgate.cli.configure:schema", "Print the configuration's JSON Schema."),
        "import": Entry(
            "fastgate.cli.importing:import_", "Import the configuration of another gateway."
        ),
    },
    "Operate": {
        "status": Entry("fastgate.cli.operate:status", "Show the state of the gateway."),
        "explain": Entry("fastgate.cli.operate:explain", "Explain what happened to a request."),
        "why": Entry(
            "fastgate.cli.why:why",
            "Check whether a key would be served, and what helps if not.",
        ),
        "certificates": Entry(
            "fastgate.cli.certificates:certificates", "Show, test and make TLS certificates."
        ),
        "issuers": Entry(
            "fastgate.cli.issuers:issuers", "Show the issuers of tokens, and fetch their keys."
        ),
        "maintenance": Entry(
            "fastgate.cli.maintenance:maintenance",
            "Close routes for maintenance, and open them again.",
        ),
        "drain": Entry("fastgate.cli.operate:drain", "Stop the gateway gracefully."),
    },
    "Consumers and keys": {
        "consumers": Entry("fastgate.cli.consumers:consumers", "Manage consumers: who may call."),
        "keys": Entry("fastgate.cli.keys:keys", "Issue, list and revoke API keys."),
        "credentials": Entry(
            "fastgate.cli.credentials:credentials",
            "Manage subjects, certificates and users of consumers.",
        ),
        "tokens": Entry(
            "fastgate.cli.tokens:tokens",
            "Manage tokens for the control API; revoke tokens of callers.",
        ),
        "hash": Entry("fastgate.cli.local:hash_key", "Print the digest of a key."),
        "new-key": Entry("fastgate.cli.local:new_key", "Create a key without a running gateway."),
    },
    "Money": {
        "accounts": Entry("fastgate.cli.accounts:accounts", "Manage accounts: who pays."),
        "wallets": Entry(
            "fastgate.cli.wallets:wallets", "Show, credit and limit the wallets of accounts."
        ),
        "subscriptions": Entry(
            "fastgate.cli.subscriptions:subscriptions", "Manage subscriptions to plans."
        ),
        "ledger": Entry("fastgate.cli.ledger:ledger", "Show and audit the ledger."),
        "report": Entry("fastgate.cli.reports:report", "Report usage and its cost."),
        "dunning": Entry(
            "fastgate.cli.dunning:dunning",
            "Show or simulate the collection of unpaid invoices.",
        ),
    },
    "Other": {
        "completion": Entry("fastgate.cli.local:completion", "Print shell completion."),
        "version": Entry("fastgate.cli.local:version", "Print the version."),
    },
}
"""By heading, in the order of the help."""

ENTRIES: dict[str, Entry] = {
    name: entry for group in COMMANDS.values() for name, entry in group.items()
}


class Root(click.Group):
    """A group whose commands are imported when they are needed."""

    def invoke(self, ctx: click.Context) -> Any:
        """A reader that stops reading, such as `head`, is not an error; click would make it one."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return OK

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = ENTRIES.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in ENTRIES and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], ENTRIES, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, entries in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, entry.short) for name, entry in entries.items()])


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from fastgate.cli.local import version_text

        click.echo(version_text())
        ctx.exit()


@click.group(
    cls=Root,
    name="fastgate",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 success, 1 refused or failed, 2 wrong usage, 3 control API not "
    "reachable, 4 invalid configuration. Output is colored on terminals, unless NO_COLOR=1 is set.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
    help="Print the version and exit.",
)  # fmt: skip
def root() -> None:
    """FastGate, a payment-aware API and AI gateway.

    \b
    Try it:             fastgate demo
    With a file:        fastgate run fastgate.yaml
    Is the file right?  fastgate check fastgate.yaml
    Change it live:     fastgate apply fastgate.yaml
    Why was I refused?  fastgate explain ID    (the id is in the answer)
    """


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    color = settings.color(os.environ)
    with click.Context(root, info_name="fastgate", color=color).scope():  # for errors, too
        return _execute(args, color)


def _execute(args: list[str], color: bool | None) -> int:
    as_json = "--json" in args
    try:
        code: Any = root.main(args, prog_name="fastgate", standalone_mode=False, color=color)
    except click.exceptions.NoArgsIsHelpError as error:  # its message is the help
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        _say_usage(error, as_json)
        return USAGE
    except click.ClickException as error:
        _say(error.format_message(), "failed", as_json)
        return FAILED
    except click.Abort:
        click.echo("Aborted.", err=True)
        return FAILED
    except ConfigurationError as error:
        _say_configuration(error, as_json)
        return INVALID
    except UnreachableError as error:
        _say(str(error), "unreachable", as_json)
        return UNREACHABLE
    except FastGateError as error:
        _say_failure(error, as_json)
        return FAILED
    return code if isinstance(code, int) else OK


# ---- errors in words --------------------------------------------------------------------


def _json(value: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"error": value}, ensure_ascii=False), err=True)


def _say(message: str, kind: str, as_json: bool) -> None:
    if as_json:
        _json({"kind": kind, "message": message})
    else:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True)


def _say_usage(error: click.UsageError, as_json: bool) -> None:
    if as_json:
        _json({"kind": "usage", "message": error.format_message()})
        return
    where = error.ctx.command_path if error.ctx is not None else "fastgate"
    _say(f"{error.format_message()}\nTry '{where} --help'.", "usage", False)


def _say_configuration(error: ConfigurationError, as_json: bool) -> None:
    every = list(error)
    if as_json:
        from fastgate.cli.output import fault_data

        _json({"kind": "configuration", "errors": [fault_data(one) for one in every]})
        return
    many = (
        f"{len(every)} errors in the configuration" if len(every) > 1 else "Invalid configuration"
    )
    _say(f"{many}\n{error}", "configuration", False)


def _say_failure(error: FastGateError, as_json: bool) -> None:
    problem = getattr(error, "problem", None)
    if as_json and problem:
        _json({"kind": "refused", "message": str(error), "problem": problem})
    else:
        _say(str(error), "refused", as_json)
