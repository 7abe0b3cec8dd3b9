"""Notices by webhook: JSON, posted and signed.

```
POST <url>
Content-Type: application/json
FastGate-Id: out_01…                         the same for every try: drop duplicates by it
FastGate-Signature: t=1760000000,v1=<hex>    HMAC-SHA256 of "<t>.<body>" with the shared secret

{"id": …, "type": "payment.failed", "created": …, "account": …, "title": …, "body": …, "data": …}
```

A receiver recomputes the HMAC over the raw body, compares in constant time, and refuses messages
older than five minutes: `verify` does that. Any 2xx means accepted. After a 410 the message is not
sent again; after any other status it is tried again later. Redirects are not followed, since they
would send the message to another address.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from fastgate.billing.notices.outbox import DeliveryError, Outgoing
from fastgate.billing.payments.base import Clock
from fastgate.errors import ConfigurationError
from fastgate.imports import import_late

if TYPE_CHECKING:
    from fastgate.model.webhook import Webhook

HEADER = "FastGate-Signature"
TOLERANCE_S = 300


def _mac(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()


def sign(secret: str, at: int, body: bytes) -> str:
    """The signature's value; `at` in Unix seconds."""
    return f"t={at},v1={_mac(secret, at, body)}"


def verify(secrets: Iterable[str], header: str, body: bytes, now: int) -> bool:
    """Whether one of the secrets made the signature, not more than five minutes from `now`."""
    times = re.findall(r"(?:^|,)t=(\d{1,15})(?=,|$)", header, re.A)
    if len(times) != 1 or abs(now - int(times[0])) > TOLERANCE_S:
        return False
    given = re.findall(r"(?:^|,)v1=([0-9a-f]{64})(?=,|$)", header)
    wanted = [_mac(secret, int(times[0]), body) for secret in secrets]
    matches = [hmac.compare_digest(one, other) for one in given for other in wanted]
    return any(matches)


def payload(outgoing: Outgoing) -> bytes:
    """The body; the same for every try."""
    return msgspec.json.encode(
        {
            "id": outgoing.id,
            "type": outgoing.kind,
            "created": outgoing.created,
            "account": outgoing.account,
            "title": outgoing.title,
            "body": outgoing.body,
            "data": outgoing.data,
        }
    )


class Webhooks:
    """The sender of the channel `webhook`."""

    def __init__(self, webhooks: Iterable[Webhook], clock: Clock) -> None:
        self.webhooks = {webhook.name: webhook for webhook in webhooks}
        self.clock = clock
        self._client: Any = None  # httpx.AsyncClient

    async def send(self, outgoing: Outgoing) -> None:
        """Post it. Raises DeliveryError."""
        httpx: Any = await import_late("httpx")
        webhook = self.webhooks.get(outgoing.target)
        if webhook is None:
            raise DeliveryError(
                f"There is no webhook {outgoing.target!r} in the configuration.", permanent=True
            )
        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False)
        body = payload(outgoing)
        try:
            secret = webhook.secret.reveal()
            limit = webhook.timeout.ms / 1000
            async with (
                asyncio.timeout(limit),
                self._client.stream(
                    "POST",
                    webhook.url,
                    content=body,
                    headers={
                        "Content-Type": "application/json",
                        "User-Agent": "FastGate",
                        "FastGate-Id": outgoing.id,
                        HEADER: sign(secret, int(self.clock().timestamp()), body),
                    },
                    timeout=limit,
                ) as response,
            ):
                status = response.status_code  # the answer's body is of no interest
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ConfigurationError) as error:
            raise DeliveryError(str(error) or type(error).__name__) from error
        if not 200 <= status < 300:
            raise DeliveryError(f"The receiver answered {status}.", permanent=status == 410)

    async def close(self) -> None:
        """Close connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
