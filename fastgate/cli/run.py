"""`fastgate run`: the gateway in the foreground, or a demonstration of it."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastgate import settings

if TYPE_CHECKING:
    from fastgate.runtime.wire.messages import Ready

LEVELS = ("debug", "info", "warning", "error")


@click.command(
    epilog="Signals: HUP reloads the file, TERM drains and stops, INT (Ctrl-C) does the same but "
    "waits for less time, QUIT stops at once, USR1 reopens the access log."
)
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option(
    "--workers", type=click.IntRange(1, 64),
    help="Number of worker processes. Default: what the file says.",
)  # fmt: skip
@click.option(
    "--state-dir", "--state", type=click.Path(file_okay=False),
    help=settings.BY_NAME["state_dir"].text.replace("`", "") + " [FASTGATE_STATE_DIR]",
)  # fmt: skip
@click.option(
    "--listen", metavar="ADDRESS",
    help="Demonstration only: the address for clients. Default: 127.0.0.1:8080.",
)  # fmt: skip
@click.option(
    "--control", metavar="ADDRESS",
    help="Demonstration only: the address of the control API. Default: 127.0.0.1:8081.",
)  # fmt: skip
@click.option(
    "--log-format", type=click.Choice(["auto", "human", "json"]), default="auto",
    help="The format of log lines. Default: human on a terminal, else json.",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(LEVELS), envvar="FASTGATE_LOG_LEVEL", default="info",
    help="The least severe level that is logged. Default: info. [FASTGATE_LOG_LEVEL]",
)  # fmt: skip
def run(
    config: str | None,
    workers: int | None,
    state_dir: str | None,
    listen: str | None,
    control: str | None,
    log_format: str,
    log_level: str,
) -> int:
    """Start the gateway.

    With a file, it serves that configuration. Without one, it serves a demonstration with an echo
    upstream, and prints what to try: an open route, a route with a key, a route with a limit.

    \b
    fastgate run                      # the demonstration
    fastgate run fastgate.yaml        # a configuration
    kill -HUP PID                     # reload the file
    """
    import logging

    from fastgate.runtime import logs

    config = config or os.environ.get("FASTGATE_CONFIG") or None
    if config is not None and (listen or control):
        raise click.UsageError("--listen and --control are for the demonstration; edit the file.")
    logs.set_up(log_format, getattr(logging, log_level.upper()))  # type: ignore[arg-type]
    if config is None:
        return _run_demonstration(
            listen or "127.0.0.1:8080", control or "127.0.0.1:8081", workers, state_dir
        )
    return _run_file(config, workers, state_dir)


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


def _run_demonstration(
    listen: str, control: str, workers: int | None, state_dir: str | None
) -> int:
    from fastgate.model import codec
    from fastgate.model.keys import key_digest, new_key
    from fastgate.runtime import demo
    from fastgate.runtime.launch import Launch
    from fastgate.runtime.start import Extras, run_gateway
    from fastgate.runtime.wire.plan import Companion

    upstream = demo.listen_loopback()
    key = new_key("demo")
    digest = f"sha256:{key_digest(key).hex()}"
    document = demo.document(upstream.getsockname()[1], digest, listen, control)
    # Nothing of a demonstration is kept, unless a place was named for it.
    state = Path(state_dir or tempfile.mkdtemp(prefix="fastgate-demo-")).absolute()
    launch = Launch(state=state, document=document)
    extras = Extras(
        companions=[Companion("demo", functools.partial(demo.run_upstream, upstream))],
        on_ready=lambda ready: _say_what_to_try(ready, key, state),
    )
    try:
        return run_gateway(launch, codec.decode(document), workers, extras)
    finally:
        if state_dir is None:
            shutil.rmtree(state, ignore_errors=True)


def _say_what_to_try(ready: Ready, key: str, state: Path) -> None:
    """Printed once, when the demonstration serves."""
    address = ready.listeners[0]
    base = f"--unix-socket {address[5:]} http://localhost" if address[:5] == "unix:" else address
    token = state / settings.ADMIN_TOKEN
    tries = (
        (f"{base}/open/hello", "200: open to everyone"),
        (f"{base}/keyed/hello", "401: this route needs a key"),
        (f"-H 'X-Api-Key: {key}' {base}/keyed/hello", "200: with the key of this demonstration"),
        (f"{base}/nothing", "404: no such route"),
        (f"{base}/limited", "200 twice, then 429"),
    )
    lines = "\n".join(f"  # {what}\n  curl -i {arguments}" for arguments, what in tries)
    program = "fastgate" if shutil.which("fastgate") else _program()
    control = f"http://{ready.control}"
    settled = f"  export FASTGATE_STATE_DIR={state}\n"
    if control != settings.BY_NAME["control"].default:
        settled += f"  export FASTGATE_CONTROL={control}\n"
    aside = ""
    if Path("fastgate.yaml").exists():
        aside = "\nThis directory has a fastgate.yaml: `fastgate run fastgate.yaml` serves it."
    text = f"""
A FastGate demonstration is running at {address}. In another terminal, try:

{lines}

Every answer has an X-Request-ID. To see what happened to that request:

{settled}  {program} explain ID
  {program} status

The control API is at {control}; its token is in {token}:

  curl -H "Authorization: Bearer $(cat {token})" {control}/v1/workers

Ctrl-C stops it.{aside}

"""
    sys.stdout.write(text)
    sys.stdout.flush()


def _program() -> str:
    """How this program was called, for someone in another directory."""
    path = Path(sys.argv[0]).absolute()
    return f"{sys.executable} -m fastgate" if path.name == "__main__.py" else str(path)
