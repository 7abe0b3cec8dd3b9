# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Billing: what plans cost, and how the gateway gets paid, reminds and explains.

Prices are on plans (`plans[].price`) and routes (`routes[].price`). Everything else about money is
in the section `billing`. All of it is optional: without it, an operator credits balances, notices
are only shown by the API, and nothing is sent.

```
price of a request = step of the plan's price at its number in the period
                     + units of each meter, once they are known
flat fee           = once per period, prorated for a part of a period
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from fastgate.model.base import Model, Name, worded
from fastgate.model.secret import Secret
from fastgate.model.units import Duration, Money
from fastgate.model.webhook import Url, Webhook, check_webhooks

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Period = Literal["day", "week", "month", "year"]
Currency = Annotated[
    str, Meta(pattern=worded(r"^[A-Z]{3}$", "a currency: three capital letters such as 'USD'"))
]
"""A wallet's currency: three letters, which is what shared memory has room for."""

STRIPE_API = "https://api.stripe.com"


def _d(text: str) -> Duration:
    return Duration.parse(text)


# ---- prices -----------------------------------------------------------------------------


class Tier(Model, frozen=True, kw_only=True):
    """One step of a graduated price: what each request up to a number costs."""

    up_to: Annotated[
        Annotated[int, Meta(ge=1, le=2**53)] | None,
        Meta(
            description="The last request of the period, counted from the first, that has this "
            "price. Left out, on the last tier only: all that follow."
        ),
    ] = None
    price: Annotated[Money, Meta(description="The price of each request in this tier.")]


class UnitPrice(Model, frozen=True, kw_only=True):
    """The price of a unit of a meter, such as tokens or bytes."""

    meter: Annotated[Name, Meta(description="The meter, by name.")]
    price: Annotated[Money, Meta(description="The price of `per` units.")]
    per: Annotated[
        int,
        Meta(
            ge=1,
            le=10**12,
            description="How many units the price is for, so that prices finer than a millionth "
            "can be written: `{price: 3 USD, per: 1000000}`.",
        ),
    ] = 1
    included: Annotated[int, Meta(ge=0, le=2**53, description="Free units in each period.")] = 0


class Price(Model, frozen=True, kw_only=True):
    """What a plan costs: by request, by unit, by period, or all of these."""

    per_request: Annotated[Money | None, Meta(description="The price of each request.")] = None
    tiers: Annotated[
        list[Tier],
        Meta(
            description="Instead of `per_request`: a graduated price. Each request costs what its "
            "own tier says; reaching a tier does not change the price of earlier requests."
        ),
    ] = []
    included: Annotated[
        int,
        Meta(
            ge=0, le=2**53, description="Requests in each period that are included in the flat fee."
        ),
    ] = 0
    overage: Annotated[
        Money | None,
        Meta(
            description="What each request beyond `included` costs. To refuse them instead, or to "
            "offer a larger plan, leave this out and give the plan a quota with `then`."
        ),
    ] = None
    per_unit: Annotated[
        list[UnitPrice],
        Meta(description="Prices of meters, in addition to the price of the request."),
    ] = []
    charge_abandoned: Annotated[
        bool,
        Meta(
            description="Whether a client that leaves before the answer begins owes the price of "
            "its request, once the upstream or the handler has all of the request."
        ),
    ] = True
    flat: Annotated[
        Money | None,
        Meta(description="A fee for each period, in advance; in part for a part of a period."),
    ] = None
    period: Annotated[
        Period,
        Meta(
            description="The calendar period that fees, tiers and allowances are counted by, in "
            "the account's time zone; weeks begin on Monday."
        ),
    ] = "month"
    trial: Annotated[
        Duration | None,
        Meta(description="How long a new subscription pays no flat fee. Default: no trial."),
    ] = None
    grace: Annotated[
        Duration | None,
        Meta(
            description="How long access continues after a failed payment. Default: "
            "`billing.grace.payment`."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.tiers and (self.per_request is not None or self.overage is not None):
            raise ValueError("tiers: not together with per_request or overage")
        if self.per_request is not None and self.overage is not None:
            raise ValueError("overage: not together with per_request, which means the same")
        if self.overage is not None and not self.included:
            raise ValueError("overage: beyond what? Give `included`, or write per_request")
        if self.tiers and self.included:
            raise ValueError("included: not together with tiers; make the first tier free instead")
        self._check_tiers()
        meters = [unit.meter for unit in self.per_unit]
        if len(set(meters)) != len(meters):
            raise ValueError("per_unit: a meter has one price")
        if len(self.currencies) > 1:
            raise ValueError(f"a price has one currency, not {' and '.join(self.currencies)}")

    def _check_tiers(self) -> None:
        last = 0
        for index, tier in enumerate(self.tiers):
            if tier.up_to is None:
                if index != len(self.tiers) - 1:
                    raise ValueError("tiers: only the last may be without up_to")
            elif tier.up_to <= last:
                raise ValueError("tiers: up_to must increase from tier to tier")
            else:
                last = tier.up_to
        if self.tiers and self.tiers[-1].up_to is not None:
            raise ValueError("tiers: the last one is for all further requests; leave its up_to out")

    @property
    def open_ended(self) -> bool:
        """Whether it includes requests but has no price for further ones, so that a quota of the
        plan must refuse them."""
        return bool(self.included) and self.per_request is None and self.overage is None

    @property
    def currencies(self) -> list[str]:
        """The currencies of the price, in order; at most one if it is valid."""
        amounts = [
            self.per_request,
            self.overage,
            self.flat,
            *(tier.price for tier in self.tiers),
            *(unit.price for unit in self.per_unit),
        ]
        return list(dict.fromkeys(money.currency for money in amounts if money is not None))


# ---- limits and grace -------------------------------------------------------------------


class SpendingLimit(Model, frozen=True, kw_only=True):
    """The most that may be spent in a period."""

    amount: Annotated[Money, Meta(description="The maximum that may be spent. `0 EUR`: nothing.")]
    period: Annotated[
        Period,
        Meta(description="The calendar period (UTC) by which it is counted."),
    ] = "month"


class Spending(Model, frozen=True, kw_only=True):
    """Default spending limits."""

    account: Annotated[
        SpendingLimit | None, Meta(description="For each account. Default: no limit.")
    ] = None
    consumer: Annotated[
        SpendingLimit | None, Meta(description="For each consumer. Default: no limit.")
    ] = None
    credential: Annotated[
        SpendingLimit | None, Meta(description="For each key. Default: no limit.")
    ] = None


class Grace(Model, frozen=True, kw_only=True):
    """How long customers are served while their payment is in doubt."""

    payment: Annotated[
        Duration,
        Meta(description="After a subscription's payment failed, from the first failure."),
    ] = _d("7d")
    provider: Annotated[
        Duration,
        Meta(description="While a payment provider is down, for each account. `0`: no grace."),
    ] = _d("1h")
    provider_amount: Annotated[
        Money,
        Meta(
            description="The maximum value of requests that an account may use while a provider is "
            "down."
        ),
    ] = Money.parse("5 USD")
    unpaid: Annotated[
        Duration,
        Meta(description="From the end of grace until an unpaid subscription ends for good."),
    ] = _d("30d")
    incomplete: Annotated[
        Duration,
        Meta(description="How long a first payment may wait for confirmation by its owner."),
    ] = _d("23h")


class Dunning(Model, frozen=True, kw_only=True):
    """Retries after a payment that failed for a temporary reason."""

    retries: Annotated[
        list[Duration],
        Meta(
            max_length=8,
            description="When to try again: the time from each failure to the next attempt. A "
            "method that can never work is not tried again; a payment that needs another "
            "method waits for it. At most 8 attempts.",
        ),
    ] = field(default_factory=lambda: [_d(text) for text in ("1d", "2d", "4d", "7d")])

    def __post_init__(self) -> None:
        if any(wait.ns < 3_600_000_000_000 for wait in self.retries):
            raise ValueError("retries: not more often than once an hour")


# ---- notices ----------------------------------------------------------------------------


class Notices(Model, frozen=True, kw_only=True):
    """Notices to customers, and when they are sent."""

    renewal_days: Annotated[
        list[Annotated[int, Meta(ge=0, le=366)]],
        Meta(
            max_length=16,
            description="Days before the end of a period or trial at which its end or renewal is "
            "announced.",
        ),
    ] = field(default_factory=lambda: [14, 7, 3, 1, 0])
    levels: Annotated[
        list[Annotated[int, Meta(ge=1, le=100)]],
        Meta(
            max_length=16,
            description="Percentages of a quota or spending limit at which its use is announced.",
        ),
    ] = field(default_factory=lambda: [50, 80, 95, 100])
    low_balance: Annotated[
        Money | None,
        Meta(description="A balance below this is announced, once until it is above it again."),
    ] = None
    empty_in: Annotated[
        Duration,
        Meta(
            description="A balance that will be used up within this time at the current rate is "
            "announced. `0`: never."
        ),
    ] = _d("3h")
    receipts: Annotated[bool, Meta(description="Send a receipt for every payment.")] = True
    retries: Annotated[
        int,
        Meta(
            ge=0,
            le=30,
            description="How often a notice is sent again if the recipient did not accept it.",
        ),
    ] = 12
    keep: Annotated[
        Duration, Meta(description="How long notices are kept after they were read or sent.")
    ] = _d("90d")


class UsageKeeping(Model, frozen=True, kw_only=True):
    """How long usage records are kept. There is one for each metered request."""

    keep: Annotated[
        Duration | None,
        Meta(
            description="How long single records are kept after they were charged, at least `30d`; "
            "older ones are deleted. Reports, balances, invoices and the audit do not need them. "
            "Default: permanently."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep.ns < 30 * 86_400_000_000_000:
            raise ValueError("keep: at least 30d, so that no record can be charged a second time")


class Smtp(Model, frozen=True, kw_only=True):
    """The mail server that notices are sent through."""

    host: Annotated[str, Meta(min_length=1, max_length=253, description="Its name or address.")]
    port: Annotated[int, Meta(ge=1, le=65_535, description="Its port.")] = 587
    tls: Annotated[
        Literal["starttls", "implicit", "none"],
        Meta(
            description="`starttls`: start unencrypted, then require encryption; `implicit`: "
            "encrypted from the start (port 465); `none`: without encryption, for a server on "
            "this host."
        ),
    ] = "starttls"
    user: Annotated[str | None, Meta(description="The user to log in as. Default: none.")] = None
    password: Annotated[Secret | None, Meta(description="The user's password.")] = None
    sender: Annotated[
        str,
        Meta(
            pattern=worded(
                r"^[^\r\n]{0,200}[^\s@<>]{1,64}@[^\s@<>]{1,190}>?$",
                "a mail address, 'billing@acme.example' or 'Acme <billing@acme.example>'",
            ),
            description="The address from which notices are sent, `Acme <billing@acme.example>`.",
        ),
    ]
    timeout: Annotated[Duration, Meta(description="For one message.")] = _d("20s")

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ValueError("user: and password go together")
        if self.user is not None and self.tls == "none":
            raise ValueError("tls: a password is never sent unencrypted; use starttls or implicit")


# ---- providers and the seller -----------------------------------------------------------


class Stripe(Model, frozen=True, kw_only=True):
    """An account with Stripe (needs the extra `stripe`)."""

    secret: Annotated[Secret, Meta(description="The secret key (`sk_…` or a restricted key).")]
    webhook_secrets: Annotated[
        list[Secret],
        Meta(
            description="Secrets with which Stripe signs its webhooks (`whsec_…`); several while "
            "you change them."
        ),
    ] = []
    usage: Annotated[
        dict[
            Name,
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^[A-Za-z0-9_.-]{1,100}$",
                        "a name of 1 to 100 letters, digits, '_', '.' or '-'",
                    )
                ),
            ],
        ],
        Meta(
            description="Usage to report to Stripe's meters: a meter, or `requests`, and the "
            "meter's event name at Stripe. No request waits for it. Default: none."
        ),
    ] = {}
    api: Annotated[Url, Meta(description="Address of the API.")] = STRIPE_API
    timeout: Annotated[Duration, Meta(description="For one call.")] = _d("10s")


class Facilitator(Model, frozen=True, kw_only=True):
    """The default x402 facilitator of routes (needs the extra `x402`)."""

    facilitator: Annotated[Url, Meta(description="Its address.")]
    pay_to: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)] | None,
        Meta(description="The address that receives payments, for routes that set none."),
    ] = None
    network: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[-a-z0-9]{3,32}(:[-_a-zA-Z0-9]{1,64})?$", "a network such as 'eip155:8453'"
                )
            ),
        ]
        | None,
        Meta(description="The network, such as `eip155:8453`, for routes that set none."),
    ] = None
    timeout: Annotated[Duration, Meta(description="For one call.")] = _d("10s")


class Seller(Model, frozen=True, kw_only=True):
    """The seller, as shown on invoices and receipts."""

    name: Annotated[str, Meta(max_length=200, description="The seller's name.")] = ""
    address: Annotated[list[str], Meta(max_length=10, description="The address, in lines.")] = []
    tax_id: Annotated[str, Meta(max_length=64, description="A tax number to show.")] = ""
    email: Annotated[
        str, Meta(max_length=254, description="The contact for questions about invoices.")
    ] = ""
    prefix: Annotated[
        str,
        Meta(
            pattern=worded(r"^[A-Z0-9]{1,12}$", "1 to 12 capital letters and digits"),
            description="The beginning of invoice numbers: `INV-2026-000001`.",
        ),
    ] = "INV"


class Billing(Model, frozen=True, kw_only=True):
    """Money: currency, limits, providers, notices. All of it may be left out."""

    currency: Annotated[
        Currency, Meta(description="Currency of wallets, unless another one is given.")
    ] = "USD"
    public: Annotated[
        Literal["on", "off"],
        Meta(
            description="Serve the gateway's own pages under `/_fastgate/` on every listener: "
            "explanations of refusals, top-up and account pages, providers' webhooks."
        ),
    ] = "on"
    public_url: Annotated[
        Url | None,
        Meta(
            description="How customers reach this gateway; links in notices and refusals begin "
            "with it. Default: the Host that was called, and no links in notices."
        ),
    ] = None
    time_zone: Annotated[
        str,
        Meta(
            description="Default time zone of accounts, by its IANA name: `Europe/Berlin`. "
            "Their periods begin at midnight there."
        ),
    ] = "UTC"
    seller: Annotated[Seller, Meta(description="The seller, as invoices show it.")] = Seller()
    spending: Annotated[
        Spending,
        Meta(description="Default spending limits of accounts, consumers and keys."),
    ] = Spending()
    grace: Annotated[Grace, Meta(description="Service while a payment is in doubt.")] = Grace()
    dunning: Annotated[Dunning, Meta(description="Attempts after a failed payment.")] = Dunning()
    usage: Annotated[UsageKeeping, Meta(description="Keeping usage records.")] = UsageKeeping()
    notices: Annotated[Notices, Meta(description="Notices to customers.")] = Notices()
    smtp: Annotated[
        Smtp | None, Meta(description="Notices by e-mail. Default: no e-mail is sent.")
    ] = None
    webhooks: Annotated[list[Webhook], Meta(description="Notices by signed webhook.")] = []
    providers: Annotated[
        list[Name],
        Meta(
            description="Payment providers in the order in which they are tried. Empty: `stripe` "
            "where it is set up, then `manual`."
        ),
    ] = []
    stripe: Annotated[Stripe | None, Meta(description="Payment through Stripe.")] = None
    x402: Annotated[Facilitator | None, Meta(description="Payment per request, with x402.")] = None

    def __post_init__(self) -> None:
        if self.time_zone != "UTC":
            check_zone(self.time_zone)
        check_webhooks(self.webhooks)

    @property
    def provider_names(self) -> list[str]:
        """The payment providers in force, in order."""
        if self.providers:
            return list(dict.fromkeys(self.providers))
        return ["stripe", "manual"] if self.stripe is not None else ["manual"]


def check_zone(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises ValueError."""
    # Late: few configurations name a zone, and zoneinfo keeps 0.5 MiB in every process.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"time_zone: {name!r} is no time zone; write its IANA name, such as 'Europe/Berlin'"
        ) from None
