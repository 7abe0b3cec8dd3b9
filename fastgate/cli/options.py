"""Options that many commands share, declared once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fastgate import settings

if TYPE_CHECKING:
    from fastgate.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])

CA = "fastgate.cli.ca"
"""Where a command's context keeps the value of --ca."""
LEVELS = ("debug", "info", "warning", "error")


def _help(name: str) -> str:
    setting = settings.BY_NAME[name]
    default = f" Default: {setting.default}." if setting.default else ""
    return f"{setting.text}{default} [{setting.env}]".replace("`", "")


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def _remember(context: click.Context, option: click.Parameter, value: str | None) -> None:
    context.meta[CA] = value


def control_options(command: F) -> F:
    """--control, --ca, --state-dir, --json: how to reach a running gateway. --ca is not an argument
    of the command: `client_of` finds it."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts."),
        click.option("--state-dir", type=click.Path(file_okay=False), help=_help("state_dir")),
        click.option(
            "--ca", type=click.Path(dir_okay=False), expose_value=False, callback=_remember,
            help=_help("ca"),
        ),
        click.option("--control", metavar="URL", help=_help("control")),
    ):  # fmt: skip
        command = option(command)
    return command


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> int:
    from fastgate.model.units import Duration

    try:
        return -(-Duration.parse(value).ns // 10**9)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--overlap") from None


def overlap_option(what: str) -> Callable[[F], F]:
    """--overlap, in whole seconds: how long what is replaced still works."""
    return click.option(
        "--overlap", metavar="DURATION", default="0s", callback=_seconds,
        help=f"How long the old {what} still works. Default: not at all.",
    )  # fmt: skip


def run_options(command: F) -> F:
    """--workers, --state-dir, --log-format, --log-level: for commands that run a gateway."""
    for option in (
        click.option(
            "--log-level", type=click.Choice(LEVELS), envvar="FASTGATE_LOG_LEVEL", default="info",
            help="The least severe level that is logged. Default: info. [FASTGATE_LOG_LEVEL]",
        ),
        click.option(
            "--log-format", type=click.Choice(["auto", "human", "json"]), default="auto",
            help="The format of log lines. Default: human on a terminal, else json.",
        ),
        click.option(
            "--state-dir", "--state", type=click.Path(file_okay=False), help=_help("state_dir"),
        ),
        click.option(
            "--workers", type=click.IntRange(1, 64),
            help="Number of worker processes. Default: `workers` in the configuration.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def client_of(
    control: str | None, state_dir: str | None, config: str | None = None, timeout: float = 60.0
) -> Client:
    """A client as the options and the environment say, else of the gateway that runs with the
    state directory.

    A file that is applied may be in another directory than the gateway's own: what is not found
    beside `config` is looked for where the command is run.
    """
    # Late: `fastgate run` has options, too, and its processes would keep http.client for good.
    from fastgate.cli.client import Client, Trust, find_running, find_token, no_gateway

    places = list(
        dict.fromkeys(
            settings.state_dir(beside, state_dir)
            for beside in (config, settings.value_of("config"))
            if beside is not None
        )
    )
    token = next(filter(None, map(find_token, places)), "")
    context = click.get_current_context(silent=True)
    ca = settings.value_of("ca", None if context is None else context.meta.get(CA))
    given = control or os.environ.get(settings.BY_NAME["control"].env)
    if given:
        return Client(given, token, timeout, trust=Trust(ca))
    found = next(filter(None, map(find_running, places)), None)
    if found is None:
        default = settings.BY_NAME["control"].default
        return Client(default, token, timeout, no_gateway(places), Trust(ca))
    return Client(found.control, token, timeout, trust=Trust(ca, found.certificate))
