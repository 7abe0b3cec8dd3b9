"""Events from payment providers: stored at once, processed until applied, applied once.

```
webhook ──▶ Inbox.receive: signature? ─▶ one row by event id ─▶ 2xx   (store down: 503, and the
reconcile ─▶ Inbox.keep ────────────────▶ the same row                 provider sends it again)
                                             │
             Inbox.work: claim ─▶ resolve (at the provider) ─▶ Applier.apply, fact by fact ─▶ done
                                             └─ failed ─▶ again later, up to three days
```

**Events may arrive in any order and more than once.** An event has one row, however often it
arrives. A fact is applied under its own name in the ledger (`books`), so nothing changes if two
events report the same fact, after a crash between two steps, or if an operator has all events
processed again. Facts are always fetched in their current state, so a late event does not restore
an old one.

The effect of each fact:

```
payment_succeeded   top_up: credit     invoice: dunning settles it       the charge's row ends
payment_failed, …   invoice: dunning decides                              the charge's row ends
refund              its amount, set aside before or now, is paid out
refund_failed       an amount set aside is released; one that was paid out is credited again
dispute_*           set aside, even below zero; then paid out (lost) or released (won)
any of these, of a fee   credits by credit notes are taken from the wallet or restored, to match
subscription_*      our subscription takes over the state
method_*            subscriptions and unpaid invoices are updated
```

A payment without our mark (`purpose` None), or of a customer that is not ours, has no effect.
Listeners (`on_event`) are called for every fact after it was applied, perhaps more than once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import msgspec

from fastgate.billing.ledger.ledger import Movement, Posted
from fastgate.billing.payments.base import (
    ChargeResult,
    ChargeStatus,
    Clock,
    EventKind,
    Notification,
    PaymentMethod,
    ProviderEvent,
    ProviderSubscription,
    ProviderUnavailable,
    Purpose,
    WebhookRejected,
)
from fastgate.billing.payments.books import Books, cost_id, payment_id, return_id
from fastgate.billing.payments.breaker import CircuitOpen
from fastgate.billing.payments.chain import Chain
from fastgate.errors import ConflictError, NotFoundError, StoreError
from fastgate.model.units import Money
from fastgate.store.payment_events import Backlog, EventRow, EventTable
from fastgate.store.payments import Payment, PaymentTable, Return

log = logging.getLogger("fastgate.billing")

BODY_MOST = 1 << 20
"""Maximum octets of a webhook; providers send a few thousand."""
LEASE = timedelta(minutes=2)
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
GIVE_UP = timedelta(days=3)
KEEP = timedelta(days=40)
"""Longer than providers list their events, so that none of them returns as new."""

Listener = Callable[[ProviderEvent], Awaitable[None]]
Booking = Callable[[Movement], Awaitable[Posted]]


class Subscriptions(Protocol):
    """The part of `fastgate.billing.subscriptions.subscriptions.Subscriptions` needed here."""

    async def adopt(self, provider: str, theirs: ProviderSubscription) -> object:
        """Take over the state of a subscription."""

    async def method_changed(self, account: str, present: bool) -> None:
        """Whether the account has a payment method now."""


class Dunning(Protocol):
    """`fastgate.billing.dunning.dunning.Dunning`, likewise."""

    async def settle(self, ident: str, result: ChargeResult, key: str = "") -> bool:
        """Record the outcome of a charge of one of our invoices. Raises NotFoundError."""

    async def returned(self, ident: str) -> bool:
        """A payment of one of our invoices was returned, or the return was undone.
        Raises NotFoundError."""

    async def taken_back(self, ident: str) -> Mapping[tuple[str, str], int]:
        """How much of the credits of one of our invoices must be out of the wallet."""

    async def method_attached(self, account: str) -> int:
        """Another payment method was attached."""


# ---- applying ---------------------------------------------------------------------------

_STATUS = {
    EventKind.PAYMENT_SUCCEEDED: ChargeStatus.SUCCEEDED,
    EventKind.PAYMENT_FAILED: ChargeStatus.FAILED,
    EventKind.PAYMENT_ACTION_REQUIRED: ChargeStatus.ACTION_REQUIRED,
    EventKind.PAYMENT_PENDING: ChargeStatus.PENDING,
}


class Applier:
    """Applies facts. Every step may be repeated; all raise StoreError."""

    def __init__(
        self,
        chain: Chain,
        books: Books,
        payments: PaymentTable,
        clock: Clock,
        *,
        subscriptions: Subscriptions | None = None,
        dunning: Dunning | None = None,
    ) -> None:
        self.on_event: list[Listener] = []
        self._chain = chain
        self._books = books
        self._payments = payments
        self._clock = clock
        self._subscriptions = subscriptions
        self._dunning = dunning

    async def apply(self, event: ProviderEvent) -> None:
        """Apply one fact. Raises what the ledger and the billing raise."""
        match event.kind:
            case EventKind.PAYMENT_SUCCEEDED:
                await self._paid(event)
            case (
                EventKind.PAYMENT_FAILED
                | EventKind.PAYMENT_PENDING
                | EventKind.PAYMENT_ACTION_REQUIRED
            ):
                await self._unpaid(event)
            case EventKind.REFUND | EventKind.REFUND_FAILED:
                await self._refunded(event)
            case EventKind.DISPUTE_OPENED | EventKind.DISPUTE_WON | EventKind.DISPUTE_LOST:
                await self._disputed(event)
            case EventKind.SUBSCRIPTION_CHANGED:
                await self._adopted(event)
            case EventKind.METHOD_ATTACHED | EventKind.METHOD_UPDATED | EventKind.METHOD_DETACHED:
                await self._method(event)
            case _:
                pass  # for listeners
        for listener in self.on_event:
            await listener(event)

    # ---- payments -------------------------------------------------------------------------

    async def _paid(self, event: ProviderEvent) -> None:
        if not _ours(event):
            return
        money = _money(event)
        known = await self._payments.get(event.provider, event.payment)
        if known is not None and known.subject != event.subject:
            raise ConflictError(
                f"The payment {event.payment!r} by {event.provider!r} was for another invoice."
            )
        await self._in(event)(_movement(payment_id(event.provider, event.payment), event))
        await self._payments.put(
            Payment(
                provider=event.provider,
                reference=event.payment,
                account=event.account,
                currency=money.currency,
                amount=money.micros,
                purpose=str(event.purpose),
                subject=event.subject,
                paid_at=event.at,
            )
        )
        cost = event.cost
        if cost is not None and cost.micros and cost.currency == money.currency:
            kept = msgspec.structs.replace(event, amount=cost)
            await self._books.provider_fee(_movement(cost_id(event.provider, event.payment), kept))
        await self._settle(event)
        await self._match_credits(event)

    def _in(self, event: ProviderEvent) -> Booking:
        """The method that books an incoming payment: into the wallet, or as revenue."""
        return self._books.credit if event.purpose is Purpose.TOP_UP else self._books.fee

    def _aside(self, event: ProviderEvent) -> Booking:
        """The method that sets aside a returned or contested amount."""
        return self._books.dispute if event.purpose is Purpose.TOP_UP else self._books.fee_aside

    async def _unpaid(self, event: ProviderEvent) -> None:
        if _ours(event):
            await self._settle(event)

    async def _settle(self, event: ProviderEvent) -> None:
        """Update the charge's row and its invoice."""
        await self._chain.note(event)
        if event.purpose is not Purpose.INVOICE or self._dunning is None:
            return
        result = ChargeResult(
            status=_STATUS[event.kind],
            provider=event.provider,
            amount=_money(event),
            reference=event.payment,
            decline=event.decline,
            code=event.code,
            message=event.message,
            action_url=event.url,
        )
        try:
            await self._dunning.settle(event.subject, result, event.attempt)
        except NotFoundError:
            log.error(
                "The payment %s names the invoice %s, which does not exist.",
                event.payment,
                event.subject,
            )

    # ---- refunds and disputes -------------------------------------------------------------

    async def _refunded(self, event: ProviderEvent) -> None:
        if not _ours(event):
            return
        ident = return_id(event)
        if event.kind is EventKind.REFUND_FAILED:
            await self._return(event, "refund", "kept")
            await self._failed(ident, event)
        elif await self._known_as_failed(event):
            return  # a repeated event of a refund that has failed since
        else:
            await self._return(event, "refund", "returned")
            try:
                await self._books.pay_out(ident, reference=event.reference)
            except NotFoundError:  # not requested here, but made at the provider
                await self._take(ident, event)
            except ConflictError:  # we had treated it as refused, and released it
                await self._take(f"{ident}:late", event)
        await self._owed_again(event)

    async def _known_as_failed(self, event: ProviderEvent) -> bool:
        returns = await self._payments.returns(event.provider, event.payment)
        return any(one.reference == event.reference and one.state == "kept" for one in returns)

    async def _failed(self, ident: str, event: ProviderEvent) -> None:
        """Restore the amount that was set aside for a refund that failed."""
        for origin in (ident, f"{ident}:late"):
            with suppress(NotFoundError):  # it was never set aside: nothing to restore
                try:
                    await self._books.release(origin, reference=event.reference)
                except ConflictError:  # it was already paid out
                    await self._in(event)(_movement(f"{origin}:failed", event))

    async def _take(self, ident: str, event: ProviderEvent) -> None:
        await self._aside(event)(_movement(ident, event))
        await self._books.pay_out(ident, reference=event.reference)

    async def _owed_again(self, event: ProviderEvent) -> None:
        """Update the invoice if the returned payment, or the undone return, is of a fee."""
        if event.purpose is Purpose.INVOICE and self._dunning is not None:
            try:
                await self._dunning.returned(event.subject)
            except NotFoundError:
                log.error(
                    "A returned payment names the invoice %s, which does not exist.", event.subject
                )
        await self._match_credits(event)

    async def _match_credits(self, event: ProviderEvent) -> None:
        """Take back the credits of a fee that was returned."""
        if event.purpose is Purpose.INVOICE and self._dunning is not None:
            wanted = partial(self._dunning.taken_back, event.subject)
            await self._books.take_back(event.account, wanted)

    async def match_credits(self) -> None:
        """The same for all returns ever: a store may have credits from before this rule."""
        if self._dunning is not None:
            for account, invoice in await self._payments.returned_invoices():
                await self._books.take_back(account, partial(self._dunning.taken_back, invoice))

    async def _disputed(self, event: ProviderEvent) -> None:
        if not _ours(event):
            return
        state = {
            EventKind.DISPUTE_OPENED: "contested",
            EventKind.DISPUTE_WON: "kept",
            EventKind.DISPUTE_LOST: "returned",
        }[event.kind]
        await self._return(event, "dispute", state)
        ident = return_id(event)
        await self._aside(event)(_movement(ident, event))
        if event.kind is EventKind.DISPUTE_WON:
            await self._books.release(ident, reference=event.reference)
        elif event.kind is EventKind.DISPUTE_LOST:
            await self._books.pay_out(ident, reference=event.reference)
        await self._owed_again(event)

    async def _return(self, event: ProviderEvent, kind: str, state: str) -> None:
        money = _money(event)
        await self._payments.put_return(
            Return(
                provider=event.provider,
                reference=event.reference,
                payment=event.payment,
                key=event.attempt,
                kind=kind,
                currency=money.currency,
                amount=money.micros,
                state=state,
                at=event.at,
                updated=self._clock(),
            )
        )

    # ---- subscriptions and methods --------------------------------------------------------

    async def _adopted(self, event: ProviderEvent) -> None:
        if self._subscriptions is not None and event.subscription is not None and event.account:
            await self._subscriptions.adopt(event.provider, event.subscription)

    async def _method(self, event: ProviderEvent) -> None:
        if not event.account:
            return
        attached = event.kind is EventKind.METHOD_ATTACHED
        if attached:
            present = True
        else:
            methods: list[PaymentMethod] = await self._chain.list_methods(event.account)
            present = bool(methods)
        if self._subscriptions is not None:
            await self._subscriptions.method_changed(event.account, present)
        if self._dunning is not None and event.kind is not EventKind.METHOD_DETACHED:
            await self._dunning.method_attached(event.account)


def _ours(event: ProviderEvent) -> bool:
    """Whether the payment was made through us, for an account of ours."""
    if event.purpose is None:
        return False
    if not event.account:
        log.error("The payment %s is marked as ours but belongs to no account.", event.payment)
        return False
    return True


def _money(event: ProviderEvent) -> Money:
    if event.amount is None:
        raise ValueError(f"{event.kind} without an amount")
    return event.amount


def _movement(ident: str, event: ProviderEvent) -> Movement:
    money = _money(event)
    return Movement(
        id=ident,
        account=event.account,
        currency=money.currency,
        amount=money.micros,
        reference=event.reference[:200],
        note=f"{event.provider}: {event.kind.value.replace('_', ' ')}",
    )


# ---- storing and processing ----------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True):
    """The result of a webhook: the event's id, and whether it was new."""

    event: str
    fresh: bool


class Inbox:
    """Events of all providers. Used on one event loop; several gateways may share the store."""

    def __init__(self, chain: Chain, events: EventTable, applier: Applier, clock: Clock) -> None:
        self.arrived = asyncio.Event()
        """Set when there is a new event; cleared by the code that processes it."""
        self.events = events
        self._chain = chain
        self.applier = applier
        self._clock = clock

    async def receive(self, provider: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Store the event of a webhook. Header names in lower case.

        Raises WebhookRejected (answer 400), ProviderRefused for an unknown provider (404),
        StoreError (503: the provider sends it again).
        """
        if len(body) > BODY_MOST:
            raise WebhookRejected("The webhook is larger than the maximum.")
        notification = self._chain.provider(provider).verify_webhook(headers, body)
        fresh = await self.keep([notification], "webhook")
        return Receipt(notification.id, bool(fresh))

    async def keep(self, notifications: Sequence[Notification], source: str) -> list[str]:
        """Store the new ones; returns their ids. `source`: "webhook" or "reconcile"."""
        now = self._clock()
        fresh = await self.events.add(
            [
                EventRow(
                    provider=item.provider,
                    id=item.id,
                    type=item.type,
                    object=item.object,
                    hint=item.hint,
                    created=item.created,
                    received=now,
                    source=source,
                    next_at=now,
                )
                for item in notifications
            ]
        )
        if fresh:
            self.arrived.set()
        return fresh

    async def work(self, limit: int = 50) -> int:
        """Process the events that are due. Returns how many. Raises StoreError: then nothing is
        lost, and claimed events are due again after their lease."""
        claimed = await self.events.claim(self._clock(), LEASE, limit)
        for event in claimed:
            await self._one(event)
        return len(claimed)

    async def _one(self, event: EventRow) -> None:
        notification = Notification(
            provider=event.provider,
            id=event.id,
            type=event.type,
            object=event.object,
            created=event.created,
            hint=event.hint,
        )
        try:
            facts = await self._chain.call(event.provider, lambda it: it.resolve(notification))
            for fact in facts:
                await self.applier.apply(fact)
        except StoreError as error:
            if isinstance(error, ConflictError | NotFoundError):
                await self._later(event, error)
                return
            raise
        except Exception as error:  # one event must not delay the others
            if not isinstance(error, ProviderUnavailable):
                log.exception("The event %s of %s could not be applied.", event.id, event.provider)
            await self._later(event, error)
        else:
            await self.events.done(event, self._clock())

    async def _later(self, event: EventRow, error: Exception) -> None:
        now = self._clock()
        text = f"{type(error).__name__}: {error}"
        if now - event.received > GIVE_UP:
            log.error("The event %s of %s was given up: %s", event.id, event.provider, text)
            await self.events.give_up(event, now, text)
            return
        at = now + wait_after(event.attempts)
        if isinstance(error, CircuitOpen):
            at = max(at, error.retry_at)
        await self.events.again(event, at, text)

    async def revive(self, provider: str, ident: str) -> bool:
        """Have an event processed again, in any state; False if there is no such event."""
        found = await self.events.revive(provider, ident, self._clock())
        if found:
            self.arrived.set()
        return found

    async def backlog(self) -> dict[str, Backlog]:
        """The waiting events by provider, for metrics and operators."""
        return await self.events.backlog()

    async def prune(self) -> int:
        """Delete events that no provider can send again. Returns how many."""
        return await self.events.prune(self._clock() - KEEP)


def wait_after(attempts: int) -> timedelta:
    """The wait after this many attempts: doubling from 5 s to an hour."""
    return min(FIRST_WAIT * (1 << min(max(attempts - 1, 0), 12)), LONGEST_WAIT)


def lag(backlog: Backlog, now: datetime) -> timedelta:
    """The time since the oldest event began to wait."""
    return now - backlog.oldest if backlog.oldest is not None else timedelta(0)
