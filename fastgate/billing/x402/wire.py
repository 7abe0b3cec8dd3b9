"""The x402 wire format: the offer, the payment, and whether they match.

A 402 has the price of a request (the *offer*). The client signs a transfer of exactly that amount
and sends the request again with it (the *payment*). Both are base64 of JSON in fields:

    version 2   PAYMENT-REQUIRED    PAYMENT-SIGNATURE   PAYMENT-RESPONSE
    version 1   the 402's body      X-PAYMENT           X-PAYMENT-RESPONSE

A payment is read strictly (unknown members, other forms of numbers and loose base64 are refused),
and every member is compared with the offer for *this* request. The facilitator gets our own offer,
and the payment encoded again from what was read: never the client's bytes, which two parsers could
read differently.

A payment is bound to route, method, path and query: by `resource.url`, and by `extra.fastgate`, a
digest of all four that a client of version 2 returns with the offer that it accepted. The signature
covers neither, so the binding only shows a client its mistake. The nonce, which is signed, makes a
payment pay only once (see `fastgate.billing.x402.claims`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from fastgate.model.base import exact_pattern
from fastgate.model.x402 import Address, Terms

MAX_FIELD = 8192
"""Maximum bytes of a field, ours and the client's."""
MIN_LEFT_S = 6
"""A payment with less time left is refused: it would expire while it is settled."""
IDENTIFIER = "payment-identifier"
BINDING = "fastgate"
_LONGEST_URL = 2048
_T = TypeVar("_T")

Decimal = Annotated[str, Meta(pattern=exact_pattern(r"^(0|[1-9][0-9]{0,77})$"))]
_Hex32 = Annotated[str, Meta(pattern=exact_pattern(r"^0x[0-9a-fA-F]{64}$"))]
_Hex = Annotated[str, Meta(pattern=exact_pattern(r"^0x([0-9a-fA-F]{2}){65,4096}$"))]
_Identifier = Annotated[str, Meta(pattern=exact_pattern(r"^[A-Za-z0-9_-]{16,128}$"))]

__all__ = ["IDENTIFIER", "Invalid", "Payment", "PaymentOffer", "Presented", "encode", "read"]


class Invalid(Exception):
    """A payment that cannot be accepted. `field`: the member at fault; `want` and `got`: the values
    offered and presented, if known."""

    def __init__(self, field: str, detail: str, want: object = None, got: object = None) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail
        self.want = want
        self.got = got


# ---- what is presented ------------------------------------------------------------------------


class Authorization(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """EIP-3009 `TransferWithAuthorization`; times in Unix seconds."""

    from_: Address = msgspec.field(name="from")
    to: Address
    value: Decimal
    valid_after: Decimal
    valid_before: Decimal
    nonce: _Hex32


class Exact(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of the scheme `exact` on EVM networks."""

    signature: _Hex
    authorization: Authorization


class _Version2(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    x402_version: Literal[2] = msgspec.field(name="x402Version")
    payload: Exact
    accepted: dict[str, Any]
    resource: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None


class _Version1(Struct, frozen=True, forbid_unknown_fields=True):
    x402_version: Literal[1] = msgspec.field(name="x402Version")
    scheme: str
    network: str
    payload: Exact


class Presented(Struct, frozen=True):
    """The payment field of the request: its version and value."""

    version: int
    value: str


class Payment(NamedTuple):
    """A payment that matches its offer, ready for the facilitator."""

    version: int
    exact: Exact
    identifier: str | None
    payload: dict[str, Any]
    """`paymentPayload`, as sent to the facilitator."""
    requirements: dict[str, Any]
    """`paymentRequirements`: ours, not the client's copy."""

    @property
    def payer(self) -> str:
        return self.exact.authorization.from_.lower()

    @property
    def valid_before(self) -> int:
        """Unix seconds."""
        return int(self.exact.authorization.valid_before)

    @property
    def network(self) -> str:
        return str(self.requirements["network"])


class PaymentOffer(NamedTuple):
    """The price of one request. Created from the same terms for each 402 and each payment."""

    terms: Terms
    method: str
    url: str
    """Origin, path and query: the value of `resource.url`."""

    @classmethod
    def of(cls, terms: Terms, method: str, called: str, path: str, query: str) -> PaymentOffer:
        """`called`: the origin that the client called."""
        origin = terms.origin or called
        return cls(terms, method, f"{origin}{path}{'?' + query if query else ''}")

    @property
    def called(self) -> str:
        """The origin of the URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def binding(self) -> str:
        """A digest of route, method and URL."""
        text = "\n".join((self.terms.route, self.method, self.url)).encode()
        return base64.urlsafe_b64encode(hashlib.sha256(text).digest()[:18]).decode()

    @property
    def shown_url(self) -> str:
        """The URL, truncated to fit a field; the binding covers the rest."""
        return self.url if len(self.url) <= _LONGEST_URL else self.url.partition("?")[0][:2048]

    @property
    def requirements(self) -> dict[str, Any]:
        """PaymentRequirements of version 2."""
        terms = self.terms
        return {
            "scheme": terms.scheme,
            "network": terms.network,
            "amount": terms.amount,
            "asset": terms.asset,
            "payTo": terms.pay_to,
            "maxTimeoutSeconds": terms.valid_for,
            "extra": {
                "name": terms.asset_name,
                "version": terms.asset_version,
                BINDING: self.binding,
            },
        }

    @property
    def requirements1(self) -> dict[str, Any]:
        """PaymentRequirements of version 1."""
        terms = self.terms
        return {
            "scheme": terms.scheme,
            "network": terms.version1,
            "maxAmountRequired": terms.amount,
            "resource": self.shown_url,
            "description": terms.description,
            "mimeType": "",
            "payTo": terms.pay_to,
            "maxTimeoutSeconds": terms.valid_for,
            "asset": terms.asset,
            "extra": {"name": terms.asset_name, "version": terms.asset_version},
        }

    def required(self, error: str) -> str:
        """The value of PAYMENT-REQUIRED."""
        resource = {"url": self.shown_url}
        if self.terms.description:
            resource["description"] = self.terms.description
        return encode(
            {
                "x402Version": 2,
                "error": error,
                "resource": resource,
                "accepts": [self.requirements],
                "extensions": {IDENTIFIER: _IDENTIFIER_OFFER},
            }
        )

    def required1(self, error: str) -> dict[str, Any]:
        """The members of a 402's body in version 1."""
        return {"x402Version": 1, "error": error, "accepts": [self.requirements1]}

    # ---- comparing ------------------------------------------------------------------------

    def take(self, presented: Presented, now: int) -> Payment:
        """The presented payment, if it pays for this request. now: Unix seconds.

        Raises Invalid with the member that differs.
        """
        if presented.version == 1:
            return self._take1(read(presented.value, _Version1), now)
        found = read(presented.value, _Version2)
        accepted = dict(found.accepted)
        for name, want in self.requirements.items():
            if name not in accepted:
                raise Invalid(f"accepted.{name}", "missing", want)
            got = accepted.pop(name)
            if name == "extra":
                _same_extra(want, got)
            elif not _same(want, got):
                raise Invalid(f"accepted.{name}", "not what was offered", want, got)
        for name in accepted:
            raise Invalid(f"accepted.{name}", "was not part of the offer")
        if found.resource is not None and found.resource.get("url") != self.shown_url:
            raise Invalid(
                "resource.url", "made for another resource", self.shown_url,
                found.resource.get("url"),
            )  # fmt: skip
        self._compare(found.payload, now)
        return Payment(
            version=2,
            exact=found.payload,
            identifier=_identifier(found.extensions),
            payload={
                "x402Version": 2,
                "payload": msgspec.to_builtins(found.payload),
                "accepted": self.requirements,
                "resource": {"url": self.shown_url},
            },
            requirements=self.requirements,
        )

    def _take1(self, found: _Version1, now: int) -> Payment:
        for name, want, got in (
            ("scheme", self.terms.scheme, found.scheme),
            ("network", self.terms.version1, found.network),
        ):
            if want != got:
                raise Invalid(name, "not what was offered", want, got)
        self._compare(found.payload, now)
        payload = msgspec.to_builtins(found)
        return Payment(1, found.payload, None, payload, self.requirements1)

    def _compare(self, exact: Exact, now: int) -> None:
        """The signed transfer: recipient, value, time."""
        found = exact.authorization
        at = "payload.authorization."
        if not _same(self.terms.pay_to, found.to):
            raise Invalid(at + "to", "pays another recipient", self.terms.pay_to, found.to)
        if found.value != self.terms.amount:
            raise Invalid(at + "value", "not the price", self.terms.amount, found.value)
        if int(found.valid_after) > now:
            raise Invalid(at + "validAfter", "not valid yet", now, found.valid_after)
        if int(found.valid_before) < now + MIN_LEFT_S:
            raise Invalid(
                at + "validBefore", "expired, or about to", now + MIN_LEFT_S, found.valid_before
            )

    def nonce(self, payment: Payment) -> bytes:
        """Identifies this payment: network, token, payer and nonce, 32 bytes."""
        found = payment.exact.authorization
        text = "\n".join((self.terms.network, self.terms.asset, found.from_, found.nonce)).lower()
        return hashlib.sha256(text.encode()).digest()


_IDENTIFIER_OFFER: dict[str, Any] = {
    "info": {"required": False},
    "schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "required": {"type": "boolean"},
            "id": {
                "type": "string",
                "minLength": 16,
                "maxLength": 128,
                "pattern": "^[a-zA-Z0-9_-]+$",
            },
        },
        "required": ["required"],
    },
}
"""The extension in the offer; clients put `id` into `info`."""


class _Info(Struct):
    id: _Identifier | None = None
    required: bool | None = None


class _Extension(Struct):
    info: _Info


def _identifier(extensions: dict[str, Any] | None) -> str | None:
    if not extensions or IDENTIFIER not in extensions:
        return None
    try:
        return msgspec.convert(extensions[IDENTIFIER], _Extension).info.id
    except msgspec.ValidationError as error:
        raise Invalid(f"extensions.{IDENTIFIER}", str(error)) from error


def _same(want: object, got: object) -> bool:
    """Whether they are equal, ignoring the case of addresses, which is a checksum."""
    if type(want) is not type(got):
        return False
    if isinstance(want, str) and isinstance(got, str) and want[:2] == "0x":
        return want.lower() == got.lower()
    return want == got


def _same_extra(want: dict[str, str], got: object) -> None:
    if not isinstance(got, dict):
        raise Invalid("accepted.extra", "not an object", want, got)
    for name in want.keys() | got.keys():
        if want.get(name) != got.get(name):
            place = f"accepted.extra.{name}"
            if name == BINDING:
                raise Invalid(place, "made for another route, method or query")
            raise Invalid(place, "not what was offered", want.get(name), got.get(name))


# ---- base64 of JSON ---------------------------------------------------------------------------


def encode(value: object) -> str:
    """Standard base64, padded, of JSON."""
    return base64.b64encode(msgspec.json.encode(value)).decode()


def read(text: str, kind: type[_T]) -> _T:
    """The struct in a field. Raises Invalid if it is not one."""
    if len(text) > MAX_FIELD:
        raise Invalid("payment", f"longer than {MAX_FIELD} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("payment", "not padded base64") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        message, _, place = str(error).partition(" - at `$")
        field = place.rstrip("`").lstrip(".") or "payment"
        raise Invalid(field, message) from error
