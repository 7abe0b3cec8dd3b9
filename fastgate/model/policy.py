# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Policies: the rules for requests. Limits, quotas, addresses, CORS, header rules.

A **rate limit** is a smoothed rate (a token bucket); a **quota** is a count per calendar period;
**concurrency** is the number of requests in progress. All three have a scope that they count by.
All are exact across the workers of one host.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, field

from fastgate.model.base import FieldValue, Model, Name, Token, only_one, worded
from fastgate.model.paths import check_methods
from fastgate.model.places import Cidr
from fastgate.model.units import Duration, Rate, Size
from fastgate.model.validation import Validate

HEADER = "header:"
"""The prefix of a scope that is the value of a header field."""
SCOPES = ("address", "route", "consumer", "plan", "service", "credential")
"""The others."""
Scope = Annotated[
    str,
    Meta(
        pattern=worded(
            rf"^({'|'.join(SCOPES)}|{HEADER}[!#$%&'*+.^_`|~0-9A-Za-z-]{{1,64}})$",
            "'address', 'route', 'service', 'consumer', 'credential', 'plan' or 'header:NAME'",
        ),
        extra_json_schema={"examples": [*SCOPES, "header:X-Tenant"]},
    ),
]
Scopes = Annotated[
    list[Scope],
    Meta(
        min_length=1,
        description="What the limit counts by: any combination of `address` (the client's; of IPv6 "
        "its /64), `route`, `service`, `consumer`, `credential` (one key of a consumer), `plan`, "
        "`header:X-Tenant` (the value of any header; requests without it share one count). "
        "`[consumer, route]` counts each consumer on each route separately.",
    ),
]


def _consumer() -> list[Scope]:
    return ["consumer"]


def _lowered(scope: str) -> str:
    """Normalize field names, which are case-insensitive."""
    return scope.lower() if scope.startswith(HEADER) else scope


class _Counted(Model, frozen=True, kw_only=True):
    """The common base of all three kinds of limits."""

    by: Scopes = field(default_factory=_consumer)
    name: Annotated[
        Name | None,
        Meta(
            description="Shown to clients in `RateLimit-Policy` and in refusals, and logged. "
            "Counts belong to the name and its owner: with a name, they survive a change of "
            "order."
        ),
    ] = None

    def __post_init__(self) -> None:
        if len({_lowered(scope) for scope in self.by}) != len(self.by):
            raise ValueError(f"by: {self.by} names the same thing twice")

    @property
    def headers(self) -> tuple[str, ...]:
        """The header fields that it counts by, in lower case."""
        names = (scope.removeprefix(HEADER) for scope in self.by if scope.startswith(HEADER))
        return tuple(sorted(name.lower() for name in names))

    def _label(self, kind: str) -> str:
        scopes = (_lowered(scope).replace(":", "-") for scope in self.by)
        return self.name or "-".join([*scopes, kind])


class Limit(_Counted, frozen=True, kw_only=True):
    """A rate limit: a token bucket that refills evenly."""

    rate: Annotated[
        Rate,
        Meta(description="The number of requests per time; the bucket is refilled evenly."),
    ]
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(
            description="The size of the bucket: how many requests may come at once after a "
            "pause. Default: the rate's own number, so `50/s` takes 50 at once and `1000/min` "
            "takes 1000."
        ),
    ] = None

    @property
    def bucket(self) -> int:
        """The burst in force."""
        return self.rate.amount if self.burst is None else self.burst

    @property
    def tolerance_ns(self) -> int:
        """How far requests may be ahead of the rate: the time to fill the bucket, up to 2**62
        ns."""
        return min(self.rate.interval_ns * self.bucket, 2**62)

    @property
    def label(self) -> str:
        """The name shown to clients."""
        return self._label("rate")


QuotaPeriod = Literal["minute", "hour", "day", "week", "month", "year"]


class Quota(_Counted, frozen=True, kw_only=True):
    """A quota: a number of requests in a calendar period (UTC)."""

    period: Annotated[
        QuotaPeriod,
        Meta(description="The calendar period, in UTC; weeks begin on Monday."),
    ]
    requests: Annotated[int, Meta(ge=1, le=2**40, description="The number of requests per period.")]
    then: Annotated[
        Literal["refuse", "offer_upgrade"],
        Meta(
            description="When it is exhausted: `refuse` answers 429 `quota_exhausted`; "
            "`offer_upgrade` answers 402 `quota_exhausted_upgrade`, since a larger plan would "
            "help at once."
        ),
    ] = "refuse"

    @property
    def label(self) -> str:
        """The name shown to clients."""
        return self._label(self.period)


class Concurrency(_Counted, frozen=True, kw_only=True):
    """A limit on the number of requests in progress."""

    max: Annotated[
        int, Meta(ge=1, le=10_000_000, description="How many requests may be in progress at once.")
    ]

    @property
    def label(self) -> str:
        """The name shown to clients."""
        return self._label("concurrency")


MAX_OVERRIDES = 8
"""Maximum of one consumer."""


class LimitOverride(Model, frozen=True, kw_only=True):
    """A consumer's own numbers for a limit. The limit's kind determines the fields."""

    rate: Annotated[Rate | None, Meta(description="For a rate limit: its rate.")] = None
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(description="With `rate`: its burst. Default: the rate's own number."),
    ] = None
    requests: Annotated[
        Annotated[int, Meta(ge=1, le=2**40)] | None,
        Meta(description="For a quota: the number of requests per period."),
    ] = None
    max: Annotated[
        Annotated[int, Meta(ge=1, le=10_000_000)] | None,
        Meta(description="For a concurrency limit: how many requests may be in progress at once."),
    ] = None

    def __post_init__(self) -> None:
        given = [name for name in ("rate", "requests", "max") if getattr(self, name) is not None]
        only_one("give exactly one of rate, requests, max", given)
        if self.burst is not None and self.rate is None:
            raise ValueError("burst: only with a rate")

    @property
    def kind(self) -> Literal["rate", "quota", "concurrency"]:
        """The kind of limit it is for."""
        if self.rate is not None:
            return "rate"
        return "quota" if self.requests is not None else "concurrency"


class Addresses(Model, frozen=True, kw_only=True):
    """Who may call, by network address. `deny` is checked before `allow`."""

    allow: Annotated[
        list[Cidr],
        Meta(description="Only these may call. Empty: anyone who is not denied."),
    ] = []
    deny: Annotated[
        list[Cidr], Meta(description="These may not call, even if `allow` includes them.")
    ] = []


class Cors(Model, frozen=True, kw_only=True):
    """Cross-origin access by browsers; preflight requests are answered by the gateway."""

    origins: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^(\*|null|[a-z][a-z0-9+.-]*://[^/\s\x00-\x1f]+)$",
                        "an origin such as 'https://app.example.com', without a path, or '*'",
                    )
                ),
            ]
        ],
        Meta(
            min_length=1,
            description='Origins that may call, `"https://app.example.com"`, or `"*"` for any.',
        ),
    ]
    methods: Annotated[
        list[Token],
        Meta(description="Methods allowed across origins. Empty: those of the route."),
    ] = []
    headers: Annotated[
        list[Token],
        Meta(description="Request headers allowed. Empty: whatever the browser asks for."),
    ] = []
    expose: Annotated[list[Token], Meta(description="Response headers that scripts may read.")] = []
    credentials: Annotated[
        bool,
        Meta(
            description='Let browsers send cookies and HTTP authentication. Not with `"*"`: any '
            "site could then act as the user."
        ),
    ] = False
    max_age: Annotated[
        Duration, Meta(description="How long browsers may remember the preflight's answer.")
    ] = Duration.parse("10m")

    def __post_init__(self) -> None:
        if "*" in self.origins and self.credentials:
            raise ValueError("credentials: cannot be allowed to every origin; name the origins")
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError('origins: "*" stands alone')
        for origin in self.origins:
            check_origin(origin)
        check_methods(self.methods)


def check_origin(origin: str) -> None:
    """Raise ValueError for an origin that no browser sends."""
    if origin in ("*", "null"):
        return
    scheme, _, authority = origin.partition("://")
    if "*" in authority:
        raise ValueError(f"origins: {origin!r}: origins cannot have wildcards; list each one")
    if re.search(r"[@?#\\]", authority):
        raise ValueError(f"origins: {origin!r} is not an origin: scheme, host and port alone")
    if origin != origin.lower():
        raise ValueError(f"origins: {origin!r}: browsers send origins in lower case")
    if (scheme, authority.rpartition(":")[2]) in (("https", "443"), ("http", "80")):
        raise ValueError(f"origins: {origin!r}: browsers leave out a scheme's own port")


class HeaderRules(Model, frozen=True, kw_only=True):
    """Changes to header fields, in the order remove, set, add, default."""

    set: Annotated[dict[Token, FieldValue], Meta(description="Set, replacing existing ones.")] = {}
    add: Annotated[dict[Token, FieldValue], Meta(description="Added to existing ones.")] = {}
    remove: Annotated[list[Token], Meta(description="Taken out.")] = []
    default: Annotated[dict[Token, FieldValue], Meta(description="Added if there is none.")] = {}

    def __post_init__(self) -> None:
        for name in (*self.set, *self.add, *self.remove, *self.default):
            if name.lower() in UNTOUCHABLE:
                raise ValueError(f"{name!r} belongs to the connection and cannot have rules")


UNTOUCHABLE = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "via",
    }
)  # fmt: skip
"""Fields that frame messages or belong to one hop: rules cannot change them."""


OURS = frozenset(
    {
        "traceparent", "x-consumer-id", "x-consumer-name", "x-consumer-plan", "x-fastgate-mirror",
        "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id",
    }
)  # fmt: skip
"""Fields that the gateway writes into each request."""


def cors_field(name: str) -> bool:
    """Whether a field of an answer is about cross-origin access."""
    return name.lower().startswith("access-control-")


class Headers(Model, frozen=True, kw_only=True):
    """Header rules both ways."""

    request: Annotated[
        HeaderRules, Meta(description="Applied to the request before it is forwarded.")
    ] = HeaderRules()
    response: Annotated[
        HeaderRules, Meta(description="Applied to the answer before it goes to the client.")
    ] = HeaderRules()

    def __post_init__(self) -> None:
        for way, rules, ours in (
            ("request", self.request, OURS),
            ("response", self.response, {"x-request-id"}),
        ):
            for name in (*rules.set, *rules.add, *rules.remove, *rules.default):
                if name.lower() in ours:
                    raise ValueError(f"{way}: {name!r} is written by the gateway and has no rules")


class Rules(Model, frozen=True, kw_only=True):
    """The limits that routes, services, plans and policies can have."""

    limits: Annotated[
        list[Limit], Meta(description="Rate limits. A request must be within all of them.")
    ] = []
    quotas: Annotated[
        list[Quota], Meta(description="Quotas. A request must be within all of them.")
    ] = []
    concurrency: Annotated[
        list[Concurrency], Meta(description="Limits on requests in progress.")
    ] = []


class Policy(Rules, frozen=True, kw_only=True):
    """A named bundle of rules that routes, services and plans use with `policies: [name]`."""

    name: Annotated[Name, Meta(description="The name that routes, services and plans use.")]
    addresses: Annotated[
        Addresses | None, Meta(description="Who may call, by network address.")
    ] = None
    cors: Annotated[Cors | None, Meta(description="Cross-origin access by browsers.")] = None
    headers: Annotated[Headers, Meta(description="Header rules.")] = Headers()
    max_body: Annotated[
        Size | None, Meta(description="The largest request body that is accepted; 0: any size.")
    ] = None
    validate: Annotated[
        Validate | None, Meta(description="Validation of requests against an API's description.")
    ] = None
