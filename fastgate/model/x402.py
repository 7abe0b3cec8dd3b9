# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""x402: a route with payment per request, and the terms for its workers.

`X402` is the setting of a route. The compiler makes `Terms` from it and the route's service:
everything that a worker's handler needs, as one line of JSON after the handler's name, so that
terms are swapped together with their snapshot:

    fastgate.billing.x402.handler:PaidRoute {"route":"weather","upstream":"app","amount":"1000",…}

The scheme is `exact` on EVM networks, by EIP-3009 (`TransferWithAuthorization`): each payment has a
nonce that no facilitator or token accepts twice.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from fastgate.model.base import LINK, Model, Token, only_one, worded
from fastgate.model.secret import Secret
from fastgate.model.units import MICROS, MONEY_MOST, Duration, Money, Size

if TYPE_CHECKING:
    from fastgate.model.billing import Facilitator

HANDLER = "fastgate.billing.x402.handler:PaidRoute"
"""The handler of every route with `x402`."""
ADDRESS = worded(r"^0x[0-9a-fA-F]{40}$", "an address: '0x' and 40 hexadecimal digits")
NETWORK = worded(r"^eip155:[1-9][0-9]{0,18}$", "a network such as 'eip155:8453'")
TIMEOUT = Duration.parse("15s")
MAX_ATOMIC = 2**256 - 1

Address = Annotated[str, Meta(pattern=ADDRESS)]
Origin = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^https?://[\x21\x23-\x2e\x30-\x3b\x3d\x40-\x7e]+$",
            "an origin such as 'https://api.example.com', without a path",
        )
    ),
]
Link = Annotated[str, Meta(pattern=LINK)]


class X402(Model, frozen=True, kw_only=True):
    """Payment by request: clients pay with a signed transfer that a facilitator settles."""

    pay_to: Annotated[
        Address | None,
        Meta(description="The address that is paid. Default: `billing.x402.pay_to`."),
    ] = None
    network: Annotated[
        Annotated[str, Meta(pattern=NETWORK)] | None,
        Meta(
            description="The network, by its CAIP-2 name: `eip155:8453` is Base. Default: "
            "`billing.x402.network`."
        ),
    ] = None
    asset: Annotated[Address, Meta(description="The token's contract (EIP-3009, such as USDC).")]
    asset_name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)],
        Meta(description="The token's EIP-712 domain name, which is part of the signature."),
    ] = "USD Coin"
    asset_version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=16)],
        Meta(description="The token's EIP-712 domain version."),
    ] = "2"
    asset_decimals: Annotated[
        int, Meta(ge=0, le=36, description="Decimal places of the token, for a `price`.")
    ] = 6
    amount: Annotated[
        Annotated[str, Meta(pattern=worded(r"^[1-9][0-9]{0,77}$", "a positive whole number"))]
        | None,
        Meta(description='The price of a request in the token\'s smallest unit: `"1000"`.'),
    ] = None
    price: Annotated[
        Money | None,
        Meta(
            description="The price of a request in money instead, where one token counts as one "
            "unit of the currency."
        ),
    ] = None
    facilitator: Annotated[
        Link | None,
        Meta(
            description="The facilitator's address; `/verify` and `/settle` are under it. Default: "
            "`billing.x402.facilitator`."
        ),
    ] = None
    facilitator_headers: Annotated[
        dict[Token, Secret],
        Meta(
            description="Fields sent to the facilitator, such as its API key, with references to "
            "their values: `{Authorization: env:FACILITATOR_KEY}`."
        ),
    ] = {}
    scheme: Annotated[Literal["exact"], Meta(description="The payment scheme.")] = "exact"
    description: Annotated[
        Annotated[str, Meta(max_length=500)],
        Meta(description="A description of the resource, for the payer."),
    ] = ""
    version1: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[a-z0-9][a-z0-9-]{0,63}$",
                    "a network of x402 version 1 such as 'base-sepolia'",
                )
            ),
        ]
        | None,
        Meta(
            description="Offer version 1 of x402 as well, with its name for the network "
            "(`base-sepolia`). Default: only version 2."
        ),
    ] = None
    valid_for: Annotated[
        Duration, Meta(description="How long a payment is valid after it is signed.")
    ] = Duration.parse("60s")
    timeout: Annotated[
        Duration | None,
        Meta(
            description="How long the facilitator may take for one answer. Default: "
            "`billing.x402.timeout`, else 15s."
        ),
    ] = None
    keep: Annotated[
        Size,
        Meta(
            description="The largest answer that is stored for a payment whose settlement is not "
            "known yet, or that has a payment identifier."
        ),
    ] = Size.parse("1MiB")
    origin: Annotated[
        Origin | None,
        Meta(
            description="The address at which clients call this gateway, "
            "`https://api.example.com`; payments are bound to it. Default: the scheme (as "
            "reported by a trusted proxy) and the Host of the request."
        ),
    ] = None

    def __post_init__(self) -> None:
        only_one(
            "give exactly one of amount and price",
            [name for name in ("amount", "price") if getattr(self, name) is not None],
        )
        if self.amount is not None and int(self.amount) > MAX_ATOMIC:
            raise ValueError("amount: more than a token can count")
        # The books count in millionths of a token, even if the token has more decimals.
        micros, rest = divmod(int(self.atomic) * MICROS, 10**self.asset_decimals)
        if rest and self.price is None:
            raise ValueError(
                f"amount: {self.amount} of a token with {self.asset_decimals} decimals is not a "
                "whole number of millionths of a token"
            )
        if micros > MONEY_MOST:
            raise ValueError(
                f"{'amount' if self.price is None else 'price'}: at most 2^60 millionths of a token"
            )
        if self.price is not None:
            scaled, rest = divmod(self.price.micros * 10**self.asset_decimals, MICROS)
            if rest or scaled == 0:
                raise ValueError(
                    f"price: {self.price} is not a whole positive number of a token with "
                    f"{self.asset_decimals} decimals"
                )
        if self.valid_for.ms < 10_000:
            raise ValueError("valid_for: facilitators refuse payments with less than 10s left")
        for name in self.facilitator_headers:
            if name.lower() in ("content-length", "content-type", "host", "accept-encoding"):
                raise ValueError(f"facilitator_headers: {name!r} is set by the gateway")

    @property
    def atomic(self) -> str:
        """The price of a request in the token's smallest unit."""
        if self.price is not None:
            return str(self.price.micros * 10**self.asset_decimals // MICROS)
        assert self.amount is not None
        return self.amount


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of a paid route, for its handler. Times in seconds, sizes in bytes."""

    route: str
    upstream: str
    """Name of the upstream to forward to."""
    timeout: float = 60.0
    """Maximum time until the head of the upstream's answer."""
    problem_base: str = "urn:fastgate:reason:"
    """The beginning of a problem's `type`."""
    public_url: str = ""
    """The origin of links to the gateway's own pages; empty: the origin that was called."""
    via: str = "fastgate"
    charge_abandoned: bool = True
    """Whether a client that leaves must pay, once the upstream has its request."""

    pay_to: str
    network: str
    asset: str
    amount: str
    asset_name: str
    asset_version: str
    asset_decimals: int = 6
    scheme: str = "exact"
    description: str = ""
    version1: str | None = None
    valid_for: int = 60
    origin: str | None = None
    keep: int = 1 << 20

    facilitator: str
    facilitator_headers: dict[str, str] = {}
    """Name → the reference to its value, in the form of `Secret`."""
    facilitator_timeout: float = 15.0

    @property
    def tokens(self) -> str:
        """The price of a request in whole tokens: "0.001"."""
        digits = self.amount.rjust(self.asset_decimals + 1, "0")
        whole, rest = digits[: len(digits) - self.asset_decimals], digits[-self.asset_decimals :]
        rest = rest.rstrip("0") if self.asset_decimals else ""
        return f"{whole}.{rest}" if rest else whole

    def handler(self) -> str:
        """The handler's name with these terms, as in a snapshot."""
        return f"{HANDLER} {msgspec.json.encode(self).decode()}"


def read_terms(text: str) -> Terms:
    """Terms from their JSON. Raises ValueError if it is not valid."""
    return msgspec.json.decode(text, type=Terms)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a paid route and its service that its terms need."""

    route: str
    upstream: str
    timeout: float
    problem_base: str = "urn:fastgate:reason:"
    public_url: str = ""
    charge_abandoned: bool = True
    via: str = "fastgate"


def terms_of(x402: X402, place: Place, defaults: Facilitator | None = None) -> Terms:
    """The terms for the handler of a route with this `x402`.

    defaults: `billing.x402`, for settings that the route lacks. Raises ValueError for a setting
    that is missing in both, or a default that this scheme cannot use.
    """
    common: tuple[str | None, str | None, str | None, Duration] = (None, None, None, TIMEOUT)
    if defaults is not None:
        common = (defaults.pay_to, defaults.network, defaults.facilitator, defaults.timeout)
    pay_to = _given("pay_to", ADDRESS, x402.pay_to, common[0])
    network = _given("network", NETWORK, x402.network, common[1])
    facilitator = _given("facilitator", "^https?://", x402.facilitator, common[2])
    timeout = x402.timeout or common[3]
    return Terms(
        **msgspec.structs.asdict(place),
        pay_to=pay_to,
        network=network,
        asset=x402.asset,
        amount=x402.atomic,
        asset_name=x402.asset_name,
        asset_version=x402.asset_version,
        asset_decimals=x402.asset_decimals,
        scheme=x402.scheme,
        description=x402.description,
        version1=x402.version1,
        valid_for=-(-x402.valid_for.ms // 1000),
        origin=None if x402.origin is None else x402.origin.rstrip("/"),
        keep=x402.keep.bytes,
        facilitator=facilitator.rstrip("/"),
        facilitator_headers={name: str(place) for name, place in x402.facilitator_headers.items()},
        facilitator_timeout=timeout.seconds,
    )


def _given(name: str, pattern: str, own: str | None, default: str | None) -> str:
    value = own or default
    if not value:
        raise ValueError(f"x402.{name}: set neither by the route nor by billing.x402")
    if not re.match(pattern, value):
        raise ValueError(f"x402.{name}: {value!r} of billing.x402 cannot be used here")
    return value
