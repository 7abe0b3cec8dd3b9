"""Invoices, receipts and credit notes; and notices sent to customers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery
from msgspec import Meta

from fastgate.api.billing import account_of, billing_of
from fastgate.api.bodies import read
from fastgate.api.context import AnyRequest, Ctx
from fastgate.api.describe import spec
from fastgate.api.paging import LIMIT, Limit, Text
from fastgate.billing.invoices.invoices import DocumentKind, Invoice, Status, render_html
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
    """How an invoice was paid outside the providers."""

    reference: Annotated[str, Meta(min_length=1, max_length=120, description="The transfer's.")]


class OutboxView(msgspec.Struct, frozen=True):
    """How many notices are on their way, by state."""

    counts: dict[str, int]


@get("/v1/invoices", opt=spec("read", answer=Page[Invoice]))
async def list_invoices(
    ctx: Ctx, account: FromQuery[str], cursor: Text = None, limit: Limit = LIMIT
) -> Page[Invoice]:
    """An account's documents, newest first."""
    billing, found = billing_of(ctx), await account_of(ctx, account)
    return await billing.invoices.page(found, cursor=cursor, limit=limit)


@get("/v1/invoices/{ident:str}", opt=spec("read", answer=Invoice))
async def get_invoice(ctx: Ctx, ident: FromPath[str]) -> Invoice:
    """One document, by id or number."""
    return await billing_of(ctx).invoices.get(ident)


@get("/v1/invoices/{ident:str}/page", opt=spec("read", answer=str, media="text/html"))
async def invoice_page(ctx: Ctx, ident: FromPath[str]) -> Response[str]:
    """The document as a printable page."""
    billing = billing_of(ctx)
    invoice = await billing.invoices.get(ident)
    account = await ctx.identity.parties.account(invoice.account)
    zone = (await billing.profiles.get(invoice.account)).zone
    page = render_html(invoice, billing.config.seller, [account.name], zone)
    return Response(page, media_type="text/html", headers=PAGE_HEADERS)


@post(
    "/v1/invoices/{ident:str}/pay",
    status_code=200,
    opt=spec("money", body=Paid, answer=Invoice),
)
async def pay_invoice(ctx: Ctx, request: AnyRequest, ident: FromPath[str]) -> Invoice:
    """Record that an invoice was paid by other means; its subscription continues at once."""
    billing = billing_of(ctx)
    body = await read(request, Paid)
    invoice = await billing.invoices.get(ident)
    if invoice.kind is not DocumentKind.INVOICE:
        raise ConflictError(f"{invoice.number} is not an invoice that can be paid.")
    if invoice.status is Status.PAID and invoice.reference != body.reference:
        raise ConflictError(f"The invoice {invoice.number} is already paid.")
    if invoice.total:
        await billing.open_account(invoice.account)
        manual = ManualProvider(billing.payments, billing.invoices.clock)
        paid = manual.received(
            invoice.account,
            invoice.amount,
            body.reference,
            purpose=Purpose.INVOICE,
            subject=invoice.id,
        )
        await billing.inbox.applier.apply(paid)
    return await billing.invoices.get(invoice.id)


@post("/v1/invoices/{ident:str}/void", status_code=200, opt=spec("money", answer=Invoice))
async def void_invoice(ctx: Ctx, ident: FromPath[str]) -> Invoice:
    """Void an open invoice; its number is not used again."""
    billing = billing_of(ctx)
    invoice = await billing.invoices.get(ident)
    return (await billing.invoices.void(invoice.id))[0]


# ---- notices ----------------------------------------------------------------------------


@get("/v1/notices", opt=spec("read", answer=Page[Notice]))
async def list_notices(
    ctx: Ctx,
    account: FromQuery[str],
    unread: FromQuery[bool] = False,
    cursor: Text = None,
    limit: Limit = LIMIT,
) -> Page[Notice]:
    """The notices of an account, newest first; `?unread=true`: only unread ones."""
    billing, found = billing_of(ctx), await account_of(ctx, account)
    return await billing.notices.page(found, cursor=cursor, limit=limit, unread=unread)


@post("/v1/notices/{ident:str}/read", status_code=200, opt=spec("money", answer=Notice))
async def read_notice(ctx: Ctx, ident: FromPath[str], account: FromQuery[str]) -> Notice:
    """Mark a notice as read."""
    billing, found = billing_of(ctx), await account_of(ctx, account)
    return await billing.notices.mark_read(found, ident)


@get("/v1/outbox", opt=spec("read", answer=OutboxView))
async def outbox(ctx: Ctx) -> OutboxView:
    """E-mails and webhooks: how many are waiting, sent, and failed."""
    return OutboxView(await billing_of(ctx).outbox.counts())


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
