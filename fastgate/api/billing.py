"""Shared by the handlers of the billing API: `BillingApi`, accounts, amounts, ids of bookings.

Amounts: in bodies as people write them ("12.50 EUR"), in answers whole micro-units (1 EUR =
1,000,000). A write's `Idempotency-Key` becomes the id of what it books, so that it is booked once
even long after the stored answer of that key was deleted.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from fastgate.api.context import AnyRequest, Context
from fastgate.api.problems import Problem, invalid
from fastgate.model.units import Money
from fastgate.store.ids import new_id

if TYPE_CHECKING:
    from fastgate.api.billing_api import BillingApi

Amount = Annotated[
    str,
    Meta(
        max_length=40,
        pattern=r"^[0-9]",
        description="An amount with its currency, `12.50 EUR`; at most six decimals.",
    ),
]
Reference = Annotated[
    str,
    Meta(max_length=200, description="The external reference, such as an invoice or a transfer."),
]
Note = Annotated[str, Meta(max_length=500, description="For people.")]

KEY_MOST = 100  # characters of an Idempotency-Key that an id takes as they are


def billing_of(ctx: Context) -> BillingApi:
    """Raises Problem while the gateway runs without money."""
    billing = ctx.control.billing
    if billing is None:
        raise Problem(
            "billing_off",
            "Nothing cost money when the gateway was started. Add a price to a route or plan, or "
            "a `billing` section to the configuration, and restart the gateway.",
        )
    return billing


async def account_of(ctx: Context, ident: str) -> str:
    """An account's id, from its id or name. Raises NotFoundError, StoreError."""
    return (await ctx.identity.parties.account(ident)).id


def booking_id(request: AnyRequest, what: str) -> str:
    """The id of a booking: derived from the Idempotency-Key, or new without one."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return f"{what}:{new_id('api')}"
    if len(key) > KEY_MOST:
        key = hashlib.sha256(key.encode()).hexdigest()
    return f"{what}:{key}"


def amount_of(text: str, path: str = "amount") -> Money:
    """An amount above zero, in a currency that wallets can have. Raises Problem."""
    try:
        amount = Money.parse(text)
    except ValueError as error:
        raise invalid(path, str(error)) from None
    if amount.micros == 0:
        raise invalid(path, "It must be greater than zero.")
    if len(amount.currency) != 3:
        raise invalid(path, f"Wallets have currencies of three letters, not {amount.currency}.")
    return amount
