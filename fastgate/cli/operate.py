"""status, explain, drain: the running gateway."""

from __future__ import annotations

import re
from typing import Any

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import FAILED, OK
from fastgate.cli.options import client_of, control_options

SILENT_S = 2
"""Seconds without a heartbeat after which this is shown; a worker has one twice a second."""


@click.command(short_help="Show the state of the gateway.")
@control_options
def status(control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show the state of the gateway: whether it is ready, its workers, its store.

    Exits 0 if every worker serves the newest configuration, and 1 if not.

    \b
    Examples:
      fastgate status
      until fastgate status >/dev/null; do sleep 1; done
    """
    data = client_of(control, state_dir).get("/v1/status")
    if as_json:
        output.print_json(data)
    else:
        _print_status(data)
    return OK if data["ready"] else FAILED


def _print_status(data: dict[str, Any]) -> None:
    state = (
        click.style("ready", fg="green") if data["ready"] else click.style("not ready", fg="red")
    )
    output.say(f"FastGate {data['version']} is {state}, generation {data['generation']}.")
    for reason in data["reasons"]:
        output.say(f"  {reason}")
    counts = ", ".join(
        output.plural(data[name], name) for name in ("routes", "services", "upstreams", "plans")
    )
    store = data["store"]
    health = "ready" if store["ready"] else f"away: {store['problem']}"
    output.say(f"{counts}; store {store['kind']} ({health}).")
    rows = [
        (
            worker["index"],
            worker["pid"] or "-",
            _state(worker, data["generation"]),
            worker["connections"],
            worker["in_flight"],
            worker["upstream_idle"],
            output.no_wrap(output.size(worker["memory"])),
            max(0, worker["starts"] - 1),
        )
        for worker in data["workers"]
    ]
    heads = ("worker", "pid", "state", "clients", "in flight", "pooled", "memory", "restarts")
    output.table(heads, rows, "No workers.")


def _state(worker: dict[str, Any], newest: int) -> Any:
    """The worker's state, and what is unusual about it."""
    state, age = worker["state"], worker["heartbeat_age"]
    notes = [state]
    if state != "down" and worker["generation"] != newest:
        notes.append(f"generation {worker['generation']}")
    if state != "down" and age > SILENT_S:
        notes.append(f"no heartbeat for {age:.0f} s")
    well = state == "serving" and len(notes) == 1
    color = "green" if well else "red" if state == "down" else "yellow"
    return output.colour(", ".join(notes), color)


@click.command(short_help="Explain what happened to a request.")
@click.argument("request_id", metavar="ID")
@control_options
def explain(request_id: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Explain what happened to a request, phase by phase, and what to do about it.

    ID is the answer's X-Request-ID, or the `instance` of a refusal (urn:fastgate:request:ID). The
    gateway keeps only the most recent requests.

    \b
    Example:
      fastgate explain 0af7651916cd43dd8448eb211c80319c
    """
    wanted = request_id.rpartition(":")[2].replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", wanted):
        raise click.UsageError(f"{request_id!r} is not a request id, which has 32 hex digits.")
    client = client_of(control, state_dir)
    data = client.get(f"/v1/requests/{wanted}")
    if data.get("reason"):
        data["diagnosis"] = client.get(f"/v1/requests/{wanted}/diagnosis")
    if as_json:
        output.print_json(data)
        return OK
    said = _print_request(data)
    if "diagnosis" in data:
        from fastgate.cli.why import print_diagnosis

        output.say("")
        print_diagnosis(data["diagnosis"], said)
    return OK


def _print_request(data: dict[str, Any]) -> str:
    """Print it. Returns the text that was printed for the reason."""
    from fastgate.errors import REASON_BY_CODE

    what = " ".join(str(data.get(name) or "-") for name in ("method", "path"))
    host = f" on {data['host']}" if data.get("host") else ""
    output.say(f"{click.style(what, bold=True)}{host}")
    ended = str(data["status"]) if data.get("status") else "no answer"
    good = data.get("outcome") in ("answered", "tunnelled")
    total = data["duration_us"] / 1000
    verdict = click.style(f"{data['outcome']}, {ended}", fg="green" if good else "red")
    output.say(f"{verdict} after {total:.2f} ms, at {data['time']}")
    reason = REASON_BY_CODE.get(data.get("reason") or "")
    if reason is not None:
        output.say(f"\n{reason.code}: {reason.title}.\n{reason.text}")
        if data.get("fault"):
            output.say(f"Found: {data['fault']}.")
        if data.get("limit"):
            output.say(f"The limit that refused: {data['limit']}.")
    output.say("")
    for label, value in (
        ("route", data.get("route")),
        ("consumer", data.get("consumer")),
        ("client", _client(data)),
        ("target", data.get("target")),
        ("attempts", data.get("attempts") if data.get("target") else None),
        ("fault", "a delay was injected on purpose" if data.get("delayed") else None),
        ("upstream", f"{data['upstream_us'] / 1000:.2f} ms" if data.get("upstream_us") else None),
        ("bytes", f"{data['bytes_in']} in, {data['bytes_out']} out"),
        ("trace", data.get("trace")),
        ("served by", f"worker {data['worker']}, generation {data['generation']}"),
    ):
        if value:
            output.say(f"{label:>10}  {value}")
    output.say("")
    rows = [
        (phase["name"], f"{phase['start_us'] / 1000:.3f}", f"{phase['duration_us'] / 1000:.3f}")
        for phase in data["phases"]
    ]
    output.table(("phase", "began, ms", "took, ms"), rows, "No phases were recorded.")
    return reason.text if reason is not None else ""


def _client(data: dict[str, Any]) -> str:
    """Where a request came from, and how."""
    address = f"{data['client']}:{data['port']}"
    over_tls = ", over TLS" if data.get("tls") else ""
    certificate = ", with a client certificate" if data.get("client_certificate") else ""
    return address + over_tls + certificate


@click.command(short_help="Stop the gateway gracefully.")
@control_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def drain(control: str | None, state_dir: str | None, as_json: bool, yes: bool) -> int:
    """Stop the gateway gracefully, as SIGTERM does.

    Readiness becomes 503 and no new connections are accepted. Requests in progress are completed
    (for at most `drain_timeout`), then every process stops. This cannot be undone.

    \b
    Example:
      fastgate drain --yes
    """
    client = client_of(control, state_dir)
    if not yes:
        click.confirm("End the gateway?", abort=True, err=True)
    data = client.call("POST", "/v1/drain").data
    if as_json:
        output.print_json(data)
    else:
        output.say("The gateway is draining and will end.")
    return OK
