"""Invoices, receipts and credit notes; and notices: what customers were told."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from msgspec import Meta

from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.desk import account_of, desk_of
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.billing.invoices.invoices import Invoice, Kind, Status, render_html
from fastgate.billing.notices.notices import Notice
from fastgate.billing.payments.base import Purpose
from fastgate.billing.payments.manual import ManualProvider
from fastgate.errors import ConflictError
from fastgate.store.pages import Page

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class Paid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an invoice was paid outside of the providers."""

    reference: Annotated[str, Meta(min_length=1, max_length=120, description="The transfer's.")]


class OutboxView(msgspec.Struct, frozen=True):
    """How many notices are on their way, by state."""

    counts: dict[str, int]


@get("/v1/invoices", opt=spec("read", answer=Page[Invoice]))
async def list_invoices(
    ctx: Ctx, account: FromQuery[str], cursor: Text = None, limit: Limit = LIMIT
) -> Page[Invoice]:
    """An account's documents, the newest first."""
    desk, found = desk_of(ctx), await account_of(ctx, account)
    return await desk.invoices.page(found, cursor=cursor, limit=limit)


@get("/v1/invoices/{ident:str}", opt=spec("read", answer=Invoice))
async def get_invoice(ctx: Ctx, ident: FromPath[str]) -> Invoice:
    """One document, by id or number."""
    return await desk_of(ctx).invoices.get(ident)


@get("/v1/invoices/{ident:str}/page", opt=spec("read", answer=str, media="text/html"))
async def invoice_page(ctx: Ctx, ident: FromPath[str]) -> Response[str]:
    """The document as a page to print or to send."""
    desk = desk_of(ctx)
    invoice = await desk.invoices.get(ident)
    account = await ctx.identity.parties.account(invoice.account)
    zone = (await desk.profiles.get(invoice.account)).zone
    page = render_html(invoice, desk.billing.seller, [account.name], zone)
    return Response(page, media_type="text/html", headers=PAGE_HEADERS)


@post(
    "/v1/invoices/{ident:str}/pay",
    status_code=200,
    opt=spec("money", body=Paid, answer=Invoice),
)
async def pay_invoice(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Invoice:
    """Note that an invoice was paid otherwise; its subscription goes on at once."""
    desk = desk_of(ctx)
    body = await read(request, Paid)
    invoice = await desk.invoices.get(ident)
    if invoice.kind is not Kind.INVOICE:
        raise ConflictError(f"{invoice.number} is no invoice that could be paid.")
    if invoice.status is Status.PAID and invoice.reference != body.reference:
        raise ConflictError(f"The invoice {invoice.number} is paid already.")
    if invoice.total:
        await desk.open_account(invoice.account)
        manual = ManualProvider(desk.payments, desk.invoices.clock)
        paid = manual.received(
            invoice.account,
            invoice.amount,
            body.reference,
            purpose=Purpose.INVOICE,
            subject=invoice.id,
        )
        await desk.inbox.applier.apply(paid)
    return await desk.invoices.get(invoice.id)


@post("/v1/invoices/{ident:str}/void", status_code=200, opt=spec("money", answer=Invoice))
async def void_invoice(ctx: Ctx, ident: FromPath[str]) -> Invoice:
    """Give an open invoice up; its number stays used."""
    desk = desk_of(ctx)
    invoice = await desk.invoices.get(ident)
    return (await desk.invoices.void(invoice.id))[0]


# ---- notices ----------------------------------------------------------------------------


@get("/v1/notices", opt=spec("read", answer=Page[Notice]))
async def list_notices(
    ctx: Ctx,
    account: FromQuery[str],
    unread: FromQuery[bool] = False,
    cursor: Text = None,
    limit: Limit = LIMIT,
) -> Page[Notice]:
    """What an account was told, the newest first; `?unread=true`: what it has not read."""
    desk, found = desk_of(ctx), await account_of(ctx, account)
    return await desk.notices.page(found, cursor=cursor, limit=limit, unread=unread)


@post("/v1/notices/{ident:str}/read", status_code=200, opt=spec("money", answer=Notice))
async def read_notice(ctx: Ctx, ident: FromPath[str], account: FromQuery[str]) -> Notice:
    """Note that an account has read a notice."""
    desk, found = desk_of(ctx), await account_of(ctx, account)
    return await desk.notices.mark_read(found, ident)


@get("/v1/outbox", opt=spec("read", answer=OutboxView))
async def outbox(ctx: Ctx) -> OutboxView:
    """Mails and webhooks: how many wait, were sent, and could not be."""
    return OutboxView(await desk_of(ctx).outbox.counts())


HANDLERS: list[Any] = [
    list_invoices,
    get_invoice,
    invoice_page,
    pay_invoice,
    void_invoice,
    list_notices,
    read_notice,
    outbox,
]
