"""`fastgate demo`: demonstrations that include everything outside the gateway."""

from __future__ import annotations

import functools
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastgate import settings
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import run_options

if TYPE_CHECKING:
    from fastgate.runtime.wire.messages import Ready


@click.group(
    short_help="Run a demonstration on this machine.",
    invoke_without_command=True,
    subcommand_metavar="[payments]",
)
@click.option(
    "--listen", metavar="ADDRESS", default="127.0.0.1:8080",
    help="The address for clients. Default: 127.0.0.1:8080.",
)  # fmt: skip
@click.option(
    "--control", metavar="ADDRESS", default="127.0.0.1:8081",
    help="The address of the control API. Default: 127.0.0.1:8081.",
)  # fmt: skip
@run_options
@click.pass_context
def demo(
    context: click.Context,
    listen: str,
    control: str,
    workers: int | None,
    state_dir: str | None,
    log_format: str,
    log_level: str,
) -> int:
    """Run a demonstration on this machine. It needs no account and no network.

    Without a subcommand, it starts a gateway with an echo upstream, an open route, a route that
    needs a key and a route with a limit, and prints commands to try. Nothing is kept, unless
    --state-dir names a directory.

    \b
    Examples:
      fastgate demo
      fastgate demo payments    # a paid API, from the first 402 to the audit
    """
    import logging

    if context.invoked_subcommand is not None:
        return OK
    from fastgate.runtime import logs

    logs.set_up(log_format, getattr(logging, log_level.upper()))  # type: ignore[arg-type]
    return _run_demonstration(listen, control, workers, state_dir)


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
    # A demonstration keeps nothing, unless a directory was named for it.
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
    text = f"""
A FastGate demonstration is running at {address}. In another terminal, try:

{lines}

Every answer has an X-Request-ID. To see what happened to that request:

  export FASTGATE_STATE_DIR={state}
  {program} explain ID
  {program} status

The control API is at {control}; its token is in {token}:

  curl -H "Authorization: Bearer $(cat {token})" {control}/v1/workers

Ctrl-C stops it.

"""
    sys.stdout.write(text)
    sys.stdout.flush()


def _program() -> str:
    """How this program was called, as a command that works in any directory."""
    path = Path(sys.argv[0]).absolute()
    return f"{sys.executable} -m fastgate" if path.name == "__main__.py" else str(path)


@demo.command(short_help="Simulate a paid API and its customer.")
@click.option("--stay", is_flag=True, help="Keep everything running until Ctrl-C.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The gateway's port. Default: any free port.",
)
@click.option(
    "--folder", type=click.Path(file_okay=False),
    help="Keep the configuration, state and log in this folder. Default: keep nothing.",
)  # fmt: skip
def payments(stay: bool, port: int, folder: str | None) -> int:
    """Simulate a paid API and its customer.

    It simulates a payment provider, an x402 facilitator and a mail server on loopback, and shows
    the first 402, a top-up, a payment for a single request, a receipt, an alert, an automatic
    recharge and the audit of the ledger. It takes less than a minute.

    \b
    Examples:
      fastgate demo payments
      fastgate demo payments --stay --folder demo
    """
    from fastgate.demo.environment import DemoError, Environment
    from fastgate.demo.tour import Tour

    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the gateway too
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    with Environment(Path(folder).absolute() if folder else None, port) as environment:
        try:
            environment.start()
            click.echo(f"A gateway sells forecasts at {environment.base}.")
            Tour(environment, click.echo).run()
        except DemoError as error:
            click.echo(f"{click.style('Error:', fg='red', bold=True)} {error}", err=True)
            return FAILED
        click.echo(f"\nThat took {time.monotonic() - began:.0f} s.")
        if stay:
            _say_where(environment.base, environment.state)
            environment.wait()
    return OK


def _say_where(base: str, state: Path) -> None:
    click.echo(f"""
It runs until Ctrl-C. To look around:

  curl -i {base}/weather
  export FASTGATE_STATE_DIR={state}
  fastgate wallets show Acme
  fastgate ledger entries Acme
  fastgate report --by account,route
""")
