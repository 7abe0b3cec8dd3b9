"""Payment providers for tests that do as they are told, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from fastgate.billing.payments.base import (
    Capability,
    ChargeResult,
    ChargeStatus,
    Checkout,
    Decline,
    Health,
    Notification,
    PaymentMethod,
    PaymentProvider,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Purpose,
    RefundResult,
    Turnover,
    WebhookRejected,
)
from fastgate.model.units import Money

START = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **spans: float) -> None:
        self.now += timedelta(**spans)


class Scripted(PaymentProvider):
    """A provider with books of its own: each key is charged at most once, as it should be.

    `mood` decides what happens to the next calls: "up", "down" (nothing sent), "lost" (done, but
    the answer is lost), "doubt" (not done, and nobody knows), "refuse", or a status of a charge.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.capabilities = frozenset(Capability)
        self.clock = clock
        self.mood = "up"
        self.has_method = True
        self.charges: dict[str, ChargeResult] = {}
        self.sent: list[str] = []
        self.reported: dict[str, tuple[str, str, int, datetime]] = {}
        self.refunds: dict[str, RefundResult] = {}
        self.facts: dict[str, list[ProviderEvent]] = {}
        self.listed: list[Notification] = []
        self.asked_since: list[datetime] = []
        self.has: list[Turnover] = []

    def _mood(self, what: str) -> None:
        self.sent.append(what)
        if self.mood == "down":
            raise ProviderUnavailable(f"{self.name} is down", sent=False)
        if self.mood == "doubt":
            raise ProviderUnavailable(f"{self.name} did not answer")
        if self.mood == "refuse":
            raise ProviderRefused(f"{self.name} says no")

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        self._mood("top_up")
        return Checkout(url=f"https://{self.name}.example/pay", reference="cs_1")

    async def report_usage(
        self, account: str, event: str, units: int, at: datetime, identifier: str
    ) -> None:
        self._mood("usage")
        self.reported.setdefault(identifier, (account, event, units, at))
        if self.mood == "lost":
            raise ProviderUnavailable(f"{self.name}'s answer is lost")

    async def create_method_link(self, account: str, return_url: str) -> Checkout:
        self._mood("method_link")
        return Checkout(url=f"https://{self.name}.example/card", reference="cs_2")

    async def list_methods(self, account: str) -> list[PaymentMethod]:
        self._mood("methods")
        card = PaymentMethod(reference=f"pm_{self.name}", kind="card", label="Visa •••• 4242")
        return [card] if self.has_method else []

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        self._mood(f"charge {idempotency_key}")
        if not self.has_method:
            return ChargeResult(
                status=ChargeStatus.FAILED,
                provider=self.name,
                amount=amount,
                decline=Decline.NEW_METHOD,
                code="no_payment_method",
            )
        if idempotency_key not in self.charges:
            known = self.mood in set(ChargeStatus)
            status = ChargeStatus(self.mood) if known else ChargeStatus.SUCCEEDED
            failed = status is ChargeStatus.FAILED
            self.charges[idempotency_key] = ChargeResult(
                status=status,
                provider=self.name,
                amount=amount,
                reference=f"pi_{self.name}_{len(self.charges) + 1}",
                decline=Decline.LATER if failed else None,
                code="insufficient_funds" if failed else "",
            )
        if self.mood == "lost":
            raise ProviderUnavailable(f"the answer of {self.name} was lost")
        return self.charges[idempotency_key]

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        self._mood(f"find {idempotency_key}")
        return self.charges.get(idempotency_key)

    async def refund(
        self, payment: str, amount: Money | None, idempotency_key: str
    ) -> RefundResult:
        self._mood(f"refund {idempotency_key}")
        assert amount is not None
        if idempotency_key not in self.refunds:
            self.refunds[idempotency_key] = RefundResult(
                status=ChargeStatus.FAILED if self.mood == "failed" else ChargeStatus.SUCCEEDED,
                provider=self.name,
                amount=amount,
                reference=f"re_{self.name}_{len(self.refunds) + 1}",
            )
        if self.mood == "lost":
            raise ProviderUnavailable(f"the answer of {self.name} was lost")
        return self.refunds[idempotency_key]

    def news(self, ident: str, *facts: ProviderEvent) -> Notification:
        """An event of the provider's, and what resolving it tells."""
        self.facts[ident] = list(facts)
        return Notification(
            provider=self.name, id=ident, type="test", object=ident, created=self.clock()
        )

    def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> Notification:
        if headers.get("signature") != "good":
            raise WebhookRejected("The signature does not hold.")
        return msgspec.json.decode(body, type=Notification)

    async def resolve(self, notification: Notification) -> list[ProviderEvent]:
        self._mood(f"resolve {notification.id}")
        return self.facts[notification.object]

    async def reconcile(self, since: datetime) -> list[Notification]:
        self._mood("reconcile")
        self.asked_since.append(since)
        return [item for item in self.listed if item.created >= since]

    async def turnover(self, since: datetime) -> list[Turnover]:
        self._mood("turnover")
        return self.has

    async def health(self) -> Health:
        return Health(self.mood not in ("down", "doubt"), self.mood)
