"""The interface of `StripeProvider` for its helper modules, so that they need not import it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Protocol, TypeVar

import stripe

from fastgate.billing.payments.base import Clock

_T = TypeVar("_T")


class StripeApi(Protocol):
    """Stripe's API, with our errors and our accounts."""

    clock: Clock

    @property
    def client(self) -> stripe.StripeClient:
        """The library's client."""

    async def call(self, request: Awaitable[_T]) -> _T:
        """Await a call of the library. Its errors become ours; CardError passes through."""

    def all(self, first: Awaitable[Any]) -> AsyncIterator[dict[str, Any]]:
        """The objects of a list, page after page."""

    async def account_of(self, customer: str | None, metadata: Mapping[str, Any] | None) -> str:
        """Our account for a customer of Stripe's; "" if there is none."""
