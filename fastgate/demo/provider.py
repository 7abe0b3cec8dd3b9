"""The gateway's client for Demo Pay: a payment provider like any other, over HTTP.

FASTGATE_DEMO_PAY      the URL of Demo Pay
FASTGATE_DEMO_SECRET   the secret for its webhooks' signatures
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from fastgate.billing.payments.base import (
    Capability,
    ChargeResult,
    ChargeStatus,
    Checkout,
    Clock,
    Decline,
    EventKind,
    Health,
    Notification,
    PaymentMethod,
    PaymentProvider,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Purpose,
    RefundResult,
    Wanted,
    WebhookRejected,
)
from fastgate.demo.demopay import SIGNATURE, sign
from fastgate.errors import ConfigurationError
from fastgate.model.units import Money

NAME = "demo"
_EVENTS = {"succeeded": EventKind.PAYMENT_SUCCEEDED, "failed": EventKind.PAYMENT_FAILED}


def decline_of(code: str) -> Decline:
    """What would help after a decline."""
    return Decline.LATER if code == "insufficient_funds" else Decline.NEW_METHOD


class Event(msgspec.Struct):
    """A webhook's body."""

    id: str
    type: str
    object: str
    created: float


class DemoProvider(PaymentProvider):
    """Play money."""

    name = NAME
    capabilities = frozenset(
        {
            Capability.TOP_UP,
            Capability.SAVED_METHODS,
            Capability.REFUNDS,
            Capability.WEBHOOKS,
            Capability.RECONCILE,
        }
    )

    def __init__(self, url: str, secret: str, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._http = httpx.AsyncClient(base_url=url, timeout=5.0)

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        try:
            answer = await self._http.request(method, path, json=body, params=query)
        except httpx.ConnectError as error:
            raise ProviderUnavailable(f"Demo Pay cannot be reached: {error}", sent=False) from error
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"Demo Pay does not answer: {error}") from error
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise ProviderUnavailable(f"Demo Pay answered {answer.status_code}.")
        return answer.json()

    # ---- pages ------------------------------------------------------------------------------

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        return await self._checkout(account, amount, return_url)

    async def create_method_link(self, account: str, return_url: str) -> Checkout:
        return await self._checkout(account, Money(0, "USD"), return_url)

    async def _checkout(self, account: str, amount: Money, return_url: str) -> Checkout:
        body = {
            "account": account,
            "micros": amount.micros,
            "currency": amount.currency,
            "shown": str(amount),
            "return_url": return_url,
        }
        made = await self._ask("POST", "/checkouts", body)
        return Checkout(url=made["url"], reference=made["id"])

    # ---- charges ----------------------------------------------------------------------------

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        body = {
            "account": account,
            "micros": amount.micros,
            "currency": amount.currency,
            "key": idempotency_key,
            "purpose": purpose.value,
            "subject": subject,
        }
        return self._result(await self._ask("POST", "/charges", body), amount)

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        found = await self._ask("GET", "/charges", key=idempotency_key)
        if found is None:
            return None
        return self._result(found, Money(found["micros"], found["currency"]))

    def _result(self, made: dict[str, Any], amount: Money) -> ChargeResult:
        paid = made["status"] == "succeeded"
        return ChargeResult(
            status=ChargeStatus.SUCCEEDED if paid else ChargeStatus.FAILED,
            provider=self.name,
            amount=amount,
            reference=made["id"],
            decline=None if paid else decline_of(made["code"]),
            code="" if paid else made["code"],
            message="" if paid else "The card was declined.",
        )

    async def list_methods(self, account: str) -> list[PaymentMethod]:
        card = (await self._ask("GET", f"/methods/{account}"))["card"]
        if not card:
            return []
        return [PaymentMethod(reference="card", kind="card", label=f"Demo card {card[-4:]}")]

    async def refund(
        self, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        paid = await self._ask("GET", f"/payments/{payment}")
        if paid is None:
            raise ProviderRefused(f"Demo Pay has no payment {payment!r}.")
        back = amount or Money(paid["micros"], paid["currency"])
        body = {"payment": payment, "micros": back.micros, "key": idempotency_key}
        made = await self._ask("POST", "/refunds", body)
        return RefundResult(
            status=ChargeStatus.SUCCEEDED, provider=self.name, amount=back, reference=made["id"]
        )

    # ---- events -----------------------------------------------------------------------------

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification:
        given = headers.get(SIGNATURE.lower(), "")
        if not given.isascii() or not hmac.compare_digest(given, sign(self._secret, body)):
            raise WebhookRejected("The signature is not that of Demo Pay.")
        try:
            return self._notification(msgspec.json.decode(body, type=Event))
        except msgspec.DecodeError as error:
            raise WebhookRejected(str(error)) from error

    def _notification(self, event: Event) -> Notification:
        return Notification(
            provider=self.name,
            id=event.id,
            type=event.type,
            object=event.object,
            created=datetime.fromtimestamp(event.created, UTC),
        )

    async def resolve(self, notification: Notification) -> list[ProviderEvent]:
        if notification.type == "method.attached":
            event = ProviderEvent(
                kind=EventKind.METHOD_ATTACHED,
                provider=self.name,
                key=f"demo:{notification.id}",
                at=notification.created,
                account=notification.object,
            )
            return [event]
        paid = await self._ask("GET", f"/payments/{notification.object}")
        if paid is None:
            return []
        succeeded = paid["status"] == "succeeded"
        found = [
            ProviderEvent(
                kind=_EVENTS[paid["status"]],
                provider=self.name,
                key=f"demo:{paid['id']}:{paid['status']}",
                at=datetime.fromtimestamp(paid["created"], UTC),
                account=paid["account"],
                amount=Money(paid["micros"], paid["currency"]),
                reference=paid["id"],
                payment=paid["id"],
                purpose=Purpose(paid["purpose"]),
                subject=paid["subject"],
                attempt=paid["key"],
                decline=None if succeeded else decline_of(paid["code"]),
                code=paid.get("code", ""),
                message="" if succeeded else "The card was declined.",
            )
        ]
        if succeeded and not paid["key"]:  # paid on the page, which saves the card too
            attached = msgspec.structs.replace(
                found[0], kind=EventKind.METHOD_ATTACHED, key=f"{found[0].key}:card", purpose=None
            )
            found.append(attached)
        return found

    async def reconcile(self, since: datetime) -> list[Notification]:
        found = await self._ask("GET", "/events", since=str(since.timestamp()))
        return [self._notification(msgspec.convert(one, Event)) for one in found]

    async def health(self) -> Health:
        try:
            await self._ask("GET", "/health")
        except ProviderUnavailable as error:
            return Health(False, str(error))
        return Health(True)


def create(wanted: Wanted) -> DemoProvider:
    """The entry point. Raises ConfigurationError outside a demonstration."""
    url, secret = os.environ.get("FASTGATE_DEMO_PAY"), os.environ.get("FASTGATE_DEMO_SECRET")
    if not url or not secret:
        raise ConfigurationError(
            "the payment provider 'demo' uses play money and is only for `fastgate demo`",
            path="billing.providers",
        )
    return DemoProvider(url, secret, wanted.clock)
