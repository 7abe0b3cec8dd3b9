"""Options that many commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from fastgate import settings
from fastgate.cli.client import Client, find_token

F = TypeVar("F", bound=Callable[..., Any])


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


def client_of(
    control: str | None, state_dir: str | None, config: str | None = None, timeout: float = 60.0
) -> Client:
    """A client as the options and the environment say.

    A file that is applied may stand elsewhere than the gateway's own: without a token beside
    `config`, the one of where the command is run is taken.
    """
    places = dict.fromkeys(
        settings.state_dir(beside, state_dir)
        for beside in (config, settings.value_of("config"))
        if beside is not None
    )
    token = next(filter(None, map(find_token, places)), "")
    return Client(settings.value_of("control", control), token, timeout)
