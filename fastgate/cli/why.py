"""why: would this credential be served, and if not, what helps? Also what `explain` shows of it."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import client_of, control_options

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_STYLES = {"passed": "green", "failed": "red", "skipped": "bright_black"}
_CHOSEN = {
    "asked": "as for the recorded request",
    "consumer": "chosen by consumer",
    "address": "chosen by address",
    "share": "which has the largest share of the route's split",
}


@click.command(short_help="Check whether a key would be served, and what helps if not.")
@click.argument("credential", metavar="CREDENTIAL")
@click.option("--route", metavar="NAME", help="Check for this route. Default: any route.")
@click.option("--consumer", "is_consumer", is_flag=True, help="CREDENTIAL is a consumer's name.")
@control_options
def why(
    credential: str,
    route: str | None,
    is_consumer: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Check whether a key would be served now, and what helps if not.

    CREDENTIAL is a key, its digest (sha256:…, see `fastgate hash`), "-" to read the key from
    standard input, or with --consumer a consumer's id or name. Checks the key, consumer,
    subscription, limits, spending and balance, in this order. Nothing is changed or counted.
    Exits 0 if the key would be served, and 1 if not.

    \b
    Examples:
      fastgate why - --route orders-read < key.txt
      fastgate why "Acme Web" --consumer
    """
    if credential == "-":
        credential = sys.stdin.readline().strip()
    body: dict[str, Any] = {"route": route}
    if is_consumer:
        body["consumer"] = credential
    elif (digest := _DIGEST.fullmatch(credential)) is not None:
        body["digest"] = digest[1]
    else:
        body["credential"] = credential
    data = client_of(control, state_dir).call("POST", "/v1/diagnosis", body).data
    if as_json:
        output.print_json(data)
    else:
        print_diagnosis(data)
    return OK if data["served"] else FAILED


def print_diagnosis(data: dict[str, Any], said: str = "") -> None:
    """The checks as a table, their result (unless it was already `said`), and what helps."""
    rows = []
    for step in data["steps"]:
        result = step["result"]
        if step.get("now") and step["now"] != result:
            result = f"{result}, now {step['now']}"
        numbers = ", ".join(
            f"{name} {value}" for name, value in step.get("numbers", {}).items() if value != ""
        )
        rows.append(
            (step["check"], output.colour(result, _STYLES[step["result"]]), step["text"], numbers)
        )
    output.table(("check", "", "found", "numbers"), rows, "")
    output.say("")
    if data.get("service"):
        output.say(f"The service is {data['service']}, {_CHOSEN[data['service_by']]}.")
    good = data["served"] or data["resolved"]
    if data["summary"] != said:
        output.say(click.style(data["summary"], fg="green" if good else "yellow"))
    fixes = [
        step["fix"] for step in data["steps"] if step.get("fix") and step["result"] == "failed"
    ]
    for fix in fixes:
        link = f" (/_fastgate/account/{fix['page']})" if fix.get("page") else ""
        if link or fix["text"] not in data["summary"]:
            output.say(f"What helps: {fix['text']}{link}")
