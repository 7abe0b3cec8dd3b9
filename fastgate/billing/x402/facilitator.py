"""The facilitator of an x402 payment, over HTTP: verifies a payment, and settles it.

The official library's client and models make the calls; this module limits them and classifies the
answers. A misread answer must never cause a request to be served unpaid or paid for twice. So only
two results of an answer are accepted, and everything else counts as unknown:

    verify   "valid" → continue       "not valid, because" → refuse           else → no service
    settle   "done, transaction t"    "not done, because", and no             else → unknown
             → paid                   transaction was made → not paid

Unknown is: no answer in time; a status other than 200 (even with a body that reports success); an
answer that is too long, not JSON, truncated, not of the schema, or for another network or payer;
success without a transaction; failure with one; and failures whose code says so. It is certain that
nothing was requested only if no connection was made.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import httpx
from pydantic import ValidationError
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.http.facilitator_client_base import AuthHeaders
from x402.schemas import (
    PaymentPayload,
    PaymentRequirements,
    SettleResponse,
    VerifyResponse,
)
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1

from fastgate.billing.x402.wire import Payment
from fastgate.errors import ConfigurationError
from fastgate.model.secret import Secret

log = logging.getLogger("fastgate.x402")

MAX_ANSWER = 65536
"""Maximum bytes of an answer."""
MAX_CONNECTIONS = 64

NONCE_USED = frozenset({"invalid_exact_evm_nonce_already_used", "nonce_already_used"})
"""Codes that say that the token has already used this nonce."""
_DOUBTFUL = frozenset({"", "settlement_pending", "unexpected_settle_error"})
_DOUBTFUL_VERIFY = frozenset({"unexpected_verify_error"})
FIELD_VALUE = re.compile(r"[\x20-\x7e]+")


class Unavailable(Exception):
    """The facilitator gave no usable answer."""


class Refused(Exception):
    """The facilitator reports that the payment is not valid; `code` is its reason."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class Settled(Enum):
    """The status after requesting a settlement."""

    YES = "settled"
    NO = "failed"
    UNKNOWN = "unknown"
    UNSENT = "unsent"
    """Certainly not requested."""


class Settlement(NamedTuple):
    """The outcome of requesting a settlement."""

    state: Settled
    transaction: str = ""
    code: str = ""
    """Why not: the facilitator's code, or our text if the call failed."""


class FacilitatorClient:
    """One facilitator. Used on one event loop; keeps its connections."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, Secret],
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """headers: fields to send, with references to their values. timeout_s limits each call as a
        whole. transport: for tests."""
        self.url = url
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            transport=_Bounded(transport or _transport()),
            timeout=timeout_s,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
        )
        self._client = HTTPFacilitatorClient(
            FacilitatorConfig(
                url=url,
                timeout=timeout_s,
                http_client=self._http,
                auth_provider=_Headers(headers),
            )
        )

    async def verify(self, payment: Payment) -> None:
        """Return if the payment is valid. Raises Refused, or Unavailable if that is unknown."""
        payload, requirements = models(payment)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.verify(payload, requirements)
        except _Answered as said:
            raise _refusal(said) from said
        except (httpx.HTTPError, ValueError, TimeoutError) as error:
            raise Unavailable(f"{self.url}: {describe(error)}") from error
        if not answer.is_valid:
            code = answer.invalid_reason or ""
            if code in _DOUBTFUL_VERIFY:
                raise Unavailable(f"{self.url}: {code}")
            raise Refused(code, answer.invalid_message or "")
        if answer.payer is not None and answer.payer.lower() != payment.payer:
            raise Unavailable(f"{self.url}: the answer names another payer, {answer.payer}")

    async def settle(self, payment: Payment) -> Settlement:
        """Request the settlement. Never raises because of the facilitator's behaviour."""
        payload, requirements = models(payment)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.settle(payload, requirements)
        except NOT_SENT as error:
            return Settlement(Settled.UNSENT, code=describe(error))
        except _Answered as said:
            return _stated_failure(said)
        except (httpx.HTTPError, ValueError, TimeoutError) as error:
            return Settlement(Settled.UNKNOWN, code=describe(error))
        return judge(answer, payment)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()


def models(
    payment: Payment,
) -> tuple[PaymentPayload | PaymentPayloadV1, PaymentRequirements | PaymentRequirementsV1]:
    """A payment and its requirements, as the official library's models."""
    if payment.version == 1:
        return (
            PaymentPayloadV1.model_validate(payment.payload),
            PaymentRequirementsV1.model_validate(payment.requirements),
        )
    return (
        PaymentPayload.model_validate(payment.payload),
        PaymentRequirements.model_validate(payment.requirements),
    )


def judge(answer: SettleResponse, payment: Payment) -> Settlement:
    """The settlement's outcome, from an answer to /settle."""
    transaction = answer.transaction
    if answer.success:
        if answer.network != payment.network:
            return Settlement(Settled.UNKNOWN, code=f"settled on {answer.network}?")
        if answer.payer is not None and answer.payer.lower() != payment.payer:
            return Settlement(Settled.UNKNOWN, code=f"settled for {answer.payer}?")
        if not transaction:
            return Settlement(Settled.UNKNOWN, code="settled without a transaction?")
        return Settlement(Settled.YES, transaction)
    code = answer.error_reason or ""
    if transaction or code in _DOUBTFUL or code in NONCE_USED:
        return Settlement(Settled.UNKNOWN, transaction, code or "failed without a reason")
    return Settlement(Settled.NO, code=code)


def describe(error: BaseException) -> str:
    """An error as one line, for logs and problems."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error).replace("\n", " ")[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- limits around the library's client -----------------------------------------------------


class _NoSecret(httpx.HTTPError):
    """A configured field's value cannot be read. Nothing was sent."""


class _Headers:
    """The configured fields by endpoint, in the library's form. Read for each request."""

    def __init__(self, headers: Mapping[str, Secret]) -> None:
        self._headers = headers

    def get_auth_headers(self) -> AuthHeaders:
        found = {name: field_value(secret) for name, secret in self._headers.items()}
        return AuthHeaders(verify=found, settle=dict(found))


def field_value(secret: Secret) -> str:
    """A secret, as the value of a field. Raises httpx.HTTPError without the secret in it: the
    client's own error would contain the value that it cannot send."""
    try:
        value = secret.reveal()
    except ConfigurationError as error:
        raise _NoSecret(error.message) from error
    if not FIELD_VALUE.fullmatch(value):
        raise _NoSecret(f"the secret {secret} cannot be sent: a field is one line of ASCII")
    return value


NOT_SENT = (
    _NoSecret,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)
"""Errors after which it is certain that nothing was requested."""


class _Answered(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"answered {status}")
        self.status = status
        self.body = body


class _Bounded(httpx.AsyncBaseTransport):
    """Reads at most MAX_ANSWER bytes of an answer, and accepts only status 200."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        try:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise httpx.DecodingError("it is compressed, which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise httpx.DecodingError(f"its answer is longer than {MAX_ANSWER} bytes")
        finally:
            await response.aclose()
        if response.status_code != 200:
            raise _Answered(response.status_code, bytes(body))
        return httpx.Response(200, headers=response.headers, content=bytes(body))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _transport() -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=15.0
    )
    return httpx.AsyncHTTPTransport(limits=limits)


def _refusal(said: _Answered) -> Refused | Unavailable:
    """For a status other than 200 from /verify: some facilitators refuse with a 400."""
    answer = _stated(said, VerifyResponse)
    if answer is not None and not answer.is_valid and answer.invalid_reason:
        return Refused(answer.invalid_reason, answer.invalid_message or "")
    return Unavailable(str(said))


def _stated_failure(said: _Answered) -> Settlement:
    """For a status other than 200 from /settle."""
    answer = _stated(said, SettleResponse)
    if answer is not None and not answer.success:
        code = answer.error_reason or ""
        if not answer.transaction and code not in _DOUBTFUL and code not in NONCE_USED:
            return Settlement(Settled.NO, code=code)
    return Settlement(Settled.UNKNOWN, code=str(said))


def _stated(said: _Answered, model: Any) -> Any:
    if not 400 <= said.status < 500:
        return None
    try:
        return model.model_validate(json.loads(said.body))
    except (ValidationError, ValueError):
        return None
