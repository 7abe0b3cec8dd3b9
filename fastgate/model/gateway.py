# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""The configuration document, `version: 1`, as one struct. A revision is one such document.

All code that reads or writes configuration (the file, the control API, the compiler, the schema,
the reference) imports these structs from here. Decode with `codec.decode`, which supports the short
forms, never with msgspec alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from fastgate.model.auth import (
    ApiKeyAuth,
    Auth,
    AuthMethod,
    BasicAuth,
    ForwardAuth,
    IntrospectionAuth,
    JwtAuth,
    MtlsAuth,
    SignatureAuth,
)
from fastgate.model.base import Model
from fastgate.model.billing import (
    Billing,
    Dunning,
    Facilitator,
    Grace,
    Notices,
    Price,
    Seller,
    Smtp,
    Spending,
    SpendingLimit,
    Stripe,
    Tier,
    UnitPrice,
)
from fastgate.model.claims import ClaimPath
from fastgate.model.connections import ConnectionLimit, HandshakeLimit
from fastgate.model.dns import Dns, NameServer
from fastgate.model.issuer import Introspection, Issuer, TokenPlan
from fastgate.model.match import Match, Predicate
from fastgate.model.operation import (
    AccessLog,
    Caps,
    Control,
    ControlToken,
    GatewayHeaders,
    Listener,
    Memory,
    Metrics,
    Observability,
    ProblemBody,
    Problems,
    Store,
    Timeouts,
)
from fastgate.model.party import Consumer, Plan
from fastgate.model.places import Bind, Cidr, TargetUrl, TrustedPeer
from fastgate.model.policy import (
    Addresses,
    Concurrency,
    Cors,
    HeaderRules,
    Headers,
    Limit,
    LimitOverride,
    Policy,
    Quota,
    Scope,
)
from fastgate.model.route import (
    Redirect,
    Respond,
    Rewrite,
    Route,
)
from fastgate.model.secret import Secret
from fastgate.model.sticky import Sticky
from fastgate.model.tls import (
    Acme,
    AcmeBinding,
    Authority,
    Certificate,
    ClientCertificate,
    ControlTls,
    Hsts,
    ListenerClient,
    ListenerTls,
    UpstreamTls,
)
from fastgate.model.traffic import (
    FaultInjection,
    GatewayMaintenance,
    Maintenance,
    Mirror,
    Shedding,
    Split,
    SplitCookie,
    SplitService,
)
from fastgate.model.units import Duration, Money, Percent, Rate, Share, Size
from fastgate.model.upstream import (
    Eject,
    Health,
    KeepAlive,
    Retries,
    Service,
    Target,
    Upstream,
    UpstreamTimeouts,
)
from fastgate.model.validation import DescriptionPlace, Validate
from fastgate.model.values import KeyDigest, Moment, Value
from fastgate.model.webhook import Webhook
from fastgate.model.x402 import X402


def _default_listeners() -> list[Listener]:
    return [Listener(bind=Bind.parse("127.0.0.1:8080"))]


class Gateway(Model, frozen=True, kw_only=True):
    """The whole document."""

    version: Annotated[Literal[1], Meta(description="The version of the document's format.")]
    listeners: Annotated[
        list[Listener],
        Meta(min_length=1, description="Where clients connect. Default: `127.0.0.1:8080`."),
    ] = field(default_factory=_default_listeners)
    certificates: Annotated[
        list[Certificate], Meta(description="Certificates that the gateway presents.")
    ] = []
    authorities: Annotated[
        list[Authority],
        Meta(description="Authorities whose certificates it accepts, of clients and upstreams."),
    ] = []
    acme: Annotated[
        list[Acme], Meta(description="Authorities that issue certificates by themselves.")
    ] = []
    issuers: Annotated[
        list[Issuer],
        Meta(description="Who issues the tokens that routes accept (`auth: {jwt: NAME}`)."),
    ] = []
    upstreams: Annotated[list[Upstream], Meta(description="Pools of targets.")] = []
    dns: Annotated[Dns, Meta(description="How the names of targets are resolved.")] = Dns()
    services: Annotated[list[Service], Meta(description="APIs as products.")] = []
    routes: Annotated[
        list[Route], Meta(description="Which requests match, and where they go.")
    ] = []
    policies: Annotated[
        list[Policy],
        Meta(description="Named bundles of rules, used by routes, services and plans."),
    ] = []
    default_policies: Annotated[
        list[str],
        Meta(
            description="Policies that apply to every route, by name, unless it has "
            "`default_policies: false`. Settings of a route, its policies or its service's "
            "policies come first; all limits apply."
        ),
    ] = []
    maintenance: Annotated[
        GatewayMaintenance | None,
        Meta(
            description="Whether all routes are closed for maintenance. The gateway's own pages "
            "stay open."
        ),
    ] = None
    shedding: Annotated[
        Shedding | None,
        Meta(
            description="When a worker has too much to do and refuses requests, by the "
            "`importance` of their routes. Default: never."
        ),
    ] = None
    plans: Annotated[
        list[Plan], Meta(description="What groups of consumers may use, and how much.")
    ] = []
    consumers: Annotated[
        list[Consumer], Meta(description="Consumers to create when this is applied.")
    ] = []
    billing: Annotated[Billing, Meta(description="Money: currency, providers, notices.")] = (
        Billing()
    )
    headers: Annotated[GatewayHeaders, Meta(description="Header fields, on every route.")] = (
        GatewayHeaders()
    )
    caps: Annotated[Caps, Meta(description="Limits on what clients send.")] = Caps()
    timeouts: Annotated[Timeouts, Meta(description="How long clients may take.")] = Timeouts()
    trusted_proxies: Annotated[
        list[TrustedPeer],
        Meta(
            description="Proxies in front of the gateway, whose `X-Forwarded-*` and `Forwarded` "
            "fields are trusted: networks, addresses, and `unix` for peers on Unix sockets. "
            "From anyone else these fields are replaced."
        ),
    ] = []
    merge_slashes: Annotated[
        bool,
        Meta(
            description="Whether `//` in a request's path becomes `/`. `false`: empty segments are "
            "kept, for routing and forwarding; see "
            "[routing](routing.md#empty-segments)."
        ),
    ] = True
    half_close: Annotated[
        bool,
        Meta(
            description="Serve clients that close their sending side after the request. `false`: "
            "such a client counts as gone, and its request is aborted."
        ),
    ] = True
    problems: Annotated[Problems, Meta(description="The bodies of refusals.")] = Problems()
    control: Annotated[Control, Meta(description="The control API.")] = Control()
    store: Annotated[Store, Meta(description="Where records are kept.")] = Store()
    observability: Annotated[
        Observability, Meta(description="Access log, metrics, recent requests.")
    ] = Observability()
    workers: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | Literal["auto"],
        Meta(description="Worker processes; `auto`: one for each processor. Set at start."),
    ] = "auto"
    memory: Annotated[Memory, Meta(description="Sizes of the shared segment. Set at start.")] = (
        Memory()
    )
    drain_timeout: Annotated[
        Duration,
        Meta(description="How long requests in progress may take when the gateway shuts down."),
    ] = Duration.parse("30s")


__all__ = [
    "X402",
    "AccessLog",
    "Acme",
    "AcmeBinding",
    "Addresses",
    "ApiKeyAuth",
    "Auth",
    "AuthMethod",
    "Authority",
    "BasicAuth",
    "Billing",
    "Bind",
    "Caps",
    "Certificate",
    "Cidr",
    "ClaimPath",
    "ClientCertificate",
    "Concurrency",
    "ConnectionLimit",
    "Consumer",
    "Control",
    "ControlTls",
    "ControlToken",
    "Cors",
    "DescriptionPlace",
    "Dns",
    "Dunning",
    "Duration",
    "Eject",
    "Facilitator",
    "FaultInjection",
    "ForwardAuth",
    "Gateway",
    "GatewayHeaders",
    "GatewayMaintenance",
    "Grace",
    "HandshakeLimit",
    "HeaderRules",
    "Headers",
    "Health",
    "Hsts",
    "Introspection",
    "IntrospectionAuth",
    "Issuer",
    "JwtAuth",
    "KeepAlive",
    "KeyDigest",
    "Limit",
    "LimitOverride",
    "Listener",
    "ListenerClient",
    "ListenerTls",
    "Maintenance",
    "Match",
    "Memory",
    "Metrics",
    "Mirror",
    "Moment",
    "Money",
    "MtlsAuth",
    "NameServer",
    "Notices",
    "Observability",
    "Percent",
    "Plan",
    "Policy",
    "Predicate",
    "Price",
    "ProblemBody",
    "Problems",
    "Quota",
    "Rate",
    "Redirect",
    "Respond",
    "Retries",
    "Rewrite",
    "Route",
    "Scope",
    "Secret",
    "Seller",
    "Service",
    "Share",
    "Shedding",
    "SignatureAuth",
    "Size",
    "Smtp",
    "Spending",
    "SpendingLimit",
    "Split",
    "SplitCookie",
    "SplitService",
    "Sticky",
    "Store",
    "Stripe",
    "Target",
    "TargetUrl",
    "Tier",
    "Timeouts",
    "TokenPlan",
    "UnitPrice",
    "Upstream",
    "UpstreamTimeouts",
    "UpstreamTls",
    "Validate",
    "Value",
    "Webhook",
]
