"""`fastgate run`: the gateway in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fastgate import settings
from fastgate.cli.options import run_options


@click.command(
    epilog="Signals: HUP reloads the file, TERM drains and stops, INT (Ctrl-C) does the same with "
    "a shorter wait, QUIT stops at once, USR1 reopens the access log."
)
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@run_options
def run(
    config: str | None,
    workers: int | None,
    state_dir: str | None,
    log_format: str,
    log_level: str,
) -> int:
    """Start the gateway with a configuration file.

    Default: FASTGATE_CONFIG, else fastgate.yaml in the current directory. To try FastGate without a
    configuration, use `fastgate demo`.

    \b
    fastgate run                      # fastgate.yaml in this directory
    fastgate run edge.yaml            # another file
    kill -HUP PID                     # reload the file
    """
    import gc
    import logging

    from fastgate.runtime import logs

    config = config or os.environ.get(settings.BY_NAME["config"].env)
    if not config:
        config = settings.BY_NAME["config"].default
        if not Path(config).exists():
            raise click.UsageError(
                f"There is no {config} in this directory. Name a configuration file, or try "
                "FastGate without one: fastgate demo"
            )
    logs.set_up(log_format, getattr(logging, log_level.upper()))  # type: ignore[arg-type]
    gc.disable()  # nothing of what is imported and read from here on is garbage
    try:
        return _run_file(config, workers, state_dir)
    finally:
        gc.enable()


def _run_file(config: str, workers: int | None, state_dir: str | None) -> int:
    from fastgate.config.file import load
    from fastgate.runtime.launch import Launch
    from fastgate.runtime.start import run_gateway

    loaded = load(config)
    for warning in loaded.warnings:
        click.echo(f"{click.style('Warning:', fg='yellow')} {warning}", err=True)
    state = settings.state_dir(config, state_dir)
    launch = Launch(state=state.absolute(), config=Path(config).absolute(), first=loaded)
    return run_gateway(launch, loaded.gateway, workers)
