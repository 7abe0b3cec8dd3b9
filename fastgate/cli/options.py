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

LEVELS = ("debug", "info", "warning", "error")


def _help(name: str) -> str:
    setting = settings.BY_NAME[name]
    default = f" Default: {setting.default}." if setting.default else ""
    return f"{setting.text}{default} [{setting.env}]".replace("`", "")


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def control_options(command: F) -> F:
    """--control, --state-dir, --json: how to reach a running gateway."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts."),
        click.option("--state-dir", type=click.Path(file_okay=False), help=_help("state_dir")),
        click.option("--control", metavar="URL", help=_help("control")),
    ):
        command = option(command)
    return command


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
    from fastgate.cli.client import Client, find_running, find_token, no_gateway

    places = list(
        dict.fromkeys(
            settings.state_dir(beside, state_dir)
            for beside in (config, settings.value_of("config"))
            if beside is not None
        )
    )
    token = next(filter(None, map(find_token, places)), "")
    given = control or os.environ.get(settings.BY_NAME["control"].env)
    if given:
        return Client(given, token, timeout)
    found = next(filter(None, map(find_running, places)), "")
    hint = "" if found else no_gateway(places)
    return Client(found or settings.BY_NAME["control"].default, token, timeout, hint)
