"""Wallets: balances, credits, refunds and corrections; and how accounts are billed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from fastgate.api.billing import (
    Amount,
    Note,
    Reference,
    account_of,
    amount_of,
    billing_of,
    booking_id,
)
from fastgate.api.billing_api import BillingApi
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.parties import changes_of
from fastgate.api.problems import Problem, invalid
from fastgate.billing.amounts import show
from fastgate.billing.auto_recharge import AutoRecharge
from fastgate.billing.ledger.ledger import Movement, Posted
from fastgate.billing.payments.base import Purpose
from fastgate.billing.payments.books import payment_id
from fastgate.billing.payments.manual import NAME as MANUAL
from fastgate.billing.profiles import Profile
from fastgate.errors import NotFoundError
from fastgate.model.base import exact_pattern
from fastgate.model.units import MONEY_MOST, Money
from fastgate.store.ledger import Book, Entry
from fastgate.store.payments import Payment

Currency = Annotated[
    str, Meta(pattern=exact_pattern(r"^[A-Z]{3}$"), description="Three capital letters.")
]
Micros = Annotated[int, Meta(description="Micro-units.")]


class WalletView(msgspec.Struct, frozen=True, kw_only=True):
    """A wallet. Amounts are micro-units.

    `available`: what requests can be charged now. `in_flight`: held by requests, or charged and not
    in the ledger yet. `settled`: the ledger's value, with the overdraft, less the usage that waits
    for the store. The ledger's own words: `credited` less `captured` is `balance` + `held`.
    """

    currency: str
    available: int
    in_flight: int
    settled: int
    overdraft: int
    balance: int
    held: int
    promotional: int
    credited: int
    captured: int
    text: Annotated[str, Meta(description="`available`, to be read: `9.998 USD`.")]


class Wallets(msgspec.Struct, frozen=True):
    """An account's wallets, by currency."""

    account: str
    items: list[WalletView]


class CreditNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money or promotional credit for a wallet."""

    amount: Amount
    kind: Annotated[
        Literal["payment", "promotional"],
        Meta(description="`promotional`: given for free; spent first, never paid out."),
    ] = "payment"
    reference: Reference = ""
    note: Note = ""
    tax: Annotated[
        Amount | None, Meta(description="Tax that was paid on top, in the same currency.")
    ] = None


class RefundNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Usage refunded to the wallet. (Payments are refunded at /v1/payments/…/refunds.)"""

    amount: Amount
    reference: Reference = ""
    note: Note = ""


class CorrectionNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry that corrects something: postings that add up to zero, or the reversal of another
    entry."""

    currency: Currency | None = None
    postings: Annotated[
        dict[Book, Micros],
        Meta(description="Micro-units by book; they add up to zero."),
    ] = {}
    reverses: Annotated[str | None, Meta(description="Reverse this entry instead.")] = None
    reference: Reference = ""
    note: Note = ""


class OverdraftNew(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far below zero a wallet may go."""

    currency: Currency
    micros: Annotated[int, Meta(ge=0, le=MONEY_MOST, description="Micro-units; 0: no overdraft.")]


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """The booking. `fresh`: false if it was booked before, with the same key."""

    entry: Entry
    fresh: bool
    wallet: WalletView


class ProfileChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes of an account's billing settings."""

    emails: list[str] | UnsetType = UNSET
    zone: Annotated[str, Meta(description="IANA name of its time zone.")] | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET
    low_balance: (
        Annotated[int, Meta(ge=0, description="Micro-units; null: as configured.")]
        | UnsetType
        | None
    ) = UNSET


class RechargeRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and how a wallet is recharged from the saved payment method."""

    threshold: Annotated[Amount, Meta(description="Recharge when the balance is below.")]
    amount: Annotated[Amount, Meta(description="The amount; no fractions of a cent.")]
    monthly_cap: Annotated[Amount, Meta(description="The maximum in a calendar month.")]


async def _view(billing: BillingApi, account: str, currency: str) -> WalletView:
    books = await billing.ledger.wallet(account, currency)
    if books is None:
        raise NotFoundError(f"The account {account} has no wallet in {currency}.")
    try:
        now = billing.wallets.balance(account, currency)
        available, settled = now.available, now.settled
    except NotFoundError:  # it has no cell: nothing can be charged to it yet
        available, settled = 0, books.spendable
    return WalletView(
        currency=currency,
        available=available,
        in_flight=settled - available,
        settled=settled,
        overdraft=books.overdraft,
        balance=books.customer_available,
        held=books.customer_held,
        promotional=books.promotional,
        credited=books.credited,
        captured=books.captured,
        text=show(available, currency),
    )


async def _booked(billing: BillingApi, entry: Entry, fresh: bool) -> Response[Any]:
    view = await _view(billing, entry.account, entry.currency)
    booked = Booked(entry=entry, fresh=fresh, wallet=view)
    return Response(booked, status_code=201 if fresh else 200)


@get("/v1/accounts/{ident:str}/wallets", opt=spec("read", answer=Wallets))
async def list_wallets(ctx: Ctx, ident: FromPath[str]) -> Wallets:
    """An account's balances: now, and in the ledger."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    found = await billing.ledger.wallets(account)
    return Wallets(account, [await _view(billing, account, one.currency) for one in found])


@post(
    "/v1/accounts/{ident:str}/credits",
    opt=spec("money", body=CreditNew, answer=Booked, status=201, also=[200]),
)
async def credit(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Credit a wallet with money or promotional credit. When this answers, requests can use it. 200
    and `fresh: false` if the key, or a payment with this reference, was booked before."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, CreditNew)
    movement = _movement(request, "credit", account, body)
    await billing.open_account(account)
    if body.kind == "promotional":
        if body.tax is not None:
            raise invalid("tax", "There is no tax on a gift.")
        posted = await billing.wallets.promo(movement)
    else:
        posted = await _paid_in(billing, movement, _tax(body.tax, movement.currency))
    return await _booked(billing, posted.entry, posted.fresh)


async def _paid_in(billing: BillingApi, movement: Movement, tax: int) -> Posted:
    """A payment that was seen to arrive. Its reference is booked once, with whatever key it is
    entered: it names the payment, and stands among those by the provider `manual`."""
    reference = movement.reference
    if not reference or await billing.ledger.find(movement.id) is not None:
        return await billing.wallets.credit(movement, tax=tax)
    movement = msgspec.structs.replace(movement, id=payment_id(MANUAL, reference))
    posted = await billing.wallets.credit(movement, tax=tax)
    await billing.payments.put(
        Payment(
            provider=MANUAL,
            reference=reference,
            account=movement.account,
            currency=movement.currency,
            amount=movement.amount,
            purpose=Purpose.TOP_UP.value,
            paid_at=posted.entry.created,
        )
    )
    return posted


def _movement(
    request: AnyRequest, kind: str, account: str, body: CreditNew | RefundNew
) -> Movement:
    amount = amount_of(body.amount)
    return Movement(
        id=booking_id(request, kind),
        account=account,
        currency=amount.currency,
        amount=amount.micros,
        reference=body.reference,
        note=body.note,
    )


def _tax(text: str | None, currency: str) -> int:
    if text is None:
        return 0
    tax = Money.parse(text)
    if tax.currency != currency:
        raise invalid("tax", f"It must be in {currency}.")
    return tax.micros


@post(
    "/v1/accounts/{ident:str}/refunds",
    opt=spec("money", body=RefundNew, answer=Booked, status=201, also=[200]),
)
async def refund_usage(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Refund usage to a wallet, up to the amount that was charged."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, RefundNew)
    movement = _movement(request, "refund", account, body)
    posted = await billing.wallets.refund(movement)
    return await _booked(billing, posted.entry, posted.fresh)


@post(
    "/v1/accounts/{ident:str}/corrections",
    opt=spec("money", body=CorrectionNew, answer=Booked, status=201, also=[200]),
)
async def correct(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Correct a wallet's books with a new entry; entries are never changed or deleted."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, CorrectionNew)
    if body.reverses is not None:
        if body.postings or body.currency:
            raise invalid("reverses", "Give either this, or currency and postings.")
        origin = await billing.ledger.entry(body.reverses)
        if origin.account != account:
            raise NotFoundError(f"The account has no entry {body.reverses!r}.")
        posted = await billing.wallets.reverse(body.reverses)
        return await _booked(billing, posted.entry, posted.fresh)
    if body.currency is None or not body.postings:
        raise invalid("postings", "Give currency and postings, or reverses.")
    movement = Movement(
        id=booking_id(request, "correction"),
        account=account,
        currency=body.currency,
        amount=sum(amount for amount in body.postings.values() if amount > 0),
        reference=body.reference,
        note=body.note,
    )
    await billing.open_account(account)
    posted = await billing.wallets.correct(movement, body.postings)
    return await _booked(billing, posted.entry, posted.fresh)


@put(
    "/v1/accounts/{ident:str}/overdraft",
    opt=spec("money", body=OverdraftNew, answer=Booked),
)
async def set_overdraft(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Response[Any]:
    """Allow a wallet to go below zero, for customers who pay later. Applies at once."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, OverdraftNew)
    await billing.open_account(account)
    posted = await billing.wallets.set_overdraft(
        booking_id(request, "overdraft"), account, body.currency, body.micros
    )
    view = await _view(billing, account, body.currency)
    return Response(Booked(entry=posted.entry, fresh=posted.fresh, wallet=view))


# ---- how an account is billed -----------------------------------------------------------


@get("/v1/accounts/{ident:str}/billing", opt=spec("read", answer=Profile))
async def get_profile(ctx: Ctx, ident: FromPath[str]) -> Profile:
    """How an account is billed and notified: addresses, time zone, currency, thresholds."""
    return await billing_of(ctx).profiles.get(await account_of(ctx, ident))


@patch("/v1/accounts/{ident:str}/billing", opt=spec("money", body=ProfileChange, answer=Profile))
async def change_profile(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Profile:
    """Change how an account is billed and notified."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    changes = changes_of(await read(request, ProfileChange))
    try:
        profile = await billing.profiles.update(account, **changes)
    except ValueError as error:
        raise invalid("", str(error)) from None
    billing.look_again(account)
    return profile


@get("/v1/accounts/{ident:str}/recharge", opt=spec("read", answer=AutoRecharge))
async def get_recharge(ctx: Ctx, ident: FromPath[str]) -> AutoRecharge:
    """The account's automatic recharge and its state."""
    found = await billing_of(ctx).recharges.get(await account_of(ctx, ident))
    if found is None:
        raise Problem("not_found", "The account has no automatic recharge.")
    return found


@put(
    "/v1/accounts/{ident:str}/recharge",
    opt=spec("money", body=RechargeRule, answer=AutoRecharge),
)
async def set_recharge(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> AutoRecharge:
    """Recharge a wallet automatically from the saved payment method, within a monthly cap."""
    billing, account = billing_of(ctx), await account_of(ctx, ident)
    body = await read(request, RechargeRule)
    amount = amount_of(body.amount)
    await billing.open_account(account)
    await billing.wallets.open(account, amount.currency)  # before anything can be charged for it
    try:
        rule = await billing.recharges.set(
            account,
            amount_of(body.threshold, "threshold"),
            amount,
            amount_of(body.monthly_cap, "monthly_cap"),
        )
    except ValueError as error:
        raise invalid("", str(error)) from None
    billing.look_again(account)
    return rule


@delete(
    "/v1/accounts/{ident:str}/recharge",
    status_code=200,
    opt=spec("money", answer=AutoRecharge),
)
async def stop_recharge(ctx: Ctx, ident: FromPath[str]) -> AutoRecharge:
    """Turn automatic recharge off; a charge in progress is still completed."""
    return await billing_of(ctx).recharges.disable(await account_of(ctx, ident))


HANDLERS = [
    list_wallets,
    credit,
    refund_usage,
    correct,
    set_overdraft,
    get_profile,
    change_profile,
    get_recharge,
    set_recharge,
    stop_recharge,
]
