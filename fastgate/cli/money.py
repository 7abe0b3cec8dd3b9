"""Amounts and accounts, as the commands for money print and parse them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import click

F = TypeVar("F", bound=Callable[..., Any])

account_argument = click.argument("account", metavar="ACCOUNT")


def path_of(account: str) -> str:
    """The API's path of an account, by id or name."""
    return f"/v1/accounts/{quote(account, safe='')}"


def shown(micros: int, currency: str = "") -> str:
    """Micro-units as people read them: "-12.50 EUR"; at least two decimals."""
    from fastgate.model.units import decimal_text

    return f"{decimal_text(micros)} {currency}".rstrip()


def key_option(command: F) -> F:
    """--key: makes a booking happen only once."""
    return click.option(
        "--key", metavar="TEXT",
        help="An idempotency key: repeating the command with the same key books nothing twice.",
    )(command)  # fmt: skip


def headers(key: str | None) -> dict[str, str]:
    """The Idempotency-Key of a write, if one was given."""
    return {} if key is None else {"Idempotency-Key": key}


def reference_options(command: F) -> F:
    """--reference, --note: stored with a booking."""
    for option in (
        click.option("--note", default="", metavar="TEXT", help="A note for people."),
        click.option(
            "--reference", default="", metavar="TEXT",
            help="The external reference, such as a bank transfer. A payment with the same "
            "reference is booked only once.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command
