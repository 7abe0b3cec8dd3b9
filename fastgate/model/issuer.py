# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Issuers of tokens: what their tokens must have, where their keys are, whom their subjects are.

    issuer ──discovery──▶ jwks_uri ──▶ keys          the default: it is asked where its keys are
             jwks_uri ──▶ keys                       without discovery
             keys: path:FILE                         a file of public keys
             secret: env:NAME                        a shared secret, for HS256 and its like

Routes use issuers by name (`auth: {jwt: NAME}`), consumers have subjects of them. The document
contains no key: control fetches or reads them (`fastgate.runtime.control.issuers`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, field

from fastgate.model.base import Model, Name, Token, worded
from fastgate.model.caller_fields import check_caller_fields
from fastgate.model.claims import ClaimPath
from fastgate.model.places import host_name
from fastgate.model.secret import Secret
from fastgate.model.tls import SYSTEM, AuthorityName
from fastgate.model.units import Duration

ASYMMETRIC = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Algorithms with public keys."""
SYMMETRIC = ("HS256", "HS384", "HS512")
"""Algorithms with a shared secret."""
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The shortest secrets (RFC 7518, 3.2)."""
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip

DISCOVERED = "discovered"
"""Of introspection: the endpoint that discovery names."""
MOST_HEADERS = 16

_URL_CHARACTERS = r"[\x21\x23-\x3b\x3d\x3f-\x5b\x5d-\x7e]"
Url = Annotated[
    str,
    Meta(
        pattern=worded(
            rf"^https?://{_URL_CHARACTERS}{{1,1000}}$",
            "an address that begins with 'https://' or 'http://', without spaces or quotes",
        )
    ),
]


class PublicKeys(Secret):
    """Where public keys are: a JWKS, or keys or certificates in PEM form."""

    __slots__ = ()

    WHAT = "the place of public keys"
    EXAMPLES = ("path:/etc/fastgate/partner.jwks.json", "path:/etc/fastgate/partner.pem")
    NEVER = "keys themselves"


class TokenPlan(Model, frozen=True, kw_only=True):
    """The plan of a caller, by its token."""

    claim: Annotated[
        ClaimPath | None,
        Meta(description="The claim that names the plan. It goes before the consumer's own plan."),
    ] = None
    default: Annotated[
        str | None,
        Meta(
            description="The plan of callers for whom neither the claim nor their consumer names "
            "one; consumers that are created are put on it. Default: none."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.claim is None and self.default is None:
            raise ValueError("give claim, default or both")


class Introspection(Model, frozen=True, kw_only=True):
    """How the issuer is asked about a token (RFC 7662)."""

    endpoint: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    rf"^({DISCOVERED}|https?://{_URL_CHARACTERS}{{1,1000}})$",
                    "'discovered', or an address that begins with 'https://' or 'http://'",
                )
            ),
        ],
        Meta(
            description="Where it is asked. `discovered`: the endpoint that discovery names; it "
            "must be at the issuer's own host."
        ),
    ] = DISCOVERED
    client_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=512)] | None,
        Meta(description="As whom the gateway asks (client_secret_basic)."),
    ] = None
    client_secret: Annotated[
        Secret | None, Meta(description="Where the secret of `client_id` is.")
    ] = None
    token: Annotated[
        Secret | None,
        Meta(description="Where a bearer token is, with which the gateway asks instead."),
    ] = None
    cache: Annotated[
        Duration,
        Meta(
            description="For how long an answer is used again, but never beyond the token's "
            "expiry; 0s to 1h. A token that is revoked meanwhile is accepted until then."
        ),
    ] = Duration.parse("60s")
    timeout: Annotated[Duration, Meta(description="The time for an answer; 503 after it.")] = (
        Duration.parse("2s")
    )

    def __post_init__(self) -> None:
        if (self.client_id is None) is not (self.client_secret is None):
            missing = "client_secret" if self.client_secret is None else "client_id"
            raise ValueError(f"{missing}: client_id and client_secret belong together")
        if (self.client_id is None) is (self.token is None):
            raise ValueError("give client_id and client_secret, or token: who may ask")
        if self.client_id is not None and not self.client_id.isprintable():
            raise ValueError("client_id: control characters are not possible")
        if self.cache.ns > 3_600_000_000_000:
            raise ValueError(f"cache: {self.cache} is longer than 1h")
        if not 1_000_000 <= self.timeout.ns <= 60_000_000_000:
            raise ValueError(f"timeout: {self.timeout} is not from 1ms to 1m")

    @property
    def endpoint_url(self) -> str | None:
        """The address of the endpoint; None: discovery names it."""
        return None if self.endpoint == DISCOVERED else self.endpoint


def _usual_scopes() -> list[ClaimPath]:
    return [ClaimPath.parse("scope"), ClaimPath.parse("scp")]


class Issuer(Model, frozen=True, kw_only=True):
    """Who issues tokens, which tokens of it are accepted, and what is read from them."""

    name: Annotated[
        Name, Meta(description="The name that routes and consumers use, and metrics show.")
    ]
    issuer: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1000,
            description="`iss` of its tokens, exactly. With discovery, its address: the gateway "
            "looks at `/.well-known/openid-configuration` below it, then at "
            "`/.well-known/oauth-authorization-server` (RFC 8414).",
        ),
    ]
    jwks_uri: Annotated[
        Url | None,
        Meta(description="Where its keys (JWKS) are. Default: where discovery says."),
    ] = None
    keys: Annotated[
        PublicKeys | None,
        Meta(
            description="Its public keys instead: a JWKS, or keys or certificates in PEM form. "
            "A file that changes is read again."
        ),
    ] = None
    secret: Annotated[
        Secret | None,
        Meta(
            description="A secret that it shares with the gateway instead, for HS256, HS384 and "
            "HS512: at least 32, 48 and 64 bytes. Anyone who knows it can issue tokens."
        ),
    ] = None
    authority: Annotated[
        AuthorityName,
        Meta(
            description="Who must have issued the certificates of its https servers, by name. "
            "`system`: any authority that the operating system trusts."
        ),
    ] = SYSTEM
    insecure: Annotated[
        bool,
        Meta(
            description="Allow `http://` to other machines. Anyone in between can then replace "
            "the keys and issue tokens. Loopback addresses need no permission."
        ),
    ] = False
    proxy: Annotated[
        Url | None,
        Meta(
            description="The HTTP proxy through which control fetches its keys. Default: none; "
            "variables such as HTTPS_PROXY are not used."
        ),
    ] = None
    audience: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=512)]],
        Meta(
            max_length=64,
            description="One of them must be in the token's `aud`. Empty: any token of the issuer "
            "is accepted, also one that was issued for another service.",
        ),
    ] = []
    algorithms: Annotated[
        list[Algorithm],
        Meta(
            description="Signatures that are accepted. Default: all with public keys (RS, PS and "
            "ES with 256, 384 and 512, EdDSA); with `secret`, HS256."
        ),
    ] = []
    leeway: Annotated[
        Duration,
        Meta(description="By how much the clocks of issuer and gateway may differ; 0s to 10m."),
    ] = Duration.parse("30s")
    max_lifetime: Annotated[
        Duration | None,
        Meta(
            description="The longest time from `iat` to `exp`; tokens without `iat` are refused "
            "then. Default: any."
        ),
    ] = None
    types: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128)]],
        Meta(
            description="What `typ` in the token's header may be: `[at+jwt]` for access tokens "
            "(RFC 9068). Empty: anything."
        ),
    ] = []
    consumer: Annotated[
        ClaimPath,
        Meta(
            description="The claim that is the subject: consumers have `subjects` with its values. "
            "Dots lead to a member, `realm_access.user`; a name with dots is `a\\.b`, or a list of "
            "names."
        ),
    ] = ClaimPath.parse("sub")
    plan: Annotated[
        TokenPlan | None,
        Meta(description="The plan of the caller. Default: that of the consumer."),
    ] = None
    scopes: Annotated[
        list[ClaimPath],
        Meta(
            max_length=8,
            description="Where the token's scopes are: the first claim that is there, a text with "
            "spaces or a list.",
        ),
    ] = field(default_factory=_usual_scopes)
    headers: Annotated[
        dict[Token, ClaimPath],
        Meta(
            description="Header fields that upstreams get, each with its claim: "
            "`{X-Email: email}`. What clients send in these fields is removed."
        ),
    ] = {}
    unknown: Annotated[
        Literal["refuse", "anonymous", "create"],
        Meta(
            description="What to do with a valid token whose subject is no consumer's: refuse it "
            "(403), let it pass as nobody, or create a consumer (needs `plan.default`)."
        ),
    ] = "refuse"
    introspection: Annotated[
        Introspection | None,
        Meta(description="How it is asked about tokens. Default: it is not asked."),
    ] = None

    def __post_init__(self) -> None:
        self._check_keys()
        self._check_addresses()
        self._check_tokens()
        if len(self.headers) > MOST_HEADERS:
            raise ValueError(f"headers: {MOST_HEADERS} is the most")
        check_caller_fields("headers", self.headers, ("authorization", "cookie"))
        if self.unknown == "create" and (self.plan is None or self.plan.default is None):
            raise ValueError(
                "unknown: the consumers that are created need a plan: `plan: NAME`, or "
                "`plan: {claim: CLAIM, default: NAME}`"
            )
        if not self.scopes:
            raise ValueError("scopes: name at least one claim")

    def _check_keys(self) -> None:
        given = [name for name in ("jwks_uri", "keys", "secret") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[1]}: the keys are in {given[0]} already; give one of jwks_uri, keys, "
                "secret, or none for discovery"
            )
        if not self.fetches:
            asks = self.introspection is not None
            for name, unused in (
                ("authority", self.authority != SYSTEM and not asks),
                ("proxy", self.proxy is not None),
            ):
                if unused:
                    raise ValueError(f"{name}: nothing is fetched; leave out {name} or {given[0]}")
        shared = [each for each in self.algorithms if each in SYMMETRIC]
        if self.secret is None and shared:
            raise ValueError(
                f"algorithms: {shared[0]} needs `secret`; with public keys anybody could make such "
                "tokens"
            )
        if self.secret is not None and len(shared) < len(self.algorithms):
            raise ValueError("algorithms: a secret is for HS256, HS384 and HS512 only")
        for i, each in enumerate(self.algorithms):
            if each in self.algorithms[:i]:
                raise ValueError(f"algorithms[{i}]: {each} is there twice")

    def _check_addresses(self) -> None:
        if not self.issuer.isprintable() or self.issuer != self.issuer.strip():
            raise ValueError("issuer: spaces around it and control characters are not possible")
        if self.discovers:
            parts = self._checked("issuer", self.issuer)
            if parts.query or parts.fragment or "?" in self.issuer:
                raise ValueError(
                    f"issuer: {self.issuer!r} has a query or fragment, so there is no discovery; "
                    "give jwks_uri"
                )
        if self.jwks_uri is not None:
            self._checked("jwks_uri", self.jwks_uri)
        if self.proxy is not None:
            split_url("proxy", self.proxy)
        asked = self.introspection
        if asked is not None and asked.endpoint_url is not None:
            self._checked("introspection.endpoint", asked.endpoint_url)
        elif asked is not None and not self.discovers:
            raise ValueError(
                "introspection.endpoint: without discovery, write the address of the endpoint"
            )

    def _checked(self, field: str, url: str) -> SplitResult:
        parts = split_url(field, url)
        if not self.reachable(url):
            raise ValueError(
                f"{field}: {url!r} is not encrypted, so that others could replace what it answers; "
                "write https, or `insecure: true` if the network is trusted"
            )
        return parts

    def _check_tokens(self) -> None:
        if self.leeway.ns > 600_000_000_000:
            raise ValueError(f"leeway: {self.leeway} is longer than 10m")
        if self.max_lifetime is not None and self.max_lifetime.ns < 1_000_000_000:
            raise ValueError(f"max_lifetime: {self.max_lifetime} is shorter than 1s")
        for i, each in enumerate(self.types):
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z/-]+", each):
                raise ValueError(f"types[{i}]: {each!r} is not a type such as 'at+jwt'")

    # ---- what follows from it ------------------------------------------------------------

    @property
    def discovers(self) -> bool:
        """Whether it is asked where its keys are."""
        return self.jwks_uri is None and self.keys is None and self.secret is None

    @property
    def fetches(self) -> bool:
        """Whether its keys are fetched."""
        return self.keys is None and self.secret is None

    @property
    def asks_by_https(self) -> bool:
        """Whether its keys are fetched by https, as far as the document says."""
        return self.fetches and (self.jwks_uri or self.issuer).startswith("https:")

    @property
    def accepted(self) -> list[str]:
        """The algorithms that are accepted."""
        if self.algorithms:
            return list(self.algorithms)
        return list(ASYMMETRIC) if self.secret is None else ["HS256"]

    def reachable(self, url: str) -> bool:
        """Whether control may ask at this address: https, or http where nobody is between."""
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            return False
        if host is None or parts.scheme not in ("http", "https"):
            return False
        return parts.scheme == "https" or self.insecure or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, in any case."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address that was checked."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    return parts.scheme, parts.hostname or "", port


def split_url(field: str, url: str) -> SplitResult:
    """The parts of an address. Raises ValueError for one that nobody could ask."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{field}: {url!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{field}: {url!r} does not begin with 'https://' and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{field}: names and passwords do not belong into an address")
    if parts.fragment:
        raise ValueError(f"{field}: {url!r} has a fragment, which is never sent")
    if not (host_name(host) or is_address(host)) or port == 0:
        raise ValueError(f"{field}: {host!r} is not a host")
    return parts


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
