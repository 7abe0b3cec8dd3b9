"""Stripe, through its official library (extra `stripe`).

```
top-up        Checkout Session, mode payment   → payment_intent.succeeded credits the wallet
saved method  Checkout Session, mode setup     → becomes the customer's default
auto-recharge PaymentIntent, off_session, confirmed at once
events        webhook or list of events → `stripe_events` fetches the object again
terms         `stripe_objects`: statuses, declines, currencies
```

Calls are asynchronous (`stripe_http`) and share one connection pool. Each has a timeout, and there
are no retries here: the circuit breaker and the caller decide whether to try again, since they know
more. The metadata of every object that we create has our account, purpose and key, so that all of
it can be read back from Stripe alone.

Secrets are read at each use (`Secrets`), so that a rotated key is used without a restart.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import stripe

from fastgate.billing.payments import stripe_balance, stripe_events, stripe_objects
from fastgate.billing.payments.base import (
    Capability,
    ChargeResult,
    ChargeStatus,
    Checkout,
    Clock,
    Customers,
    Decline,
    Health,
    Notification,
    PaymentError,
    PaymentMethod,
    PaymentProvider,
    ProviderEvent,
    ProviderRefused,
    ProviderSubscription,
    ProviderUnavailable,
    Purpose,
    RefundResult,
    Statement,
    Turnover,
    Wanted,
    WebhookRejected,
)
from fastgate.billing.payments.stripe_http import HttpxClient, NeverSent
from fastgate.errors import ConfigurationError
from fastgate.model.billing import STRIPE_API
from fastgate.model.billing import Stripe as Settings
from fastgate.model.secret import Secret
from fastgate.model.units import Money

TIMEOUT_S = 10.0
TOLERANCE_S = 300
SKEW = timedelta(minutes=5)  # between Stripe's clock and ours
METHODS = ("card",)

_T = TypeVar("_T")


class Secrets(Protocol):
    """The source of the keys, read at each use."""

    def api_key(self) -> str:
        """The secret or restricted key."""

    def webhook_secrets(self) -> Sequence[str]:
        """The signing secrets in force: several while one is being replaced."""


class ConfiguredSecrets:
    """Secrets from the sources in the configuration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def api_key(self) -> str:
        return _revealed(self._settings.secret)

    def webhook_secrets(self) -> Sequence[str]:
        return [_revealed(secret) for secret in self._settings.webhook_secrets]


class StripeProvider(PaymentProvider):
    """Payments through one Stripe account. Used on one event loop; call `close` at the end."""

    name = stripe_objects.NAME
    capabilities = frozenset(Capability)

    off_session: Mapping[str, Any] = {
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"}
    }
    """Options of a charge without the customer: no method that needs to show a page."""

    def __init__(
        self,
        secrets: Secrets,
        customers: Customers,
        clock: Clock,
        *,
        api_base: str = STRIPE_API,
        timeout: float = TIMEOUT_S,
    ) -> None:
        """`api_base`: another address of the API, without a path. `timeout`: seconds for a call."""
        self.secrets = secrets
        self.customers = customers
        self.clock = clock
        self._base = api_base.rstrip("/")
        self._timeout = timeout
        self._key = ""
        self._made: stripe.StripeClient | None = None
        self._http: HttpxClient | None = None

    # ---- the library ----------------------------------------------------------------------

    @property
    def client(self) -> stripe.StripeClient:
        """The library's client for the current key."""
        key = self.secrets.api_key()
        if self._made is None or key != self._key:
            if self._http is None:
                self._http = HttpxClient(self._timeout)
            self._made = stripe.StripeClient(
                key,
                base_addresses={"api": self._base},
                http_client=self._http,
                max_network_retries=0,
            )
            self._key = key
        return self._made

    async def call(self, request: Awaitable[_T]) -> _T:
        """Await a call of the library; its errors become ours. CardError passes through."""
        try:
            return await request
        except stripe.CardError:
            raise
        except stripe.StripeError as error:
            raise _translated(error) from error
        except (ValueError, KeyError, TypeError) as error:  # an answer that is not Stripe's
            raise ProviderUnavailable("Stripe's answer cannot be read.") from error

    async def close(self) -> None:
        http, self._http, self._made = self._http, None, None
        if http is not None:
            await http.close_async()

    async def health(self) -> Health:
        try:
            await self.call(self.client.v1.balance.retrieve_async())
        except PaymentError as error:
            return Health(False, str(error))
        return Health(True)

    # ---- customers and methods ------------------------------------------------------------

    async def _customer(self, account: str) -> str:
        """Stripe's customer for the account, created if there is none."""
        known = await self.customers.customer_of(self.name, account)
        if known is not None:
            return known
        made = await self.call(
            self.client.v1.customers.create_async(
                {"metadata": {stripe_objects.ACCOUNT: account}},
                {"idempotency_key": f"fastgate:customer:{account}"},
            )
        )
        return await self.customers.link(self.name, account, made.id)

    async def account_of(self, customer: str | None, metadata: Mapping[str, Any] | None) -> str:
        """Our account for a customer of Stripe's; "" for none of ours."""
        named = (metadata or {}).get(stripe_objects.ACCOUNT)
        if named:
            return str(named)
        if not customer:
            return ""
        return await self.customers.account_of(self.name, customer) or ""

    async def default_method(self, customer: str) -> str:
        """The payment method that is charged; "" if there is none."""
        found = await self.call(self.client.v1.customers.retrieve_async(customer))
        chosen = (found.to_dict().get("invoice_settings") or {}).get("default_payment_method")
        if chosen:
            return str(chosen["id"] if isinstance(chosen, dict) else chosen)
        methods = await self._methods(customer)
        return str(methods[0]["id"]) if methods else ""

    async def _methods(self, customer: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for kind in METHODS:
            page = await self.call(
                self.client.v1.payment_methods.list_async(
                    {"customer": customer, "type": kind, "limit": 100}
                )
            )
            found += [item.to_dict() for item in page.data]
        return found

    async def list_methods(self, account: str) -> list[PaymentMethod]:
        customer = await self.customers.customer_of(self.name, account)
        if customer is None:
            return []
        default = await self.default_method(customer)
        return [stripe_objects.method_of(item, default) for item in await self._methods(customer)]

    async def create_method_link(self, account: str, return_url: str) -> Checkout:
        customer = await self._customer(account)
        return await self._checkout(
            {
                "mode": "setup",
                "customer": customer,
                "allowed_payment_method_types": list(METHODS),
                "metadata": {stripe_objects.ACCOUNT: account},
            },
            return_url,
        )

    # ---- usage -----------------------------------------------------------------------------

    async def report_usage(
        self, account: str, event: str, units: int, at: datetime, identifier: str
    ) -> None:
        customer = await self.customers.customer_of(self.name, account)
        if customer is None:
            return
        params: Any = {
            "event_name": event,
            "payload": {"stripe_customer_id": customer, "value": str(units)},
            "identifier": identifier,
            "timestamp": int(at.timestamp()),
        }
        try:
            await self.call(self.client.v1.billing.meter_events.create_async(params))
        except ProviderRefused as error:
            if "already exists with identifier" not in str(error):  # a repeated report
                raise

    # ---- money in -------------------------------------------------------------------------

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        coins = stripe_objects.coins_of(amount)
        customer = await self._customer(account)
        metadata = {stripe_objects.ACCOUNT: account, stripe_objects.PURPOSE: Purpose.TOP_UP.value}
        return await self._checkout(
            {
                "mode": "payment",
                "customer": customer,
                "client_reference_id": account,
                "line_items": [
                    {
                        "quantity": 1,
                        "price_data": {
                            "currency": amount.currency.lower(),
                            "unit_amount": coins,
                            "product_data": {"name": "Account balance"},
                        },
                    }
                ],
                "metadata": metadata,
                # Saved for auto-recharge; the page tells the customer.
                "payment_intent_data": {"metadata": metadata, "setup_future_usage": "off_session"},
            },
            return_url,
        )

    async def _checkout(self, params: dict[str, Any], return_url: str) -> Checkout:
        complete: Any = {
            **params,
            "success_url": _with(return_url, checkout="done"),
            "cancel_url": _with(return_url, checkout="canceled"),
        }
        session = await self.call(self.client.v1.checkout.sessions.create_async(complete))
        data = session.to_dict()
        url = data.get("url")
        if not url:
            raise ProviderUnavailable("Stripe created a checkout without an address.")
        return Checkout(
            url=str(url),
            reference=str(data["id"]),
            expires_at=stripe_objects.time_of(data["expires_at"]),
        )

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        coins = stripe_objects.coins_of(amount)
        customer = await self.customers.customer_of(self.name, account)
        method = await self.default_method(customer) if customer else ""
        if not customer or not method:
            return ChargeResult(
                status=ChargeStatus.FAILED,
                provider=self.name,
                amount=amount,
                decline=Decline.NEW_METHOD,
                code="no_payment_method",
                message="There is no payment method on file.",
            )
        params: Any = {
            "amount": coins,
            "currency": amount.currency.lower(),
            "customer": customer,
            "payment_method": method,
            "off_session": True,
            "confirm": True,
            "metadata": {
                stripe_objects.ACCOUNT: account,
                stripe_objects.PURPOSE: purpose.value,
                stripe_objects.SUBJECT: subject[: stripe_objects.METADATA_MOST],
                stripe_objects.KEY: idempotency_key,
            },
            **self.off_session,
        }
        options: Any = {"idempotency_key": f"fastgate:charge:{idempotency_key}"}
        try:
            intent = await self.call(self.client.v1.payment_intents.create_async(params, options))
        except stripe.CardError as error:
            return _declined(error, amount)
        return stripe_objects.charge_result(intent.to_dict())

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        customer = await self.customers.customer_of(self.name, account)
        if customer is None:
            return None
        page = await self.call(
            self.client.v1.payment_intents.list_async(
                {
                    "customer": customer,
                    "created": {"gte": int((since - SKEW).timestamp())},
                    "limit": 100,
                }
            )
        )
        while True:
            for item in page.data:
                intent = item.to_dict()
                if (intent.get("metadata") or {}).get(stripe_objects.KEY) == idempotency_key:
                    return stripe_objects.charge_result(intent)
            if not page.has_more:
                return None
            page = await self.call(page.next_page_async())

    # ---- money out ------------------------------------------------------------------------

    async def refund(
        self, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        params: Any = {
            "payment_intent": payment,
            "metadata": {stripe_objects.KEY: idempotency_key},
        }
        if amount is not None:
            params["amount"] = stripe_objects.coins_of(amount)
        try:
            made = await self.call(
                self.client.v1.refunds.create_async(
                    params,
                    {"idempotency_key": f"fastgate:refund:{idempotency_key}"},
                )
            )
        except stripe.CardError as error:
            raise ProviderRefused(_message_of(error)) from error
        refund = made.to_dict()
        status = {
            "succeeded": ChargeStatus.SUCCEEDED,
            "failed": ChargeStatus.FAILED,
            "canceled": ChargeStatus.FAILED,
            "requires_action": ChargeStatus.ACTION_REQUIRED,
        }.get(str(refund.get("status")), ChargeStatus.PENDING)
        return RefundResult(
            status=status,
            provider=self.name,
            amount=stripe_objects.money_of(int(refund["amount"]), str(refund["currency"])),
            reference=str(refund["id"]),
            message=str(refund.get("failure_reason") or ""),
        )

    async def turnover(self, since: datetime) -> list[Turnover]:
        created: Any = {"created": {"gte": int(since.timestamp())}, "limit": 100}
        back: dict[str, int] = {}
        async for refund in self.all(self.client.v1.refunds.list_async(created)):
            if refund.get("status") not in ("failed", "canceled"):
                of = stripe_events.id_of(refund.get("payment_intent"))
                amount = stripe_objects.money_of(int(refund["amount"]), str(refund["currency"]))
                back[of] = back.get(of, 0) + amount.micros
        found = []
        async for intent in self.all(self.client.v1.payment_intents.list_async(created)):
            metadata = intent.get("metadata") or {}
            if intent.get("status") != "succeeded" or stripe_objects.purpose_of(metadata) is None:
                continue
            received = intent.get("amount_received")
            amount = stripe_objects.money_of(
                int(intent["amount"] if received is None else received), str(intent["currency"])
            )
            ident = str(intent["id"])
            found.append(Turnover(reference=ident, amount=amount, refunded=back.get(ident, 0)))
        return found

    async def statement(self) -> Statement:
        return await stripe_balance.statement(self)

    async def all(self, first: Awaitable[Any]) -> AsyncIterator[dict[str, Any]]:
        """The objects of a list, page after page."""
        page = await self.call(first)
        while True:
            for item in page.data:
                yield item.to_dict()
            if not page.has_more:
                return
            page = await self.call(page.next_page_async())

    # ---- subscriptions --------------------------------------------------------------------

    async def subscriptions(self, account: str) -> list[ProviderSubscription]:
        customer = await self.customers.customer_of(self.name, account)
        if customer is None:
            return []
        page = await self.call(
            self.client.v1.subscriptions.list_async(
                {"customer": customer, "status": "all", "limit": 100}
            )
        )
        found: list[ProviderSubscription] = []
        while True:
            for item in page.data:
                data = item.to_dict()
                invoice = await stripe_events.latest_invoice(self, data)
                found.append(stripe_objects.subscription_of(data, account, invoice))
            if not page.has_more:
                return found
            page = await self.call(page.next_page_async())

    # ---- events ---------------------------------------------------------------------------

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification:
        header = headers.get("stripe-signature", "")
        signed_at = _time_signed(header)
        secrets = self.secrets.webhook_secrets()
        if not secrets:
            raise WebhookRejected("No secret is configured for Stripe's webhooks.")
        if not any(_signed(body, header, secret) for secret in secrets):
            raise WebhookRejected("The webhook's signature is not valid.")
        # The library would use the system's clock, but ours is injected; and a time in the future
        # is as suspicious as one in the past.
        if abs(self.clock().timestamp() - signed_at) > TOLERANCE_S:
            raise WebhookRejected(f"The webhook's timestamp is more than {TOLERANCE_S} s from now.")
        return stripe_events.notification_of(_event_of(body))

    async def resolve(self, notification: Notification) -> list[ProviderEvent]:
        return await stripe_events.resolve(self, notification)

    async def reconcile(self, since: datetime) -> list[Notification]:
        page = await self.call(
            self.client.v1.events.list_async(
                {"created": {"gte": int(since.timestamp())}, "limit": 100}
            )
        )
        found: dict[str, Notification] = {}
        while True:
            for item in page.data:
                event = item.to_dict()
                if stripe_events.known(str(event.get("type"))):
                    with suppress(WebhookRejected):
                        notification = stripe_events.notification_of(event)
                        found[notification.id] = notification
            if not page.has_more:
                break
            page = await self.call(page.next_page_async())
        return sorted(found.values(), key=lambda item: (item.created, item.id))


# ---- helpers ----------------------------------------------------------------------------


def _revealed(secret: Secret) -> str:
    try:
        return secret.reveal()
    except ConfigurationError as error:
        raise ProviderRefused(str(error)) from error


def _with(url: str, **fields: str) -> str:
    """The URL with query fields added."""
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *fields.items()]
    return urlunsplit(parts._replace(query=urlencode(query)))


def _message_of(error: stripe.StripeError) -> str:
    return " ".join(str(error.user_message or error).split()) or type(error).__name__


def _translated(error: stripe.StripeError) -> PaymentError:
    """Our error for an error of the library."""
    if isinstance(error, stripe.APIConnectionError):
        return ProviderUnavailable(
            f"Stripe cannot be reached: {_message_of(error)}.",
            sent=not isinstance(error, NeverSent),
        )
    status = error.http_status or 0
    if isinstance(error, stripe.RateLimitError) or status == 429:
        return ProviderUnavailable("Stripe asks for fewer requests.", sent=False)
    if status == 409:  # the same key is being worked on
        return ProviderUnavailable("Stripe is still working on the same request.")
    if status >= 500 or status == 0 or isinstance(error, stripe.APIError):
        return ProviderUnavailable(f"Stripe failed with status {status}.")
    return ProviderRefused(f"Stripe refused the request: {_message_of(error)}")


def _declined(error: stripe.CardError, amount: Money) -> ChargeResult:
    """A decline that was raised as an error: with a PaymentIntent, or with only a code."""
    body = error.json_body if isinstance(error.json_body, dict) else {}
    detail = body.get("error") or {}
    intent = detail.get("payment_intent")
    if isinstance(intent, dict) and intent.get("amount") is not None:
        failed = {**intent, "last_payment_error": intent.get("last_payment_error") or detail}
        return stripe_objects.charge_result(failed)
    code = stripe_objects.error_code(detail) or "card_declined"
    confirm = code in stripe_objects.ACTION
    return ChargeResult(
        status=ChargeStatus.ACTION_REQUIRED if confirm else ChargeStatus.FAILED,
        provider=stripe_objects.NAME,
        amount=amount,
        decline=None if confirm else stripe_objects.decline_of(code),
        code=code,
        message=_message_of(error),
    )


def _time_signed(header: str) -> int:
    """The timestamp of a signature, Unix seconds. Exactly one is allowed: otherwise an old signed
    timestamp could pass next to a new unsigned one, depending on which one the library reads."""
    times = [item for item in header.split(",") if item.strip().partition("=")[0] == "t"]
    found = re.fullmatch(r"t=([0-9]{1,12})", times[0]) if len(times) == 1 else None
    if found is None or not header.isascii():
        raise WebhookRejected("The Stripe-Signature header is not of the form t=…,v1=….")
    return int(found[1])


def _signed(body: bytes, header: str, secret: str) -> bool:
    """Whether the official verifier accepts the signature with this secret, at any age."""
    try:
        return bool(stripe.WebhookSignature.verify_header(body, header, secret, tolerance=None))
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False


def _event_of(body: bytes) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise WebhookRejected("The webhook's body is not JSON.") from error
    if not isinstance(event, dict):
        raise WebhookRejected("The webhook's body is not an event.")
    return event


def create(wanted: Wanted) -> StripeProvider:
    """The entry point. Raises ConfigurationError if `billing.stripe` is missing."""
    settings = wanted.billing.stripe
    if settings is None:
        raise ConfigurationError(
            "the payment provider 'stripe' needs `billing.stripe`", path="billing.providers"
        )
    return StripeProvider(
        ConfiguredSecrets(settings),
        wanted.customers,
        wanted.clock,
        api_base=str(settings.api),
        timeout=settings.timeout.ns / 1e9,
    )
