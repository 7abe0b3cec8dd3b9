"""subscriptions: accounts on plans, and their invoices."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fastgate.cli import output
from fastgate.cli.exit_codes import OK
from fastgate.cli.money import shown
from fastgate.cli.options import client_of, control_options

SUBSCRIPTIONS = "/v1/subscriptions"

_which = click.argument("subscription", metavar="ID")


@click.group(short_help="Manage subscriptions to plans.")
def subscriptions() -> None:
    """Manage subscriptions to plans. Changes apply to the next request.

    \b
    Examples:
      fastgate subscriptions create Acme business
      fastgate subscriptions list --account Acme
      fastgate subscriptions plan sub_01... enterprise
      fastgate subscriptions cancel sub_01... --now
    """


def _print(found: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["id"],
            one["account"],
            one["plan"],
            one["service"],
            one["state"],
            output.colour(one["reason"], "red") if one["reason"] else "given",
            output.when(one["period_end"]),
            "ends" if one["cancel_at_period_end"] else "",
        )
        for one in found
    ]
    heads = ("id", "account", "plan", "service", "state", "access", "period ends", "then")
    output.table(heads, rows, "No subscriptions.")


def _show(data: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(data)
    else:
        _print([data])
    return OK


@subscriptions.command("list", short_help="List subscriptions.")
@click.option("--account", metavar="ID", help="Only this account, by id or name.")
@control_options
def list_(account: str | None, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List subscriptions, oldest first.

    \b
    Example:
      fastgate subscriptions list --account Acme
    """
    client = client_of(control, state_dir)
    found = list(client.pages(SUBSCRIPTIONS, limit=500, account=account))
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    return OK


@subscriptions.command(short_help="Subscribe an account to a plan.")
@click.argument("account")
@click.argument("plan")
@click.option("--service", metavar="NAME", help="Only for this service.")
@click.option("--no-trial", is_flag=True, help="Without the plan's trial.")
@control_options
def create(
    account: str,
    plan: str,
    service: str | None,
    no_trial: bool,
    control: str | None,
    state_dir: str | None,
    as_json: bool,
) -> int:
    """Subscribe an account to a plan, starting now.

    \b
    Example:
      fastgate subscriptions create Acme business
    """
    body = {"account": account, "plan": plan, "service": service, "trial": not no_trial}
    return _show(client_of(control, state_dir).call("POST", SUBSCRIPTIONS, body).data, as_json)


@subscriptions.command(short_help="Show a subscription and its history.")
@_which
@control_options
def show(subscription: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Show a subscription and its history.

    \b
    Example:
      fastgate subscriptions show sub_01...
    """
    client = client_of(control, state_dir)
    data = client.get(f"{SUBSCRIPTIONS}/{subscription}")
    history = client.get(f"{SUBSCRIPTIONS}/{subscription}/history")["items"]
    if as_json:
        output.print_json({**data, "history": history})
        return OK
    _print([data])
    rows = [
        (output.when(at), event, before, after, note) for at, event, before, after, note in history
    ]
    output.table(("time", "event", "before", "after", "note"), rows, "")
    return OK


@subscriptions.command(short_help="Change the plan of a subscription.")
@_which
@click.argument("plan")
@control_options
def plan(
    subscription: str, plan: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Change the plan of a subscription now. Paid time that was not used is credited.

    \b
    Example:
      fastgate subscriptions plan sub_01... enterprise
    """
    client = client_of(control, state_dir)
    path = f"{SUBSCRIPTIONS}/{subscription}"
    data = client.call("PATCH", path, {"plan": plan}, headers={"If-Match": "*"}).data
    if as_json:
        output.print_json(data)
        return OK
    _print([data["subscription"]])
    document = data["document"]
    if document is not None:
        amount = shown(document["total"], document["currency"])
        output.say(f"{document['kind']} {document['number']}: {amount}")
    return OK


def _act(
    subscription: str, action: str, body: Any, control: str | None, state_dir: str | None
) -> dict[str, Any]:
    client = client_of(control, state_dir)
    data: dict[str, Any] = client.call(
        "POST", f"{SUBSCRIPTIONS}/{subscription}/{action}", body
    ).data
    return data


@subscriptions.command(short_help="Pause service and billing.")
@_which
@control_options
def pause(subscription: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Pause service and billing until the subscription is resumed.

    \b
    Example:
      fastgate subscriptions pause sub_01...
    """
    return _show(_act(subscription, "pause", None, control, state_dir), as_json)


@subscriptions.command(short_help="Resume a paused or canceled subscription.")
@_which
@control_options
def resume(subscription: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Resume a subscription that was paused or canceled.

    \b
    Example:
      fastgate subscriptions resume sub_01...
    """
    return _show(_act(subscription, "resume", None, control, state_dir), as_json)


@subscriptions.command(short_help="Cancel a subscription.")
@_which
@click.option("--now", is_flag=True, help="Cancel now, not at the end of the period.")
@control_options
def cancel(
    subscription: str, now: bool, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Cancel a subscription at the end of its period, or now with --now. Either way, access lasts
    until the end of the paid time.

    \b
    Example:
      fastgate subscriptions cancel sub_01...
    """
    body = {"at": "now" if now else "period_end"}
    return _show(_act(subscription, "cancel", body, control, state_dir), as_json)


@subscriptions.command(short_help="List the invoices of an account.")
@click.argument("account")
@control_options
def invoices(account: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """List the invoices, receipts and credit notes of an account, newest first.

    \b
    Example:
      fastgate subscriptions invoices Acme
    """
    found = list(client_of(control, state_dir).pages("/v1/invoices", account=account, limit=500))
    if as_json:
        output.print_json(found)
        return OK
    rows = [
        (
            one["number"],
            one["kind"],
            output.colour(one["status"], "green" if one["status"] == "paid" else "yellow"),
            shown(one["total"], one["currency"]),
            output.when(one["issued"]),
            output.when(one["due"]),
        )
        for one in found
    ]
    output.table(("number", "kind", "status", "total", "issued", "due"), rows, "No documents.")
    return OK


_invoice = click.argument("invoice", metavar="INVOICE")


@subscriptions.command(short_help="Record that an invoice was paid.")
@_invoice
@click.option(
    "--reference",
    metavar="TEXT",
    required=True,
    help="The external reference, such as a bank transfer.",
)
@control_options
def pay(
    invoice: str, reference: str, control: str | None, state_dir: str | None, as_json: bool
) -> int:
    """Record that an invoice was paid by other means. Its subscription continues at once.

    INVOICE is a number or an id from `fastgate subscriptions invoices`. This charges nothing.

    \b
    Example:
      fastgate subscriptions pay INV-2026-000001 --reference "transfer 4712"
    """
    body = {"reference": reference}
    data = _on_invoice(invoice, "pay", body, control, state_dir)
    return _say_invoice(data, as_json)


@subscriptions.command(short_help="Void an open invoice.")
@_invoice
@control_options
def void(invoice: str, control: str | None, state_dir: str | None, as_json: bool) -> int:
    """Void an open invoice. It no longer has to be paid; its number is not used again.

    \b
    Example:
      fastgate subscriptions void INV-2026-000001
    """
    return _say_invoice(_on_invoice(invoice, "void", None, control, state_dir), as_json)


def _on_invoice(
    invoice: str, what: str, body: dict[str, Any] | None, control: str | None, state: str | None
) -> dict[str, Any]:
    path = f"/v1/invoices/{quote(invoice, safe='')}/{what}"
    data: dict[str, Any] = client_of(control, state).call("POST", path, body).data
    return data


def _say_invoice(data: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(data)
    else:
        output.say(
            f"{data['number']} for {shown(data['total'], data['currency'])}: {data['status']}."
        )
    return OK
