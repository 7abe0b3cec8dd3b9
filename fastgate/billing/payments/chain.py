"""Several payment providers in order, each behind its circuit breaker.

```
create_top_up, create_method_link     the first that can; if it is unavailable, the next
charge_saved    attempt row written ──▶ provider ──▶ result written
                    │                      └ unavailable, and certainly nothing sent: the next one
                    └ known key ──▶ its own provider only: find_charge, and then, if nothing was
                                    found there, the same call again with the same key
refund          the provider of the payment
settle          looks up the charges that are still open, on its own schedule
```

**A charge is tried at a second provider only if the first one certainly did not receive it.** If
that is in doubt, the result is PENDING and nothing is charged again. `settle` looks the charge up
(`find_charge`) until it is found, or until it is certain that it never arrived.

A provider keeps idempotency keys for a day at most. So the key alone does not make it safe to
*repeat* a charge: it is looked up first. A charge that cannot be found `ARRIVES_WITHIN` after it
was sent was never made.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from fastgate.billing.payments.base import (
    Capability,
    ChargeResult,
    ChargeStatus,
    Checkout,
    Clock,
    Decline,
    EventKind,
    Health,
    PaymentError,
    PaymentMethod,
    PaymentProvider,
    ProviderEvent,
    ProviderRefused,
    ProviderUnavailable,
    Purpose,
    Unsupported,
)
from fastgate.billing.payments.breaker import DEFAULT, BreakerSettings, CircuitBreaker, State
from fastgate.errors import FastGateError
from fastgate.model.units import Money
from fastgate.store.payments import Attempt, AttemptTable

T = TypeVar("T")

log = logging.getLogger("fastgate.billing")

ARRIVES_WITHIN = timedelta(minutes=15)
"""A request that is not visible at the provider after this time never arrives: this is far longer
than any timeout or queue on the way."""
LOOK_AGAIN = timedelta(minutes=1)
PENDING_LOOK = timedelta(hours=1)  # the bank is processing it; an event will follow
SENT = "sent"  # or about to be: its outcome is unknown
UNSENT = "unsent"  # certainly nothing was sent
OPEN = (SENT, ChargeStatus.PENDING.value)


_ENDS = {
    EventKind.PAYMENT_SUCCEEDED: ChargeStatus.SUCCEEDED,
    EventKind.PAYMENT_FAILED: ChargeStatus.FAILED,
    EventKind.PAYMENT_ACTION_REQUIRED: ChargeStatus.ACTION_REQUIRED,
}


class ProviderState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a provider, for operators and metrics."""

    name: str
    state: State
    since: datetime
    failures: int
    error: str
    retry_at: datetime | None


class Chain:
    """The gateway's payment providers, in their order. Used on one event loop."""

    def __init__(
        self,
        providers: Sequence[PaymentProvider],
        attempts: AttemptTable,
        clock: Clock,
        terms: BreakerSettings = DEFAULT,
    ) -> None:
        self.providers = tuple(providers)
        self.breakers = {item.name: CircuitBreaker(item.name, clock, terms) for item in providers}
        if len(self.breakers) != len(self.providers):
            raise ValueError("two payment providers have the same name")
        self.on_success: list[Callable[[ProviderEvent], Awaitable[None]]] = []
        """Called with the fact when a charge has succeeded; called again if it fails."""
        self._attempts = attempts
        self._clock = clock

    # ---- the providers --------------------------------------------------------------------

    def provider(self, name: str) -> PaymentProvider:
        """Raises ProviderRefused for a provider that is not configured."""
        for provider in self.providers:
            if provider.name == name:
                return provider
        raise ProviderRefused(f"There is no payment provider {name!r} here.")

    def able(self, capability: Capability) -> list[PaymentProvider]:
        """The providers with the capability, in order."""
        return [item for item in self.providers if capability in item.capabilities]

    def down(self, capability: Capability = Capability.SAVED_METHODS) -> bool:
        """Whether there are providers with the capability, and none of them is available now.

        This, not one failed call, is what opens grace.
        """
        able = self.able(capability)
        return bool(able) and all(
            self.breakers[item.name].state is not State.CLOSED for item in able
        )

    def states(self) -> list[ProviderState]:
        return [
            ProviderState(
                name=item.name,
                state=item.state,
                since=item.since,
                failures=item.failures,
                error=item.last_error,
                retry_at=item.retry_at,
            )
            for item in self.breakers.values()
        ]

    async def look(self) -> dict[str, Health]:
        """The state of each provider. A provider whose last call failed is called again once the
        wait of its open breaker is over. So a breaker closes again, or opens after a first
        failure, without any customer's action."""
        found: dict[str, Health] = {}
        for provider in self.providers:
            breaker = self.breakers[provider.name]
            if breaker.state is State.CLOSED and not breaker.failures:
                found[provider.name] = Health(True)
                continue
            try:
                await self.call(provider.name, _healthy)
            except ProviderUnavailable as error:
                found[provider.name] = Health(False, breaker.last_error or str(error))
            else:
                found[provider.name] = Health(True)
        return found

    async def close(self) -> None:
        for provider in self.providers:
            await provider.close()

    async def call(self, name: str, function: Callable[[PaymentProvider], Awaitable[T]]) -> T:
        """Call one provider through its breaker. Raises what the provider raises."""
        provider = self.provider(name)
        return await self.breakers[name].call(lambda: function(provider))

    async def _first(
        self, capability: Capability, what: str, function: Callable[[PaymentProvider], Awaitable[T]]
    ) -> T:
        """The first answer, for calls that move no money. Raises Unsupported if no provider can do
        it."""
        last: ProviderUnavailable | None = None
        for provider in self.able(capability):
            try:
                return await self.call(provider.name, function)
            except ProviderUnavailable as error:
                last = error
        if last is not None:
            raise last
        raise Unsupported(f"No payment provider that is set up can {what}.")

    # ---- pages ----------------------------------------------------------------------------

    async def create_top_up(self, account: str, amount: Money, return_url: str) -> Checkout:
        """A page for a payment, from the first provider that is available."""
        return await self._first(
            Capability.TOP_UP,
            "take top-ups",
            lambda provider: provider.create_top_up(account, amount, return_url),
        )

    async def create_method_link(self, account: str, return_url: str) -> Checkout:
        """A page for saving a payment method, from the first provider that is available."""
        return await self._first(
            Capability.SAVED_METHODS,
            "save payment methods",
            lambda provider: provider.create_method_link(account, return_url),
        )

    async def list_methods(self, account: str) -> list[PaymentMethod]:
        """The saved methods at all available providers."""
        found: list[PaymentMethod] = []
        for provider in self.able(Capability.SAVED_METHODS):
            found += await self.call(provider.name, lambda it: it.list_methods(account))
        return found

    # ---- charges --------------------------------------------------------------------------

    async def charge_saved(
        self,
        account: str,
        amount: Money,
        idempotency_key: str,
        *,
        purpose: Purpose = Purpose.TOP_UP,
        subject: str = "",
    ) -> ChargeResult:
        """Charge the account's saved method, exactly once for each key.

        Raises ProviderUnavailable if no provider could be reached and nothing was sent, Unsupported
        if no provider can charge, ProviderRefused, AmountError. A charge with an unknown outcome
        is PENDING; repeat with the same key, or wait for the event.
        """
        able = self.able(Capability.SAVED_METHODS)
        if not able:
            raise Unsupported("No payment provider that is set up can charge saved methods.")
        wanted = Attempt(
            key=idempotency_key,
            account=account,
            provider=able[0].name,
            currency=amount.currency,
            amount=amount.micros,
            purpose=purpose.value,
            subject=subject,
            state=SENT,
            created=self._clock(),
            updated=self._clock(),
            next_at=self._clock() + LOOK_AGAIN,
        )
        attempt, fresh = await self._attempts.open(wanted)
        if fresh:
            return await self._send(attempt, able)
        if (attempt.account, attempt.currency, attempt.amount) != (
            account,
            amount.currency,
            amount.micros,
        ):
            raise ProviderRefused(
                f"The key {idempotency_key!r} was used for another charge. A new charge needs a "
                "new key."
            )
        return await self._continue(attempt, able)

    async def _send(self, attempt: Attempt, able: Iterable[PaymentProvider]) -> ChargeResult:
        """Send a charge that this process has claimed, to the first provider that is available."""
        last: ProviderUnavailable | None = None
        lacking: ChargeResult | None = None
        for provider in able:
            if provider.name != attempt.provider:
                moved = await self._moved(attempt, provider=provider.name)
                if moved is None:
                    return await self._current(attempt)
                attempt = moved
            try:
                result = await self.call(provider.name, lambda it, at=attempt: _charge(it, at))  # type: ignore[misc]
            except ProviderUnavailable as error:
                last = error
                if error.sent:
                    await self._moved(attempt, message=str(error))
                    return result_of(attempt)
                continue
            except PaymentError as error:  # not attempted
                await self._moved(attempt, state=UNSENT, next_at=None, message=str(error))
                raise
            if result.code == "no_payment_method":  # perhaps the next provider has one
                lacking = result
                continue
            return await self._note(attempt, result)
        if last is not None:
            # Nothing was sent: the next call with this key starts again.
            await self._moved(attempt, state=UNSENT, next_at=None, message=str(last))
            raise last
        assert lacking is not None
        return await self._note(attempt, lacking)

    async def _continue(self, attempt: Attempt, able: list[PaymentProvider]) -> ChargeResult:
        """The key is known: return its outcome, or find it out."""
        if attempt.state == UNSENT:
            return await self._again(attempt, able)
        if attempt.state not in OPEN:
            return result_of(attempt)
        found = await self.look_up(attempt)
        if found is not None:
            return found
        if self._clock() < attempt.created + ARRIVES_WITHIN:
            return result_of(attempt)
        return await self._again(attempt, [self.provider(attempt.provider)])

    async def _again(self, attempt: Attempt, able: list[PaymentProvider]) -> ChargeResult:
        """Send it again, unless another process is about to."""
        now = self._clock()
        claimed = await self._moved(attempt, state=SENT, created=now, next_at=now + LOOK_AGAIN)
        if claimed is None:
            return await self._current(attempt)
        return await self._send(claimed, able)

    async def find_charge(
        self, account: str, idempotency_key: str, since: datetime
    ) -> ChargeResult | None:
        """The outcome of the charge with this key; None if there is no charge, or none yet.

        `since` is part of the protocol; it is not needed here, because the attempt's row has it.
        """
        attempt = await self._attempts.get(idempotency_key)
        if attempt is None or attempt.account != account or attempt.state == UNSENT:
            return None
        return await self.look_up(attempt) if attempt.state in OPEN else result_of(attempt)

    async def note(self, event: ProviderEvent) -> None:
        """An event of a payment arrived: if it is one of our open charges, record its outcome."""
        status = _ENDS.get(event.kind)
        if status is None or not event.attempt or event.amount is None:
            return
        attempt = await self._attempts.get(event.attempt)
        if attempt is not None and attempt.state in OPEN and attempt.provider == event.provider:
            await self._note(
                attempt,
                ChargeResult(
                    status=status,
                    provider=event.provider,
                    amount=event.amount,
                    reference=event.reference,
                    decline=event.decline,
                    code=event.code,
                    message=event.message,
                    action_url=event.url,
                ),
            )

    async def look_up(self, attempt: Attempt) -> ChargeResult | None:
        """Ask the provider for the outcome of an open attempt, and record it. None: not found.

        If the provider does not know, the attempt stays PENDING.
        """
        try:
            found = await self.call(
                attempt.provider,
                lambda it: it.find_charge(attempt.account, attempt.key, attempt.created),
            )
        except PaymentError as error:
            await self._moved(attempt, message=str(error), next_at=self._clock() + LOOK_AGAIN)
            return result_of(attempt)
        return None if found is None else await self._note(attempt, found)

    async def settle(self, limit: int = 100) -> list[tuple[Attempt, ChargeResult]]:
        """Look up the open charges that are due. Returns those that have ended, with the outcome.

        A charge that certainly never arrived ends as FAILED with code "never_arrived". The original
        caller may try again with a new key.
        """
        ended: list[tuple[Attempt, ChargeResult]] = []
        for attempt in await self._attempts.due(self._clock(), limit):
            result = await self.look_up(attempt)
            if result is None:
                if self._clock() < attempt.created + ARRIVES_WITHIN:
                    await self._moved(attempt, next_at=self._clock() + LOOK_AGAIN)
                    continue
                lost = await self._moved(
                    attempt,
                    state=ChargeStatus.FAILED.value,
                    decline=Decline.LATER.value,
                    code="never_arrived",
                    message="The charge did not reach the payment provider.",
                    next_at=None,
                )
                if lost is None:  # another process is sending it again
                    continue
                result = result_of(lost)
            if result.status is not ChargeStatus.PENDING:
                ended.append((attempt, result))
        return ended

    # ---- the row --------------------------------------------------------------------------

    async def _note(self, attempt: Attempt, result: ChargeResult) -> ChargeResult:
        """Record the provider's result, unless a final one is recorded already."""
        pending = result.status is ChargeStatus.PENDING
        while True:
            moved = await self._moved(
                attempt,
                state=result.status.value,
                reference=result.reference,
                decline=result.decline.value if result.decline else "",
                code=result.code,
                message=result.message,
                action_url=result.action_url,
                next_at=self._clock() + PENDING_LOOK if pending else None,
            )
            if moved is not None:
                await self._report(moved, result)
                return result
            found = await self._attempts.get(attempt.key)
            if found is None or found.state not in OPEN:
                return result
            attempt = found

    async def _report(self, attempt: Attempt, result: ChargeResult) -> None:
        """Apply a successful payment at once, since its event may be late."""
        if result.status is not ChargeStatus.SUCCEEDED:
            return
        event = event_of(attempt, result, self._clock())
        for listener in self.on_success:
            try:
                await listener(event)
            except FastGateError:  # a webhook or the reconciliation reports it again
                log.warning("The payment %s waits for its event.", result.reference, exc_info=True)

    async def _moved(self, attempt: Attempt, **changes: object) -> Attempt | None:
        """Write the row; None if another process has changed it in the meantime."""
        # Always later than before, so that two versions of a row always differ.
        updated = max(self._clock(), attempt.updated + timedelta(microseconds=1))
        after = replace(attempt, updated=updated, **changes)
        return after if await self._attempts.move(after, before=attempt) else None

    async def _current(self, attempt: Attempt) -> ChargeResult:
        return result_of(await self._attempts.get(attempt.key) or attempt)


def result_of(attempt: Attempt) -> ChargeResult:
    """The state of an attempt, from its row."""
    waits = attempt.state in (SENT, UNSENT)
    state = ChargeStatus.PENDING if waits else ChargeStatus(attempt.state)
    message = attempt.message
    if waits:
        message = "The payment provider has not confirmed the charge yet."
    return ChargeResult(
        status=state,
        provider=attempt.provider,
        amount=Money(attempt.amount, attempt.currency),
        reference=attempt.reference,
        decline=Decline(attempt.decline) if attempt.decline else None,
        code=attempt.code,
        message=message,
        action_url=attempt.action_url,
    )


def event_of(attempt: Attempt, result: ChargeResult, at: datetime) -> ProviderEvent:
    """The fact of a successful charge, identical to that of the provider's own event."""
    return ProviderEvent(
        kind=EventKind.PAYMENT_SUCCEEDED,
        provider=result.provider,
        key=f"{result.provider}:payment:{result.reference}:succeeded",
        at=at,
        account=attempt.account,
        amount=result.amount,
        reference=result.reference,
        payment=result.reference,
        purpose=Purpose(attempt.purpose),
        subject=attempt.subject,
        attempt=attempt.key,
    )


def _charge(provider: PaymentProvider, attempt: Attempt) -> Awaitable[ChargeResult]:
    return provider.charge_saved(
        attempt.account,
        Money(attempt.amount, attempt.currency),
        attempt.key,
        purpose=Purpose(attempt.purpose),
        subject=attempt.subject,
    )


async def _healthy(provider: PaymentProvider) -> None:
    health = await provider.health()
    if not health.ok:
        raise ProviderUnavailable(health.message or "It reports a problem.", sent=False)
