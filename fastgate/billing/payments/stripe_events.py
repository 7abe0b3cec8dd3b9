"""Stripe events → facts: fetches the object of an event and reports its current state.

```
event type                     fetched                        facts
checkout.session.*             session, its PaymentIntent     payment…, checkout_expired, method
payment_intent.*               PaymentIntent                  payment…
charge.refunded, refund.*      refunds of the charge          payment…, refund[, refund_failed]
charge.dispute.*               dispute                        payment…, dispute_opened[, won|lost]
customer.subscription.*        subscription, latest invoice   subscription_changed[, trial ending]
invoice.*                      invoice                        invoice_…
payment_method.*               method                         method_…
```

Only ids are read from the event's own data, which may be days old and out of order. Facts are
complete: a refund comes with its payment, and a closed dispute with its opening. So the books are
the same no matter which event arrives first. The key of a fact is made from Stripe's ids and the
state, never from the event's id, so reporting it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from fastgate.billing.payments import stripe_objects
from fastgate.billing.payments.base import (
    ChargeStatus,
    EventKind,
    Notification,
    ProviderEvent,
    WebhookRejected,
)
from fastgate.billing.payments.stripe_api import StripeApi
from fastgate.model.units import Money

Object = dict[str, Any]
Resolver = Callable[[StripeApi, Notification], Awaitable[list[ProviderEvent]]]


# ---- events and their objects -------------------------------------------------------------


COST = "latest_charge.balance_transaction"
"""The path to Stripe's fee for a payment, in the currency of its settlement."""


def known(kind: str) -> bool:
    """Whether we handle this event type."""
    return _resolver_of(kind) is not None


def notification_of(event: Object) -> Notification:
    """The object of an event. Raises WebhookRejected if the body is not a Stripe event."""
    try:
        about = event["data"]["object"]
        ident, kind = event["id"], event["type"]
        created = datetime.fromtimestamp(int(event["created"]), UTC)
        subject = about.get("id") or _without_id(kind, about)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WebhookRejected("The body is not an event of Stripe's.") from error
    if event.get("object") != "event" or not all(
        isinstance(text, str) and 0 < len(text) <= 200 for text in (ident, kind, subject)
    ):
        raise WebhookRejected("The body is not an event of Stripe's.")
    before = event["data"].get("previous_attributes") or {}
    return Notification(
        provider=stripe_objects.NAME,
        id=ident,
        type=kind,
        object=subject,
        created=created,
        hint=str(before.get("customer") or ""),
    )


def _without_id(kind: str, about: Object) -> str:
    """An upcoming invoice does not exist yet and has no id: the object is its subscription."""
    if kind == "invoice.upcoming":
        parent = (about.get("parent") or {}).get("subscription_details") or {}
        return id_of(about.get("subscription") or parent.get("subscription") or about["customer"])
    raise KeyError("id")


def id_of(value: Any) -> str:
    """The id, for fields in which Stripe sends either an id or the whole object."""
    if isinstance(value, dict):
        value = value.get("id")
    return str(value or "")


def _resolver_of(kind: str) -> Resolver | None:
    return next((resolver for prefix, resolver in _RESOLVERS if kind.startswith(prefix)), None)


async def resolve(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    """Fetch the object of the notification and return the facts, oldest first."""
    resolver = _resolver_of(notification.type)
    return [] if resolver is None else await resolver(stripe, notification)


# ---- payments -----------------------------------------------------------------------------


async def _intent(stripe: StripeApi, ident: str) -> Object:
    found = await stripe.call(
        stripe.client.v1.payment_intents.retrieve_async(ident, {"expand": [COST]})
    )
    return found.to_dict()


_OUTCOMES = {
    ChargeStatus.SUCCEEDED: EventKind.PAYMENT_SUCCEEDED,
    ChargeStatus.PENDING: EventKind.PAYMENT_PENDING,
    ChargeStatus.FAILED: EventKind.PAYMENT_FAILED,
    ChargeStatus.ACTION_REQUIRED: EventKind.PAYMENT_ACTION_REQUIRED,
}


async def _payment(stripe: StripeApi, intent: Object) -> list[ProviderEvent]:
    """The state of a PaymentIntent. One that has not been tried yet has no event."""
    if intent["status"] == "requires_confirmation" or (
        intent["status"] == "requires_payment_method" and not intent.get("last_payment_error")
    ):
        return []
    metadata = intent.get("metadata") or {}
    result = stripe_objects.charge_result(intent)
    state = result.status.value
    if result.status is ChargeStatus.FAILED:  # each decline is a separate fact
        state = f"{state}:{id_of(intent.get('latest_charge')) or result.code}"
    received = intent.get("amount_received")
    amount = result.amount
    if result.status is ChargeStatus.SUCCEEDED and received is not None:
        amount = stripe_objects.money_of(int(received), str(intent["currency"]))
    return [
        ProviderEvent(
            kind=_OUTCOMES[result.status],
            provider=stripe_objects.NAME,
            key=f"stripe:payment:{result.reference}:{state}",
            at=stripe_objects.time_of(intent.get("created")) or stripe.clock(),
            account=await stripe.account_of(id_of(intent.get("customer")), metadata),
            amount=amount,
            reference=result.reference,
            payment=result.reference,
            purpose=stripe_objects.purpose_of(metadata),
            subject=str(metadata.get(stripe_objects.SUBJECT) or ""),
            attempt=str(metadata.get(stripe_objects.KEY) or ""),
            decline=result.decline,
            code=result.code,
            message=result.message,
            url=result.action_url,
            cost=_cost(intent, amount),
        )
    ]


def _cost(intent: Object, amount: Money) -> Money | None:
    """Stripe's fee for a payment; None if it is unknown, or in another currency."""
    charge = intent.get("latest_charge")
    balance = charge.get("balance_transaction") if isinstance(charge, dict) else None
    if not isinstance(balance, dict) or str(balance.get("currency")).upper() != amount.currency:
        return None
    return stripe_objects.money_of(int(balance.get("fee") or 0), str(balance["currency"]))


async def _from_intent(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    return await _payment(stripe, await _intent(stripe, notification.object))


async def _from_checkout(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    found = await stripe.call(
        stripe.client.v1.checkout.sessions.retrieve_async(notification.object)
    )
    session = found.to_dict()
    account = await stripe.account_of(id_of(session.get("customer")), session.get("metadata"))
    if session.get("mode") == "setup":
        return await _chosen(stripe, session, account)
    intent = id_of(session.get("payment_intent"))
    if intent:
        return await _payment(stripe, await _intent(stripe, intent))
    if session.get("status") != "expired":
        return []
    return [
        ProviderEvent(
            kind=EventKind.CHECKOUT_EXPIRED,
            provider=stripe_objects.NAME,
            key=f"stripe:checkout:{session['id']}:expired",
            at=stripe_objects.time_of(session.get("expires_at")) or notification.created,
            account=account,
            reference=str(session["id"]),
            purpose=stripe_objects.purpose_of(session.get("metadata")),
        )
    ]


async def _chosen(stripe: StripeApi, session: Object, account: str) -> list[ProviderEvent]:
    """A payment method was saved: it becomes the default."""
    setup = id_of(session.get("setup_intent"))
    if session.get("status") != "complete" or not setup:
        return []
    found = await stripe.call(stripe.client.v1.setup_intents.retrieve_async(setup))
    method = id_of(found.to_dict().get("payment_method"))
    customer = id_of(session.get("customer"))
    if not method or not customer:
        return []
    await stripe.call(
        stripe.client.v1.customers.update_async(
            customer, {"invoice_settings": {"default_payment_method": method}}
        )
    )
    return await _method(stripe, method, EventKind.METHOD_ATTACHED, account)


# ---- refunds and disputes -----------------------------------------------------------------


async def _paid(stripe: StripeApi, about: Object) -> tuple[list[ProviderEvent], Object]:
    """The payment of a refund or dispute: its facts, and the PaymentIntent."""
    intent = id_of(about.get("payment_intent"))
    if not intent:
        found = await stripe.call(stripe.client.v1.charges.retrieve_async(id_of(about["charge"])))
        intent = id_of(found.to_dict().get("payment_intent"))
    if not intent:
        return [], {}  # a charge from before PaymentIntents: not made through us
    data = await _intent(stripe, intent)
    return await _payment(stripe, data), data


async def _about(
    stripe: StripeApi, about: Object, intent: Object, event: ProviderEvent
) -> ProviderEvent:
    """The event with the fields that it shares with its payment."""
    metadata = intent.get("metadata") or {}
    return replace(
        event,
        account=await stripe.account_of(id_of(intent.get("customer")), metadata),
        amount=stripe_objects.money_of(int(about["amount"]), str(about["currency"])),
        reference=str(about["id"]),
        payment=str(intent.get("id") or ""),
        purpose=stripe_objects.purpose_of(metadata),
        subject=str(metadata.get(stripe_objects.SUBJECT) or ""),
        attempt=str((about.get("metadata") or {}).get(stripe_objects.KEY) or ""),
    )


async def _from_refund(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    if notification.object.startswith("re_") or notification.object.startswith("pyr_"):
        one = await stripe.call(stripe.client.v1.refunds.retrieve_async(notification.object))
        refunds = [one.to_dict()]
    else:
        page = await stripe.call(
            stripe.client.v1.refunds.list_async({"charge": notification.object, "limit": 100})
        )
        refunds = [item.to_dict() for item in page.data]
    if not refunds:
        return []
    facts, intent = await _paid(stripe, refunds[0])
    if not intent:
        return []
    for refund in sorted(refunds, key=lambda item: (item.get("created") or 0, item["id"])):
        fact = await _about(
            stripe,
            refund,
            intent,
            ProviderEvent(
                kind=EventKind.REFUND,
                provider=stripe_objects.NAME,
                key=f"stripe:refund:{refund['id']}",
                at=stripe_objects.time_of(refund.get("created")) or notification.created,
            ),
        )
        facts.append(fact)
        if refund.get("status") in ("failed", "canceled"):
            facts.append(
                replace(
                    fact,
                    kind=EventKind.REFUND_FAILED,
                    key=f"{fact.key}:failed",
                    code=str(refund.get("failure_reason") or refund["status"]),
                )
            )
    return facts


async def _from_dispute(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    found = await stripe.call(stripe.client.v1.disputes.retrieve_async(notification.object))
    dispute = found.to_dict()
    status = str(dispute.get("status"))
    if status.startswith("warning") or status == "prevented":
        return []  # an inquiry: no money has moved
    facts, intent = await _paid(stripe, dispute)
    if not intent:
        return []
    opened = await _about(
        stripe,
        dispute,
        intent,
        ProviderEvent(
            kind=EventKind.DISPUTE_OPENED,
            provider=stripe_objects.NAME,
            key=f"stripe:dispute:{dispute['id']}",
            at=stripe_objects.time_of(dispute.get("created")) or notification.created,
            code=str(dispute.get("reason") or ""),
        ),
    )
    facts.append(opened)
    closed = {"won": EventKind.DISPUTE_WON, "lost": EventKind.DISPUTE_LOST}.get(status)
    if closed is not None:
        facts.append(replace(opened, kind=closed, key=f"{opened.key}:{status}"))
    return facts


# ---- subscriptions and invoices -----------------------------------------------------------


async def latest_invoice(stripe: StripeApi, subscription: Object) -> Object | None:
    """The subscription's latest invoice; None if there is none yet."""
    invoice = subscription.get("latest_invoice")
    if isinstance(invoice, dict):
        return invoice
    if not invoice:
        return None
    found = await stripe.call(stripe.client.v1.invoices.retrieve_async(str(invoice)))
    return found.to_dict()


async def _subscription(stripe: StripeApi, ident: str, at: datetime) -> list[ProviderEvent]:
    found = await stripe.call(stripe.client.v1.subscriptions.retrieve_async(ident))
    data = found.to_dict()
    account = await stripe.account_of(id_of(data.get("customer")), data.get("metadata"))
    invoice = await latest_invoice(stripe, data)
    now = stripe_objects.subscription_of(data, account, invoice)
    until = now.paid_through.isoformat() if now.paid_through else ""
    ends = now.cancel_at.isoformat() if now.cancel_at else ""
    return [
        ProviderEvent(
            kind=EventKind.SUBSCRIPTION_CHANGED,
            provider=stripe_objects.NAME,
            key=f"stripe:subscription:{ident}:{now.status}:{now.plan}:{until}:{ends}",
            at=at,
            account=account,
            reference=ident,
            code=now.status,
            subscription=now,
        )
    ]


async def _from_subscription(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    facts = await _subscription(stripe, notification.object, notification.created)
    now = facts[0].subscription
    if (
        notification.type.endswith("trial_will_end")
        and now is not None
        and now.status == "trialing"
    ):
        ends = now.trial_ends.isoformat() if now.trial_ends else ""
        facts.append(
            replace(
                facts[0],
                kind=EventKind.SUBSCRIPTION_TRIAL_ENDING,
                key=f"stripe:trial:{notification.object}:{ends}",
            )
        )
    return facts


async def _from_invoice(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    if notification.type == "invoice.upcoming":
        if not notification.object.startswith("sub_"):
            return []
        facts = await _subscription(stripe, notification.object, notification.created)
        upcoming = replace(
            facts[0], kind=EventKind.INVOICE_UPCOMING, key=f"{facts[0].key}:upcoming"
        )
        return [*facts, upcoming]
    found = await stripe.call(stripe.client.v1.invoices.retrieve_async(notification.object))
    invoice = found.to_dict()
    kind, state = _invoice_state(invoice, notification.type)
    facts = []
    parent = (invoice.get("parent") or {}).get("subscription_details") or {}
    subscription = id_of(invoice.get("subscription") or parent.get("subscription"))
    if subscription:  # the subscription says how an invoice affects access
        facts = await _subscription(stripe, subscription, notification.created)
    if kind is not None:
        account = await stripe.account_of(id_of(invoice.get("customer")), invoice.get("metadata"))
        facts.append(
            ProviderEvent(
                kind=kind,
                provider=stripe_objects.NAME,
                key=f"stripe:invoice:{invoice['id']}:{state}",
                at=notification.created,
                account=account or (facts[0].account if facts else ""),
                amount=stripe_objects.money_of(
                    int(invoice.get("amount_due") or invoice.get("total") or 0),
                    str(invoice["currency"]),
                ),
                reference=str(invoice["id"]),
                subject=subscription,
                code=state,
                url=str(invoice.get("hosted_invoice_url") or ""),
            )
        )
    return facts


def _invoice_state(invoice: Object, kind: str) -> tuple[EventKind | None, str]:
    """The event for the state of an invoice, and the state's part of the key."""
    status = str(invoice.get("status"))
    if status == "paid":
        return EventKind.INVOICE_PAID, "paid"
    if status in ("void", "uncollectible"):
        return EventKind.INVOICE_CLOSED, status
    tries = int(invoice.get("attempt_count") or 0)
    if status == "open" and kind == "invoice.payment_action_required":
        return EventKind.INVOICE_ACTION_REQUIRED, f"action_required:{tries}"
    if status == "open" and (tries or kind == "invoice.payment_failed"):
        return EventKind.INVOICE_FAILED, f"failed:{tries}"
    return None, ""


# ---- payment methods ----------------------------------------------------------------------


async def _method(
    stripe: StripeApi, ident: str, kind: EventKind, account: str, owner: str = ""
) -> list[ProviderEvent]:
    found = await stripe.call(stripe.client.v1.payment_methods.retrieve_async(ident))
    data = found.to_dict()
    customer = id_of(data.get("customer"))
    if not customer:
        kind = EventKind.METHOD_DETACHED
    account = account or await stripe.account_of(customer or owner, None)
    method = stripe_objects.method_of(data)
    return [
        ProviderEvent(
            kind=kind,
            provider=stripe_objects.NAME,
            key=f"stripe:method:{ident}:{kind.value}:{method.expires}",
            at=stripe.clock(),
            account=account,
            reference=ident,
            method=method,
        )
    ]


async def _from_method(stripe: StripeApi, notification: Notification) -> list[ProviderEvent]:
    attached = notification.type == "payment_method.attached"
    kind = EventKind.METHOD_ATTACHED if attached else EventKind.METHOD_UPDATED
    return await _method(stripe, notification.object, kind, "", notification.hint)


_RESOLVERS: tuple[tuple[str, Resolver], ...] = (
    ("checkout.session.", _from_checkout),
    ("payment_intent.", _from_intent),
    ("charge.refund", _from_refund),  # charge.refunded, charge.refund.updated
    ("refund.", _from_refund),
    ("charge.dispute.", _from_dispute),
    ("customer.subscription.", _from_subscription),
    ("invoice.", _from_invoice),
    ("payment_method.", _from_method),
)
