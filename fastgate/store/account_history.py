"""An account's history: the permanent records that refer to it and prevent its deletion.

The ledger, usage, invoices and payments refer to accounts by id and are permanent. An account that
has any of them cannot be deleted, so that the account of each row is always known.
"""

from __future__ import annotations

import sqlalchemy as sa

from fastgate.model.units import decimal_text
from fastgate.store.billing_tables import invoices, subscriptions
from fastgate.store.connection import AsyncConnection
from fastgate.store.money_tables import ledger_entries, usage_daily, wallets
from fastgate.store.payment_tables import payments
from fastgate.store.tables import consumers

_KEPT = (
    ("consumer(s)", consumers),
    ("subscription(s)", subscriptions),
    ("ledger entries", ledger_entries),
    ("days of usage", usage_daily),
    ("invoice(s)", invoices),
    ("payment(s)", payments),
)


async def history(connection: AsyncConnection, account: str) -> dict[str, int]:
    """How many records an account has, by kind; kinds without records are omitted."""
    found: dict[str, int] = {}
    for name, table in _KEPT:
        count = sa.select(sa.func.count()).select_from(table).where(table.c.account == account)
        number = int(await connection.scalar(count) or 0)
        if number:
            found[name] = number
    return found


async def balances(connection: AsyncConnection, account: str) -> list[tuple[str, int]]:
    """Currency and micro-units of the wallets that are not empty, according to the ledger."""
    rows = await connection.execute(
        sa.select(wallets.c.currency, wallets.c.customer_available + wallets.c.customer_held)
        .where(wallets.c.account == account)
        .order_by(wallets.c.currency)
    )
    return [(currency, int(amount)) for currency, amount in rows if amount]


def refusal(name: str, found: dict[str, int], money: list[tuple[str, int]]) -> str:
    """The error text: why an account cannot be deleted, and what to do."""
    what = ", ".join(f"{number} {kind}" for kind, number in found.items())
    if list(found) == ["consumer(s)"]:
        return f"The account {name!r} has {what}; delete or move them first."
    text = (
        f"The account {name!r} has {what}, which are kept and name it, so it cannot be deleted. "
        "Close it instead: delete its consumers, so that its keys are no longer accepted, and "
        "cancel its subscriptions"
    )
    if money:
        held = ", ".join(f"{decimal_text(micros)} {currency}" for currency, micros in money)
        text += (
            f"; its balance is {held}: refund the payment that it came from, or reverse the booking"
        )
    return text + "."
