"""dunning: how unpaid invoices are collected, and a simulation of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.options import client_of, control_options, json_option

OUTCOMES = ("ok", "later", "new_method", "never", "action", "pending", "down")


@click.group(short_help="Show or simulate the collection of unpaid invoices.")
def dunning() -> None:
    """Show or simulate the collection of unpaid invoices.

    \b
    Examples:
      fastgate dunning show Acme
      fastgate dunning simulate fastgate.yaml --plan business --outcomes later,later,ok
    """


@dunning.command(short_help="Show the collection of an account's invoices.")
@click.argument("account")
@control_options
def show(account: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show the state of the collection of an account's invoices.

    \b
    Example:
      fastgate dunning show Acme
    """
    found = client_of(control, state_dir).get("/v1/dunning", account=account)["items"]
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            one["invoice"],
            one["state"],
            one["attempt"],
            one["decline"],
            output.when(one["next_at"]),
            output.when(one["grace_ends"]),
        )
        for one in found
    ]
    heads = ("invoice", "state", "declined", "last decline", "next try", "grace ends")
    output.table(heads, rows, "There is nothing to collect.")
    return OK


@dunning.command(short_help="Simulate a subscription.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option("--plan", "plan_name", required=True, metavar="NAME", help="The plan to simulate.")
@click.option(
    "--outcomes", default="ok", metavar="LIST",
    help="The outcomes of the charges in order, separated by commas; the last one repeats. Each "
        "is one of "
    f"{', '.join(OUTCOMES)}. Default: ok.",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 3660), default=60, help="How many days. Default: 60."
)
@click.option(
    "--begins", type=click.DateTime(formats=["%Y-%m-%d"]), help="First day (UTC). Default: today."
)
@click.option("--no-method", is_flag=True, help="The customer has no payment method at first.")
@json_option
def simulate(
    config: str,
    plan_name: str,
    outcomes: str,
    days: int,
    begins: Any,
    no_method: bool,
    as_json: bool,
) -> int:
    """Simulate a subscription, with the gateway's own code and a simulated clock.

    It takes plans and rules from CONFIG, needs no gateway and charges nobody. It shows every
    charge, every notice, and every change of state and access.

    \b
    Example:
      fastgate dunning simulate fastgate.yaml --plan business --outcomes later,later,ok
    """
    import asyncio

    from fastgate.billing.simulate import Scenario
    from fastgate.billing.simulate import simulate as simulated
    from fastgate.config.file import load

    wanted = [part.strip() for part in outcomes.split(",") if part.strip()]
    if not wanted or any(part not in OUTCOMES for part in wanted):
        raise click.UsageError(f"--outcomes takes {', '.join(OUTCOMES)}.")
    gateway = load(config).gateway
    plans = sorted(gateway.plans, key=lambda plan: plan.name != plan_name)
    if not plans or plans[0].name != plan_name:
        raise click.UsageError(f"{config} has no plan {plan_name!r}.")
    first = begins.replace(tzinfo=UTC) if begins else _today()
    scenario = Scenario(
        plans=plans,
        begins=first,
        billing=gateway.billing,
        days=days,
        outcomes=wanted,  # type: ignore[arg-type]
        has_method=not no_method,
    )
    timeline = asyncio.run(simulated(scenario))
    rows = [(one.at, one.kind, one.what or "given", one.detail) for one in timeline]
    if as_json:
        names = ("at", "kind", "what", "detail")
        output.print_json(
            [dict(zip(names, (at.isoformat(), *rest), strict=True)) for at, *rest in rows]
        )
    else:
        table = [(output.when(at.isoformat()), *rest) for at, *rest in rows]
        output.table(("time", "", "what", "detail"), table, "Nothing happens.")
    return OK


def _today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
