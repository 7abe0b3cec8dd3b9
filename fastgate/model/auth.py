# ruff: noqa: RUF012 - msgspec copies the mutable defaults of a struct for each instance
"""Authentication: what a caller of a route must send to prove who it is.

    none                    nobody is asked
    one method              api_key, jwt, introspection, mtls, basic, signature, hmac, forward
    any: [methods]          the first one whose credential is in the request decides
    all: [methods]          each of them must succeed

A credential leads to a consumer: of the document, or of the store. Who issues tokens is under
`issuers` (`model/issuer.py`); what a consumer can show is under `consumers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, field

from fastgate.model.base import Model, Token, only_one, worded
from fastgate.model.caller_fields import check_caller_fields
from fastgate.model.policy import UNTOUCHABLE
from fastgate.model.tls import AuthorityName
from fastgate.model.units import Duration

METHODS = ("api_key", "jwt", "introspection", "mtls", "basic", "signature", "hmac", "forward")
"""The ways to prove who calls, as in documents."""
TOKEN_METHODS = frozenset({"jwt", "introspection"})
"""Those whose credential is a token, which has scopes."""
EVERY_METHOD = "*"
"""Of scopes: every HTTP method that is not listed."""
MOST_METHODS = 8
"""Of `any` and `all`."""

Scope = Annotated[
    str,
    Meta(
        pattern=worded(
            r"^[\x21\x23-\x5b\x5d-\x7e]{1,128}$",
            "a scope: 1 to 128 characters without spaces, quotes and backslashes",
        )
    ),
]
Scopes = Annotated[
    dict[Token, list[Scope]],
    Meta(
        extra_json_schema={
            "type": ["object", "array", "string"],
            "items": {"type": "string"},
        },
    ),
]
"""Scopes that a token must have: by HTTP method, `*` for all that are not listed. A list stands for
`{"*": [...]}`."""

REALM = worded(
    r"^[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}$", "a realm: 1 to 64 characters without quotes and \\"
)


class ApiKeyAuth(Model, frozen=True, kw_only=True):
    """How an API key is sent. Keys are stored and compared as digests."""

    header: Annotated[
        Token | None, Meta(description="The header that may hold the key; null: none.")
    ] = "X-Api-Key"
    query: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^[A-Za-z0-9._~-]{1,64}$",
                    "the name of a query parameter: 1 to 64 letters, digits, '.', '_', '~' or '-'",
                )
            ),
        ]
        | None,
        Meta(
            description="The query parameter that may hold the key. Default: none, since "
            "addresses end up in logs and histories."
        ),
    ] = None
    bearer: Annotated[
        bool, Meta(description="Whether `Authorization: Bearer KEY` is taken as well.")
    ] = True
    optional: Annotated[
        bool,
        Meta(description="Let requests without a key pass, as nobody. A wrong key is refused."),
    ] = False
    forward: Annotated[
        bool, Meta(description="Leave the key in the request that the upstream gets.")
    ] = False

    def __post_init__(self) -> None:
        if self.header is None and self.query is None and not self.bearer:
            raise ValueError("no way to show a key is left: give header, query or bearer")
        if self.header is not None and self.header.lower() in UNTOUCHABLE | {"cookie"}:
            raise ValueError(f"header: {self.header!r} has another meaning and cannot hold a key")


class JwtAuth(Model, frozen=True, kw_only=True):
    """A signed token (JWT), sent as `Authorization: Bearer TOKEN`."""

    issuer: Annotated[
        list[str],
        Meta(
            min_length=1,
            max_length=16,
            description="Who may have issued it: names of `issuers`. The token's `iss` says which.",
        ),
    ]
    scopes: Annotated[
        Scopes,
        Meta(
            description="Scopes that the token must have, else 403: `[orders:read]`, or by HTTP "
            'method, `{GET: [orders:read], "*": [orders:write]}`. `*` is for all methods that '
            "are not listed; HEAD needs what GET needs, unless it is listed."
        ),
    ] = {}
    forward: Annotated[
        bool, Meta(description="Leave the token in the request that the upstream gets.")
    ] = False

    def __post_init__(self) -> None:
        check_twice("issuer", self.issuer)


class IntrospectionAuth(Model, frozen=True, kw_only=True):
    """A token about which its issuer is asked (RFC 7662), sent as `Authorization: Bearer TOKEN`."""

    issuer: Annotated[
        str,
        Meta(description="Who is asked: a name of `issuers`, which has `introspection`."),
    ]
    scopes: Annotated[
        Scopes, Meta(description="Scopes that the token must have, as in `jwt`.")
    ] = {}
    forward: Annotated[
        bool, Meta(description="Leave the token in the request that the upstream gets.")
    ] = False


class MtlsAuth(Model, frozen=True, kw_only=True):
    """A client certificate that is a consumer's (`consumers[].certificates`). To accept every
    certificate of an authority, use the route's `client_certificate`."""

    authorities: Annotated[
        list[AuthorityName],
        Meta(min_length=1, description="Who may have issued it, by name."),
    ]
    forward: Annotated[
        bool,
        Meta(
            description="Send the certificate to the upstream, in `Client-Cert` and "
            "`Client-Cert-Chain` (RFC 9440)."
        ),
    ] = False

    def __post_init__(self) -> None:
        check_twice("authorities", self.authorities)


class BasicAuth(Model, frozen=True, kw_only=True):
    """A user and a secret (`consumers[].basic`), sent as `Authorization: Basic …` (RFC 7617)."""

    realm: Annotated[
        Annotated[str, Meta(pattern=REALM)] | None,
        Meta(description="Shown by browsers that ask for them. Default: that of the gateway."),
    ] = None
    forward: Annotated[
        bool, Meta(description="Leave them in the request that the upstream gets.")
    ] = False


def _request_itself() -> list[str]:
    return ["@method", "@target-uri"]


class SignatureAuth(Model, frozen=True, kw_only=True):
    """A signature of the request (RFC 9421): of a consumer's key pair with `signature`, of a secret
    that it shares with the gateway with `hmac`."""

    components: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    pattern=worded(
                        r"^(@(method|target-uri|authority|scheme|request-target|path|query)"
                        r"|[a-z0-9!#$%&'*+.^_`|~-]{1,64})$",
                        "a component of RFC 9421: a field's name in lower case, or '@method', "
                        "'@target-uri', '@authority', '@scheme', '@request-target', '@path' or "
                        "'@query'",
                    )
                ),
            ]
        ],
        Meta(
            min_length=1,
            max_length=32,
            description="What the signature must cover at least. With `content-digest`, the body "
            "is compared with that field.",
        ),
    ] = field(default_factory=_request_itself)
    max_age: Annotated[
        Duration, Meta(description="The oldest `created` that is accepted; 1s to 1h.")
    ] = Duration.parse("5m")
    nonce: Annotated[
        bool,
        Meta(description="Require a `nonce`, and refuse a request whose nonce was used before."),
    ] = True

    def __post_init__(self) -> None:
        check_twice("components", self.components)
        if not 1_000_000_000 <= self.max_age.ns <= 3_600_000_000_000:
            raise ValueError(f"max_age: {self.max_age} is not from 1s to 1h")


class ForwardAuth(Model, frozen=True, kw_only=True):
    """Another service decides. It gets the request without its body. 2xx lets the request pass;
    3xx, 401 and 403 go to the client; anything else is a 503."""

    url: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^https?://[\x21\x23-\x3b\x3d\x3f-\x7e]{1,1000}$",
                    "an address that begins with 'http://' or 'https://', without spaces, quotes, "
                    "'<' or '>'",
                )
            ),
        ]
        | None,
        Meta(description="Its address."),
    ] = None
    upstream: Annotated[
        str | None,
        Meta(description="The upstream that it is at instead, by name, with `path`."),
    ] = None
    path: Annotated[
        Annotated[
            str,
            Meta(
                pattern=worded(
                    r"^/[\x21-z|~]{0,1000}$",
                    "a path that begins with '/', without spaces or braces",
                )
            ),
        ]
        | None,
        Meta(description="With `upstream`: its path there. Default: `/`."),
    ] = None
    send: Annotated[
        list[Token],
        Meta(description="The client's header fields that it gets. Empty: all of them."),
    ] = []
    headers: Annotated[
        list[Token],
        Meta(
            description="Header fields of its answer that the upstream gets. What clients send in "
            "these fields is removed."
        ),
    ] = []
    consumer: Annotated[
        Token | None,
        Meta(
            description="The header field of its answer that has the consumer's id. Default: none; "
            "the caller is nobody."
        ),
    ] = None
    timeout: Annotated[Duration, Meta(description="The time for its answer; 503 after it.")] = (
        Duration.parse("2s")
    )

    def __post_init__(self) -> None:
        given = [name for name in ("url", "upstream") if getattr(self, name) is not None]
        only_one("give url or upstream", given)
        if self.path is not None and self.upstream is None:
            raise ValueError("path: it is a part of url; leave it out")
        check_caller_fields("headers", self.headers)
        if not 1_000_000 <= self.timeout.ns <= 60_000_000_000:
            raise ValueError(f"timeout: {self.timeout} is not from 1ms to 1m")


Method = (
    ApiKeyAuth | JwtAuth | IntrospectionAuth | MtlsAuth | BasicAuth | SignatureAuth | ForwardAuth
)


class _Methods(Model, frozen=True, kw_only=True):
    """The methods as fields; an empty one is not used."""

    api_key: Annotated[ApiKeyAuth | None, Meta(description="An API key.")] = None
    jwt: Annotated[JwtAuth | None, Meta(description="A signed token (JWT) of an issuer.")] = None
    introspection: Annotated[
        IntrospectionAuth | None,
        Meta(description="A token about which the issuer is asked (RFC 7662)."),
    ] = None
    mtls: Annotated[
        MtlsAuth | None, Meta(description="A client certificate that is a consumer's.")
    ] = None
    basic: Annotated[BasicAuth | None, Meta(description="A user and a secret (HTTP Basic).")] = None
    signature: Annotated[
        SignatureAuth | None,
        Meta(description="A signature of the request by a consumer's key pair (RFC 9421)."),
    ] = None
    hmac: Annotated[
        SignatureAuth | None,
        Meta(description="A signature of the request with a shared secret (RFC 9421)."),
    ] = None
    forward: Annotated[ForwardAuth | None, Meta(description="Another service decides.")] = None

    @property
    def given(self) -> list[tuple[str, Method]]:
        """The methods that are used, each with its name."""
        found = ((name, getattr(self, name)) for name in METHODS)
        return [(name, method) for name, method in found if method is not None]


class AuthMethod(_Methods, frozen=True, kw_only=True):
    """One method of `any` or `all`: a mapping with one key. Words alone are methods with their
    defaults."""

    def __post_init__(self) -> None:
        only_one(f"give exactly one of {', '.join(METHODS)}", [name for name, _ in self.given])

    @property
    def kind(self) -> str:
        """Its name."""
        return self.given[0][0]

    @property
    def method(self) -> Method:
        """What it says."""
        return self.given[0][1]


class Auth(_Methods, frozen=True, kw_only=True):
    """What a caller must send: one method, or several in `any` or `all`. Empty: nothing."""

    any: Annotated[
        list[AuthMethod],
        Meta(
            max_length=MOST_METHODS,
            description="Several methods. The first one whose credential is in the request "
            "decides; a wrong credential is refused, whatever else is there.",
        ),
    ] = []
    all: Annotated[
        list[AuthMethod],
        Meta(max_length=MOST_METHODS, description="Several methods, all of which must succeed."),
    ] = []
    optional: Annotated[
        bool,
        Meta(
            description="Let requests without a credential pass, as nobody. A wrong one is refused."
        ),
    ] = False
    anonymous: Annotated[
        Annotated[str, Meta(min_length=1, max_length=96)] | None,
        Meta(
            description="Let requests without a credential pass as this consumer: a name or id of "
            "`consumers`, or the id of a stored one. A wrong credential is refused."
        ),
    ] = None
    scopes: Annotated[
        Scopes,
        Meta(
            description="Scopes that the token must have, as in `jwt`. For `any`, only if each of "
            "its methods takes tokens."
        ),
    ] = {}

    def __post_init__(self) -> None:
        given = [name for name, _ in self.given]
        forms = [*given, *(name for name in ("any", "all") if getattr(self, name))]
        if len(forms) > 1:
            raise ValueError(
                f"{' and '.join(forms)} together: write `any: [{', '.join(given) or '…'}]` if one "
                "of several methods is enough, or `all`"
            )
        for name in ("optional", "anonymous", "scopes"):
            if getattr(self, name) and not forms:
                raise ValueError(f"{name}: no method is given, so nothing is asked for")
        if self.optional and self.anonymous is not None:
            raise ValueError("optional: leave it out; `anonymous` says who those callers are")
        for where in ("any", "all"):
            _check_list(where, getattr(self, where))
        if self.api_key is not None and self.api_key.optional and self.anonymous is not None:
            raise ValueError("api_key.optional: leave it out; `anonymous` says who they are")
        self._check_scopes()

    def _check_scopes(self) -> None:
        kinds = [kind for kind, _ in self.methods]
        with_tokens = [kind in TOKEN_METHODS for kind in kinds]
        if self.scopes and not (all(with_tokens) if self.any else any(with_tokens)):
            other = next(kind for kind in kinds if kind not in TOKEN_METHODS)
            raise ValueError(
                f"scopes: only tokens have scopes, and {other} is no token; write them into jwt "
                "or introspection"
                if any(with_tokens)
                else f"scopes: only tokens have scopes, and {other} is no token; leave them out, "
                "or limit access with plans"
            )
        for kind, method in self.methods:
            if self.scopes and isinstance(method, JwtAuth | IntrospectionAuth) and method.scopes:
                raise ValueError(f"scopes: they are in {kind}, too; write them once")

    @property
    def methods(self) -> list[tuple[str, Method]]:
        """All methods, each with its name, in the order in which they are tried."""
        return self.given or [each for one in (*self.any, *self.all) for each in one.given]

    @property
    def passes_nobody(self) -> bool:
        """Whether a request without a credential passes as nobody."""
        kinds = self.methods
        keys = [method.optional for _, method in kinds if isinstance(method, ApiKeyAuth)]
        return self.optional or (len(kinds) == 1 and keys == [True])

    @property
    def identifies(self) -> bool:
        """Whether callers are consumers, apart from those that pass as nobody."""
        return any(
            not isinstance(method, ForwardAuth) or method.consumer is not None
            for _, method in self.methods
        )

    def scopes_of(self, method: JwtAuth | IntrospectionAuth) -> dict[str, list[str]]:
        """The scopes that a token of one of its methods must have, by HTTP method."""
        return self.scopes or method.scopes

    def places(self) -> Iterator[tuple[str, str, Method]]:
        """All methods: the place below `auth`, the name, what it says."""
        for name, method in self.given:
            yield name, name, method
        for where in ("any", "all"):
            for i, one in enumerate(getattr(self, where)):
                yield f"{where}[{i}].{one.kind}", one.kind, one.method


def _check_list(where: str, methods: list[AuthMethod]) -> None:
    kinds = [one.kind for one in methods]
    for i, one in enumerate(methods):
        if one.kind in kinds[:i]:
            raise ValueError(
                f"{where}[{i}]: {one.kind} is there twice"
                + ("; list the issuers in one: `{jwt: [a, b]}`" if one.kind == "jwt" else "")
            )
        if one.api_key is not None and one.api_key.optional:
            raise ValueError(f"{where}[{i}]: write `optional` beside `{where}`")
        if where == "any" and one.kind == "forward" and one is not methods[-1]:
            raise ValueError(
                f"{where}[{i}]: forward decides about every request, so no method after it would "
                "be tried; write it last"
            )


def check_twice(field: str, names: list[str]) -> None:
    """Raise ValueError if a name is there twice."""
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{field}[{i}]: {name!r} is there twice")
