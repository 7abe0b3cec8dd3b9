"""demo: demonstrations that play everything outside of the gateway too."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import click

from fastgate.cli import FAILED, OK


@click.group(short_help="Play a demonstration on this machine.")
def demo() -> None:
    """Play a demonstration on this machine. Nothing to sign up for; no network is used.

    \b
    Examples:
      fastgate run              # a gateway with an echo upstream, a key and a limit
      fastgate demo payments    # a paid API, from the first 402 to the audit
    """


@demo.command(short_help="Play a paid API and its customer.")
@click.option("--stay", is_flag=True, help="Keep everything running afterwards, until Ctrl-C.")
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
    """Play a paid API and its customer.

    Simulates a payment provider, an x402 facilitator and a mail server on loopback, and shows the
    first 402, a top-up, a payment for a single request, a receipt, an alert, an automatic recharge
    and the audit of the ledger. Takes less than a minute.

    \b
    Examples:
      fastgate demo payments
      fastgate demo payments --stay --folder demo
    """
    from fastgate.demo.stage import Stage, StageError
    from fastgate.demo.walk import Walk

    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the gateway too
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    with Stage(Path(folder).absolute() if folder else None, port) as stage:
        try:
            stage.start()
            click.echo(f"A gateway sells forecasts at {stage.base}.")
            Walk(stage, click.echo).run()
        except StageError as error:
            click.echo(f"{click.style('Error:', fg='red', bold=True)} {error}", err=True)
            return FAILED
        click.echo(f"\nThat took {time.monotonic() - began:.0f} s.")
        if stay:
            _say_where(stage.base, stage.control, stage.state)
            stage.wait()
    return OK


def _say_where(base: str, control: str, state: Path) -> None:
    click.echo(f"""
It runs until Ctrl-C. To look around:

  curl -i {base}/weather
  export FASTGATE_CONTROL={control} FASTGATE_STATE_DIR={state}
  fastgate wallets show Acme
  fastgate ledger entries Acme
  fastgate report --by account,route
""")
