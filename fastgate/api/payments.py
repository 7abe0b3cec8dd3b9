"""Payments, payment pages, refunds through providers; dunning; grace."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from msgspec import Meta

from fastgate.api.billing import Amount, account_of, amount_of, billing_of, booking_id
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit
from fastgate.billing.invoices.cases import Case, cases_of
from fastgate.billing.payments.base import Checkout, PaymentMethod
from fastgate.billing.payments.chain import ProviderState
from fastgate.errors import NotFoundError
from fastgate.store.payment_events import Backlog
from fastgate.store.payments import Attempt, Grant, Payment, Return

Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://",
        max_length=2000,
        description="The URL to which the customer returns afterwards.",
    ),
]


class Payments(msgspec.Struct, frozen=True):
    """What an account has paid, and the attempted charges; newest first."""

    payments: list[Payment]
    attempts: list[Attempt]
    grace: list[Grant]


class OnePayment(msgspec.Struct, frozen=True):
    """A payment and its refunds."""

    payment: Payment
    returns: list[Return]


class TopUpNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page for paying an amount into the wallet."""

    amount: Amount
    return_url: Url


class MethodNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page for saving a payment method."""

    return_url: Url


class PaymentRefund(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a payment is refunded."""

    amount: Annotated[Amount | None, Meta(description="Default: the rest of it.")] = None


class RefundView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a refund. `amount`: micro-units; `reference`: the provider's id for it."""

    status: str
    provider: str
    currency: str
    amount: int
    reference: str
    message: str


class Methods(msgspec.Struct, frozen=True):
    """An account's saved payment methods."""

    items: list[PaymentMethod]


class Providers(msgspec.Struct, frozen=True):
    """The payment providers in their order, and their waiting events."""

    items: list[ProviderState]
    backlog: dict[str, Backlog]


class Cases(msgspec.Struct, frozen=True):
    """Invoices that are being collected, newest first."""

    items: list[Case]


@get("/v1/payments", opt=spec("read", answer=Payments))
async def list_payments(ctx: Ctx, account: FromQuery[str], limit: Limit = LIMIT) -> Payments:
    """An account's payments and charges, and the grace it was granted while no provider was
    available."""
    billing, found = billing_of(ctx), await account_of(ctx, account)
    return Payments(
        await billing.payments.of_account(found, limit),
        await billing.attempts.of_account(found, limit),
        await billing.grants.of_account(found, limit),
    )


@get("/v1/payments/{provider:str}/{payment:str}", opt=spec("read", answer=OnePayment))
async def get_payment(ctx: Ctx, provider: FromPath[str], payment: FromPath[str]) -> OnePayment:
    """One payment, by its provider and the provider's id for it."""
    billing = billing_of(ctx)
    found = await billing.payments.get(provider, payment)
    if found is None:
        raise NotFoundError(f"There is no payment {payment!r} by {provider!r}.")
    return OnePayment(found, await billing.payments.returns(provider, payment))


@post(
    "/v1/payments/{provider:str}/{payment:str}/refunds",
    opt=spec("money", body=PaymentRefund, answer=RefundView, status=201),
)
async def refund_payment(
    ctx: Ctx, request: AnyRequest, provider: FromPath[str], payment: FromPath[str]
) -> Response[Any]:
    """Refund a payment through the provider that took it. The amount is taken from the wallet
    first; money that was spent cannot be refunded."""
    billing = billing_of(ctx)
    body = await read(request, PaymentRefund, optional=True)
    amount = amount_of(body.amount) if body.amount is not None else None
    key = booking_id(request, "refund")
    result = await billing.refunds.refund(provider, payment, amount, key)
    view = RefundView(
        status=result.status.value,
        provider=result.provider,
        currency=result.amount.currency,
        amount=result.amount.micros,
        reference=result.reference,
        message=result.message,
    )
    return Response(view, status_code=201)


@post(
    "/v1/accounts/{ident:str}/grace/{grant:str}/end",
    status_code=204,
    opt=spec("money", status=204),
)
async def end_grace(ctx: Ctx, ident: FromPath[str], grant: FromPath[str]) -> None:
    """End the grace of an account early: from now on, its wallet may go no lower."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    if not await billing.grace.end(account, grant):
        raise NotFoundError(f"The account {ident} has no open grace {grant!r}.")


@post(
    "/v1/accounts/{ident:str}/top-ups",
    opt=spec("money", body=TopUpNew, answer=Checkout, status=201),
)
async def top_up(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """A payment provider's page where the account's owner can pay an amount into the wallet."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, TopUpNew)
    amount = amount_of(body.amount)
    await billing.open_account(account)
    await billing.wallets.open(account, amount.currency)  # before anything can be paid for it
    made = await billing.providers.create_top_up(account, amount, body.return_url)
    return Response(made, status_code=201)


@get("/v1/accounts/{ident:str}/payment-methods", opt=spec("read", answer=Methods))
async def list_methods(ctx: Ctx, ident: FromPath[str]) -> Methods:
    """An account's saved payment methods, from its providers."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    return Methods(await billing.providers.list_methods(account))


@post(
    "/v1/accounts/{ident:str}/payment-methods",
    opt=spec("money", body=MethodNew, answer=Checkout, status=201),
)
async def add_method(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """A payment provider's page where the account's owner can save a payment method."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, MethodNew)
    made = await billing.providers.create_method_link(account, body.return_url)
    return Response(made, status_code=201)


@get("/v1/payment-providers", opt=spec("read", answer=Providers))
async def providers(ctx: Ctx) -> Providers:
    """The payment providers: whether they are available, since when, and their waiting events."""
    billing = billing_of(ctx)
    return Providers(billing.providers.states(), await billing.inbox.backlog())


@get("/v1/dunning", opt=spec("read", answer=Cases))
async def dunning(ctx: Ctx, account: FromQuery[str]) -> Cases:
    """The state of the collection of an account's invoices: attempts, declines, grace."""
    billing, found = billing_of(ctx), await account_of(ctx, account)
    async with billing.ledger.store.read() as connection:
        return Cases(await cases_of(connection, found))


HANDLERS = [
    list_payments,
    get_payment,
    refund_payment,
    end_grace,
    top_up,
    list_methods,
    add_method,
    providers,
    dunning,
]
